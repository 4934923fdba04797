"""Tests a model version in a child process, because a damaged model file aborts the process that loads it."""

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
"""The child's exit code for a version that cannot be used."""
KILLED = (-signal.SIGKILL, -signal.SIGTERM)
"""Exit codes that are not the version's fault: the machine ran out of memory, or somebody stops the system."""


class ResourceLimits(NamedTuple):
    """Limits of the child process. Too much CPU time is the version's fault; wall time may be the machine's."""

    cpu_s: int
    wall_s: float
    memory_bytes: int

    @classmethod
    def of(cls, texts: dict[str, str]) -> Self:
        """Ten times the usual need: 1 s and 150 MB for the libraries, and 0.25 s per megabyte of text."""
        size = sum(map(len, texts.values()))
        cpu_s = 10 + size // 400_000
        return cls(cpu_s, 3.0 * cpu_s, (4 << 30) + 50 * size)


def verify_in_child(manifest: dict[str, Any], texts: dict[str, str], limits: ResourceLimits | None = None) -> Prepared:
    """Load a version and predict its golden rows in a child process, whose crash harms nothing.

    Args:
        manifest, texts: as checked by `vouch`.
        limits: of the child; None: by the size of the texts.

    Returns:
        The compiled tables that the child has made of the texts, for the processes that load the version.

    Raises:
        ModelRefused: the child crashed, predicted something else, or needed too much CPU or memory.
        ModelUnavailable: the child took too long, was killed from outside, or could not start.
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
        raise ModelUnavailable(version, f"its test in a child process took longer than {limits.wall_s:g} s") from None
    except OSError as error:
        reason = f"its test in a child process could not start: {error.strerror or error}"
        raise ModelUnavailable(version, reason) from None
    return _answer(child, version, limits)


def _answer(child: subprocess.CompletedProcess[bytes], version: str, limits: ResourceLimits) -> Prepared:
    if child.returncode in KILLED:
        raise ModelUnavailable(version, "its test in a child process was killed from outside; is memory short?")
    if child.returncode == -signal.SIGXCPU:
        raise ModelRefused(version, f"its test in a child process needs more than {limits.cpu_s} s of CPU")
    last_line = (child.stderr.decode(errors="replace").strip().splitlines() or ["nothing"])[-1]
    if child.returncode == REFUSED:
        raise ModelRefused(version, last_line)
    if child.returncode == 1:  # Python's own exit code: it failed before it looked at the version
        raise ModelUnavailable(version, f"its test in a child process could not start: {last_line}")
    if child.returncode != 0:
        raise ModelRefused(version, f"it crashes the process that loads it (exit code {child.returncode})")
    from training.trees.bitvector_tables import unpacked

    try:
        return unpacked(child.stdout)
    except NotCompilable as error:
        raise ModelRefused(version, f"its test in a child process gave an unreadable result: {error}") from None
