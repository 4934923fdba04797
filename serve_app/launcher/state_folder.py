"""The state folder while a system runs on it: one system at a time, with room, and nothing left of a killed one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator

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
    with state.lock.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise CannotRun(
                f"STATE {state.root} is held by process {lock.read().strip() or '?'}; stop it, or give another STATE="
            ) from None
        os.set_inheritable(lock.fileno(), False)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


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
