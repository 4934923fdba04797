"""This program's own text: whoever keeps what a program has made asks here whether it is still the same program."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


@functools.cache
def digest() -> str:
    """SHA-256 of every module of this package, sub-packages included, with the path that it is imported by.

    Returns:
        64 hexadecimal digits; others once a module was changed, added, renamed or removed.
    """
    return digest_of(FOLDER)


def digest_of(folder: Path) -> str:
    """As `digest`, of any folder."""
    hashed = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        hashed.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode())
        hashed.update(content)
    return hashed.hexdigest()
