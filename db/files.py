"""Files written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A file beside `path` to write to; it gets `path`'s name when the block ends, and is removed when the block fails.

    Readers see the old content or the new, never a part of it. Its name begins with a dot and is new each time, so that
    two writers do not write into each other's file; the one that ends last wins.

    Args:
        durable: on disk before it gets its name: a power cut leaves the old content or the new.

    Raises:
        OSError: it cannot be written, flushed or renamed.
    """
    draft = path.with_name(f".{secrets.token_hex(8)}.draft")
    try:
        yield draft
        if durable:
            sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def atomic_write(path: Path, content: str | bytes | memoryview, *, durable: bool = False) -> None:
    """Write a file as `atomic_path` does. Text is written as UTF-8, line ends as they are.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     atomic_write(Path(folder) / "λ.txt", "0.5\\n")
    ...     (Path(folder) / "λ.txt").read_text(encoding="utf-8")
    '0.5\\n'
    """
    with atomic_path(path, durable=durable) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
