"""The sandbox's child process: predicts a version's golden rows. `python -m training.model.verify CPU_S BYTES`.

Exit code 0 if they match the manifest, with the compiled tables for the node's replicas on standard output; `REFUSED`
if not. The caller, `sandbox.py`, has checked signature and hashes; this shows that the version works. Only the library
that grew the trees predicts here: without numba the test takes half the time, and a replica compares the compiled
tables with the library itself.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from db.command_line import Command, commands, run

if TYPE_CHECKING:
    from training.model.model import Model
    from training.trees.bitvector_tables import Prepared

NICE = 5
"""Lower priority than the replicas, which go on answering; when all are busy it still gets a third of one's share."""


HELP = """Try a model version in a process of its own, before anything trusts it.

Paceline runs it by itself, once a node for each new version. It reads the version on stdin, as
training/model/sandbox.py writes it, predicts the rows that the version was published with (its golden rows), and
compares. On stdout it writes the tables that the node's replicas load.

Examples:
  paceline verify 10 4294967296 < version

Exit codes:
  0  the predictions agree
  2  a wrong option
  3  they do not, or the version cannot be read; stderr says why
"""

app = commands()


@app.command("verify", cls=Command, help=HELP, hidden=True)
def verify(
    cpu_s: Annotated[int, typer.Argument(metavar="CPU_S", help="Seconds of CPU that it may take.", min=1)],
    memory_bytes: Annotated[int, typer.Argument(metavar="BYTES", help="Memory that it may take.", min=1)],
) -> None:
    _confine(cpu_s, memory_bytes)
    _without_frames()
    # Imported only now, so that the limits cover the imports, too.
    from training.model.bundle import ModelRefused
    from training.model.model import golden_agrees
    from training.model.sandbox import REFUSED
    from training.trees import bitvector_tables

    try:
        model, texts = _received(sys.stdin.buffer.read())
        agrees = golden_agrees(model)
    except Exception as error:  # a signed version may hold anything
        print(error.reason if isinstance(error, ModelRefused) else f"cannot be read: {error!r}", file=sys.stderr)
        raise typer.Exit(REFUSED) from None
    if not agrees:
        print("its predictions for the golden rows differ from those in its manifest", file=sys.stderr)
        raise typer.Exit(REFUSED)
    sys.stdout.buffer.write(bitvector_tables.packed(_prepared(texts)))


def _confine(cpu_s: int, memory_bytes: int) -> None:
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _without_frames() -> None:
    """Keep pandas and pyarrow from being imported: nothing here needs data frames, and LightGBM would import them,
    which takes a third of this process's time."""
    sys.modules["pandas"] = ModuleType("pandas")
    sys.modules["pyarrow"] = None  # type: ignore[assignment]  # importing it fails


def _received(data: bytes) -> tuple[Model, dict[str, str]]:
    """(the version, its texts) that `verify_in_child` has sent; it predicts by the library that grew the trees."""
    from training.model.model import Model

    line, _, rest = data.partition(b"\n")
    head = json.loads(line)
    texts: dict[str, str] = {}
    for file, size in head["files"].items():
        texts[file], rest = rest[:size].decode(), rest[size:]
    return Model.opened(head["manifest"], texts, form=lambda reference, _rows: reference), texts


def _prepared(texts: Mapping[str, str]) -> Prepared:
    """The compiled tables of every file that holds trees, or why they cannot be compiled."""
    from training.trees import bitvector_tables
    from training.trees.tree_format import LIGHTGBM_BEGINS, XGBOOST_BEGINS, NotCompilable

    found: dict[str, bitvector_tables.Ready | str] = {}
    for text in texts.values():
        if text.startswith((LIGHTGBM_BEGINS, XGBOOST_BEGINS)):
            try:
                found[bitvector_tables.digest(text)] = bitvector_tables.ready(text)
            except NotCompilable as reason:
                found[bitvector_tables.digest(text)] = str(reason)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    return run(app, "python -m training.model.verify", arguments)


if __name__ == "__main__":
    sys.exit(main())
