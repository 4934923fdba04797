"""Errors of databases and files, told to people."""

from __future__ import annotations


def in_a_line(error: Exception) -> str:
    """What an error says, in its first line; what a driver says where SQLAlchemy has wrapped it.

    >>> in_a_line(OSError())
    'OSError'
    """
    return (str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__])[0]
