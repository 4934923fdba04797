"""Runs benchmarks, all (`make bench`) or some (`python -m bench PART …`), and writes bench/results.md."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from bench import auctions, etl, http, learning, ledger, memory, night, scaling, stages, startup, swap, trees

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results.md"
TITLE = "# Results of `make bench`"
PARTS: dict[str, Callable[[Sequence[str]], str | None]] = {
    "http": http.main,
    "stages": stages.main,
    "trees": trees.main,
    "memory": memory.main,
    "scaling": scaling.main,
    "startup": startup.main,
    "swap": swap.main,
    "ledger": ledger.main,
    "etl": etl.main,
    "night": night.main,
    "learning": learning.main,
    "auctions": auctions.main,
}


def main(argv: Sequence[str]) -> int:
    """Measure how fast and how frugal Paceline is, next to other ways of doing the same; minutes for each part."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=main.__doc__, add_help=not argv[1:])
    parser.add_argument("part", nargs="?", choices=PARTS, help="one part only; its own options follow it")
    asked, more = parser.parse_known_args(argv[:1])
    failed = False
    for name in PARTS if asked.part is None else [asked.part]:
        found = PARTS[name]([*more, *argv[1:]])
        if found is None:
            failed = True
        else:
            print(f"{found}\n", flush=True)
            record(name, found)
    return int(failed)


def record(name: str, found: str) -> None:
    """Replace a part's section in bench/results.md."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    head = (
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC, commit {commit or '–'}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, ray {version('ray')}, lightgbm {version('lightgbm')}."
    )
    text = RESULTS.read_text() if RESULTS.exists() else ""
    parts = dict(re.findall(r"^## (\w+)\n\n(.*?)\n*(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL))
    parts[name] = f"{head}\n\n{found}"
    sections = [f"## {part}\n\n{parts[part]}\n" for part in PARTS if part in parts]
    RESULTS.write_text("\n".join([TITLE, "", *sections]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
