"""Errors of databases and files, told to people."""

from __future__ import annotations


class UserError(Exception):
    """Base of the errors that a person can cause and mend. The text says what happened, on what, and what to do.

    A command prints it and ends; it needs no traceback.
    """


class CannotMigrate(UserError):
    """The database cannot be used by this version."""


def in_a_line(error: Exception) -> str:
    """What an error says, in its first line; what a driver says where SQLAlchemy has wrapped it.

    >>> in_a_line(OSError())
    'OSError'
    """
    return (str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__])[0]
