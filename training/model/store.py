"""Reads and writes a version's directory; a write appears completely or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from pathlib import Path

from db.files import atomic_write, sync
from training.model.bundle import FILES, MANIFEST, ModelRefused, ModelUnavailable, Parts

MOST_BYTES = 1 << 30
"""Largest file that is read."""


def parts_of(directory: Path) -> Parts:
    """What a version's directory holds, unchecked.

    Raises:
        ModelRefused: a file is missing, is not a regular file, is too large, or is not UTF-8.
        ModelUnavailable: a file exists but cannot be read.
    """
    texts: dict[str, str] = {}
    for file in (MANIFEST, *FILES):
        try:
            texts[file] = _read(directory / file).decode()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ModelRefused(directory.name, f"{file} is missing") from None
        except UnicodeDecodeError as error:
            raise ModelRefused(directory.name, f"{file} is not text: {error}") from None
        except OSError as error:
            kind = ModelRefused if error.errno in (errno.ELOOP, errno.EFBIG) else ModelUnavailable
            raise kind(directory.name, f"{file} cannot be read: {error.strerror or error}") from None
    try:
        return Parts(json.loads(texts.pop(MANIFEST)), texts)
    except (ValueError, RecursionError):
        raise ModelRefused(directory.name, f"{MANIFEST} is not JSON") from None


def _read(path: Path) -> bytes:
    """
    Raises:
        FileNotFoundError: there is no regular file; opening a pipe does not block.
        OSError: it cannot be read, or is too large.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(path)
        if status.st_size > MOST_BYTES:
            raise OSError(errno.EFBIG, f"it is larger than {MOST_BYTES:,} bytes")
        return file.read()


def write_version(directory: Path, version: str, parts: Parts) -> Path:
    """Write `directory/{version}`, which appears only when it is complete and on disk.

    Returns:
        The version's directory.

    Raises:
        OSError: it cannot be written; nothing is left behind.
        ModelRefused: the manifest holds a value that is not JSON.
    """
    final, files = directory / version, parts.files()
    directory.mkdir(parents=True, exist_ok=True)
    draft = directory / f".{version}.{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        for file, text in files.items():
            atomic_write(draft / file, text, durable=True)
        sync(draft)
        if final.exists():
            shutil.rmtree(final)
        draft.rename(final)
        sync(directory)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return final
