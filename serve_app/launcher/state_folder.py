"""The state folder while a system runs on it: one system at a time, with room, and nothing left of a killed one."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from db.errors import file_error
from db.sqlite_file import file_of, look_at
from db.state import State
from serve_app.launcher import processes
from serve_app.launcher.errors import CannotRun
from serve_app.launcher.machine import check_room
from serve_app.launcher.terminal import say
from serve_app.settings import Settings

LEAST_FREE_BYTES, LEAST_SCRATCH_BYTES = 512 << 20, 64 << 20
OTHERS = ("redis", "history")
"""Folders in it whose names their users choose."""


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


def make(state: State) -> None:
    """The folder, if there is none yet.

    Raises:
        CannotRun: it cannot be made, or something in it is of the wrong kind or not for this user.
    """
    if state.root.exists() and not state.root.is_dir():
        raise CannotRun(f"STATE={state.root} is a file, not a folder; name another")
    try:
        state.make()
    except OSError as error:
        raise CannotRun(f"the folder STATE={state.root} cannot be made: {file_error(error)}") from None
    _check_rights(state)


def check(state: State, settings: Settings) -> None:
    """Room and database, as far as they can be known within milliseconds: nobody should wait for Ray to hear of them.

    Raises:
        CannotRun: there is no room.
        CannotMigrate: the database cannot be used.
    """
    check_room(state.root, LEAST_FREE_BYTES)
    file = file_of(str(settings.database.at(state).url))
    if file is not None:
        look_at(file)


def _check_rights(state: State) -> None:
    """Raises: CannotRun, something in the folder is of the wrong kind, or this user may not use it."""
    _require_rights(state.root, os.R_OK | os.W_OK | os.X_OK)
    if os.statvfs(state.root).f_flag & os.ST_RDONLY:
        raise CannotRun(f"STATE={state.root} is on a disk that can only be read; name another folder")
    folders = {state.logs, state.models, state.reports, state.registry, state.night, *map(state.root.joinpath, OTHERS)}
    for path in sorted(filter(Path.exists, folders)):
        if not path.is_dir():
            raise CannotRun(f"{path} is a file where a folder belongs; remove it, and it is made anew")
        _require_rights(path, os.R_OK | os.W_OK | os.X_OK)
    keys = {state.jwt_secret, state.ray_token, state.model_key}
    for path in sorted(filter(Path.exists, {state.run, state.lock, *keys})):
        if not path.is_file():
            raise CannotRun(f"{path} is no file; remove it, and it is made anew")
        _require_rights(path, os.R_OK if path in keys else os.R_OK | os.W_OK)


def _require_rights(path: Path, rights: int) -> None:
    if not os.access(path, rights):
        what = "read and write" if rights & os.W_OK else "read"
        me, owner = user_of(os.geteuid()), user_of(path.stat().st_uid)
        raise CannotRun(
            f"this user, {me}, may not {what} {path} of {owner}; change that, or name another folder: STATE=…"
        )


def user_of(uid: int) -> str:
    """Its name, or its number where it has none, as in a container."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def make_scratch(state: State) -> None:
    """The folder of sockets and of Ray's session, outside of the state folder.

    Raises:
        CannotRun: it cannot be made, is another user's, or has no room.
    """
    scratch = state.scratch
    try:
        scratch.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise CannotRun(f"sockets and Ray's session need the folder {scratch}: {file_error(error)}") from None
    if (owner := scratch.stat().st_uid) != os.getuid():
        raise CannotRun(f"{scratch} belongs to {user_of(owner)}; remove it, or give another folder: STATE=…")
    check_room(scratch, LEAST_SCRATCH_BYTES)


def remove_empty_scratch(state: State) -> None:
    """At the end of a run. It is kept where it still has Ray's logs, or what the node has found out about models."""
    with contextlib.suppress(OSError):
        state.scratch.rmdir()
