"""Writes files whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A draft beside `path` to write to. It is renamed to `path` at the end of the block, or removed if that fails.

    Readers see the old content or the new one, never a part of it. The draft's name is new each time, so that two
    writers do not write into the same file; the one that ends last wins.

    Args:
        durable: flush it to disk before it is renamed, so that a power cut leaves the old content or the new one.

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
    """Wait until a file's content, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
