"""Processes of one system: how they are known, stopped, and none left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable, Sequence

import psutil

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


def descendants(pid: int, title: str = "") -> list[int]:
    """Ids of all processes below one, or of those whose title begins so; none if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [
            child.pid for child in psutil.Process(pid).children(recursive=True) if title_of(child).startswith(title)
        ]
    return []


def group(leader: int) -> list[int]:
    """Ids of the processes of a process group, wherever they hang."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) == leader:
                found.append(pid)
    return found


def title_of(process: psutil.Process) -> str:
    """Its command line, or the title that it has given itself; empty if it has ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def marked(name: str, program: str | None = None) -> list[int]:
    """Ids of the processes that belong to a system, or of those that run one program; this process is left out.

    Other users' processes, whose environment may not be read, are left out, too.
    """
    return [
        process.pid
        for process in psutil.process_iter(["environ", "name"])
        if process.pid != os.getpid()
        and (process.info["environ"] or {}).get(MARK) == name
        and program in (None, process.info["name"])
    ]


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
    """Whether it runs: one that has ended and waits for its parent to take note of it does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
