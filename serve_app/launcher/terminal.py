"""What the person who typed `make run` reads: progress, and the last word."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import NoReturn

STARTED = time.monotonic()
OUTPUT, ERRORS = 1, 2  # descriptors


def say(text: str) -> None:
    """One line of progress, seconds since the start before it. Signal handlers may call it."""
    _write(OUTPUT, f"[{time.monotonic() - STARTED:5.1f} s] {text}")


def say_ready(line: str) -> None:
    """The line that begins with `ready`, which programs wait for."""
    _write(OUTPUT, line)


def refuse(reason: str) -> None:
    """Why nothing runs, in one line."""
    _write(ERRORS, f"cannot run: {reason}")


def _write(where: int, line: str) -> None:
    """In one go and without a buffer: a handler may interrupt it."""
    with contextlib.suppress(OSError):  # whoever read it may have gone: `make run | tee log`, and Ctrl-C
        os.write(where, f"{line}\n".encode())


def leave(code: int) -> NoReturn:
    """End this process at once: threads that were broken off may still be at work, and nobody waits for them."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)
