"""Errors that people read: what happened, on what, and what to do."""

from __future__ import annotations

import errno
import os

CURES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EACCES: "check who may read and write it",
    errno.EPERM: "check who may read and write it",
    errno.EROFS: "name another folder",
    errno.ENOENT: "check the name",
    errno.ENOTDIR: "check the name",
    errno.EISDIR: "name a file",
    errno.EEXIST: "name another",
    errno.ECONNREFUSED: "check the address, and that the server runs",
}
"""What to do about errors of files and sockets."""


class UserError(Exception):
    """Base of the errors that a person can cause and fix. The text says what happened, on what, and what to do.

    A command prints it as one line, without a traceback, and ends.
    """


class CannotMigrate(UserError):
    """This version cannot use the database."""


def in_a_line(error: BaseException) -> str:
    """The first line of an error's text; where SQLAlchemy has wrapped a driver's error, that of the driver's.

    >>> in_a_line(OSError())
    'OSError'
    """
    return (str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__])[0]


def file_error(error: OSError) -> str:
    """The file, what the system says of it, and what to do.

    >>> file_error(OSError(errno.ENOSPC, "No space left on device", "/data/decisions.csv"))
    '/data/decisions.csv: no space left on device; free some space'
    """
    words = error.strerror or in_a_line(error)
    where = f"{os.fspath(error.filename)}: " if isinstance(error.filename, str | os.PathLike) else ""
    cure = f"; {CURES[error.errno]}" if error.errno in CURES else ""
    return f"{where}{words[:1].lower() if where else words[:1]}{words[1:]}{cure}"


def database_cure(reason: str = "") -> str:
    """What to do about a database that cannot be used.

    Args:
        reason: what its driver says.

    >>> database_cure("database or disk is full")
    'free some space'
    """
    if "disk is full" in reason:
        return "free some space"
    if "malformed" in reason or "not a database" in reason:
        return "it is damaged: put a backup of it in its place, or give another state folder: STATE=…"
    if "readonly" in reason:
        return "run this as a user who may write it"
    if os.environ.get("PACELINE_DATABASE_URL"):
        return "check PACELINE_DATABASE_URL, and that the server runs"
    return "check the state folder (--state)"
