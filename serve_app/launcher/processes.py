"""Processes of one system: how they are known, stopped, and none left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

MARK = "_PACELINE_SYSTEM"
"""Every process of a system inherits this variable; its value is the system's name. Some lose it: who gives itself a
title may write over its environment, as Ray's agents do."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def die_with_parent() -> None:
    """For `preexec_fn`: SIGTERM when the supervisor is gone, and no SIGINT from the terminal."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.setpgid(0, 0)


def adopt_orphans() -> None:
    """From now on whatever this process has started stays below it, though what lies between has ended."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def descendants(pid: int) -> list[int]:
    """Ids of all processes below one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(after_name[1]), []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        waiting += (below := children.get(waiting.pop(), []))
        found += below
    return found


def marked(name: str, program: str | None = None) -> list[int]:
    """Ids of the processes that belong to a system, or of those that run one program; this process is left out."""
    wanted = f"{MARK}={name}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            is_other = program is not None and (entry / "comm").read_text().strip() != program
            if not is_other and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:  # gone meanwhile, or another user's
            continue
    return found


def stop_softly(haproxies: Sequence[int], grace_s: float) -> None:
    """SIGUSR1: HAProxy closes its ports and ends when its last request has been answered."""
    _signal(haproxies, signal.SIGUSR1)
    _wait(haproxies, grace_s)


def end(pids: Iterable[int], grace_s: float) -> None:
    """SIGTERM, then SIGKILL for those that stay."""
    pids = list(pids)
    _signal(pids, signal.SIGTERM)
    _wait(pids, grace_s)
    _signal([pid for pid in pids if is_alive(pid)], signal.SIGKILL)


def reap(seconds: float) -> None:
    """Take note of the ends of all children, adopted ones too: nobody else may. Their `Popen`s are of no use then."""
    until = time.monotonic() + seconds
    with contextlib.suppress(ChildProcessError):  # none is left
        while time.monotonic() < until:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.05)


def _wait(pids: Sequence[int], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(is_alive(pid) for pid in pids):
        time.sleep(0.05)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
