"""A hash of this package's source: stored results are used again only if the program that made them is unchanged."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


@functools.cache
def digest() -> str:
    """SHA-256 of the paths and contents of all modules of this package, sub-packages included.

    Returns:
        64 hexadecimal digits, which change when a module is changed, added, renamed or removed.
    """
    return digest_of(FOLDER)


def digest_of(folder: Path) -> str:
    """`digest` of any folder."""
    hashed = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        hashed.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode())
        hashed.update(content)
    return hashed.hexdigest()
