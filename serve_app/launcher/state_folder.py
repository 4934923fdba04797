"""The state folder while a system runs on it: one system at a time, with room, and nothing left of a killed one."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

from filelock import FileLock, Timeout

from db.state import State
from serve_app.launcher import processes
from serve_app.launcher.errors import CannotRun
from serve_app.launcher.terminal import say

LEAST_FREE_BYTES = 512 * 1024 * 1024


@contextlib.contextmanager
def locked(state: State) -> Iterator[None]:
    """The folder is this process's alone. The lock goes with the process, however it ends.

    Raises:
        CannotRun: another process has it.
    """
    lock = FileLock(state.lock, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        holder = state.lock.read_text(errors="replace").strip() or "?"
        raise CannotRun(
            f"STATE {state.root} is in use by process {holder}; stop it, or choose another folder with STATE="
        ) from None
    try:
        state.lock.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


def end_leftovers(state: State) -> None:
    """What a supervisor that was killed could not stop: HAProxy outlives its Ray."""
    name = state.running().get("system")
    if name:
        left = processes.marked(name)
        if left:
            say(f"ending {len(left)} processes that a killed run left behind")
            processes.end(left, 3.0)


def check_room(state: State) -> None:
    """Raises: CannotRun, the disk is nearly full."""
    free = shutil.disk_usage(state.root).free
    if free < LEAST_FREE_BYTES:
        raise CannotRun(
            f"no disk space: {state.root} has {free >> 20} MiB left, {LEAST_FREE_BYTES >> 20} MiB are needed"
        )
