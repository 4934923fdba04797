"""A version is tried in a child process first: a damaged model file aborts the process that loads it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from training.model.bundle import ModelRefused, ModelUnavailable
from training.trees.tree_format import NotCompilable

if TYPE_CHECKING:
    from training.trees.bitvector_tables import Prepared


REFUSED = 3
"""The child's exit code."""
KILLED = (-signal.SIGKILL, -signal.SIGTERM)
"""Nothing kills itself like this: memory ran out, or somebody stops the system."""


class ResourceLimits(NamedTuple):
    """Of the child process. Seconds of CPU are the version's own fault, those of the clock may be the machine's."""

    cpu_s: int
    wall_s: float
    memory_bytes: int

    @classmethod
    def of(cls, texts: dict[str, str]) -> Self:
        """Ten times what is usual: a second and 150 MB for the libraries, a quarter of a second for a megabyte."""
        size = sum(map(len, texts.values()))
        cpu_s = 10 + size // 400_000
        return cls(cpu_s, 3.0 * cpu_s, (4 << 30) + 50 * size)


def verify_in_child(manifest: dict[str, Any], texts: dict[str, str], limits: ResourceLimits | None = None) -> Prepared:
    """Load a version and predict its golden rows where a crash hurts nobody.

    Args:
        manifest, texts: as `vouch` vouches for them.

    Returns:
        What the child has made of the texts for those who load them next.

    Raises:
        ModelRefused: the child crashed, predicted something else, or needed too much of this machine.
        ModelUnavailable: the child took too long, was killed from outside, or could not begin.
    """
    version = str(manifest.get("version"))
    limits = limits or ResourceLimits.of(texts)
    files = {file: text.encode() for file, text in texts.items()}
    head = json.dumps({"manifest": manifest, "files": {file: len(data) for file, data in files.items()}})
    environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    try:
        child = subprocess.run(
            [sys.executable, "-m", "training.model.verify", str(limits.cpu_s), str(limits.memory_bytes)],
            input=b"".join([head.encode(), b"\n", *files.values()]),
            capture_output=True,
            timeout=limits.wall_s,
            env=environ,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModelUnavailable(version, f"its golden rows took longer than {limits.wall_s:g} s") from None
    except OSError as error:
        raise ModelUnavailable(version, f"no process for its golden rows: {error.strerror or error}") from None
    return _answer(child, version, limits)


def _answer(child: subprocess.CompletedProcess[bytes], version: str, limits: ResourceLimits) -> Prepared:
    if child.returncode in KILLED:
        raise ModelUnavailable(version, "the process that predicted its golden rows was killed")
    if child.returncode == -signal.SIGXCPU:
        raise ModelRefused(version, f"its golden rows take more than {limits.cpu_s} s of CPU")
    last_line = (child.stderr.decode(errors="replace").strip().splitlines() or ["nothing"])[-1]
    if child.returncode == REFUSED:
        raise ModelRefused(version, last_line)
    if child.returncode == 1:  # Python's own, before it came to the version
        raise ModelUnavailable(version, f"the process for its golden rows did not begin: {last_line}")
    if child.returncode != 0:
        raise ModelRefused(version, "it breaks the process it runs in")
    from training.trees.bitvector_tables import unpacked

    try:
        return unpacked(child.stdout)
    except NotCompilable as error:
        raise ModelRefused(version, f"its check said something odd: {error}") from None
