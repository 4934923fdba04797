"""What the person who typed `make run` reads: progress, and the last word."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

STARTED = time.monotonic()
TERMINAL = os.fdopen(os.dup(sys.stdout.fileno()), "w")
ERRORS = os.fdopen(os.dup(sys.stderr.fileno()), "w")
"""Where progress and the last word go, also after the rest of this process's output has been sent to a file."""


def say(text: str) -> None:
    """One line of progress, seconds since the start before it."""
    with contextlib.suppress(OSError):  # whoever read it may have gone: `make run | tee log`, and Ctrl-C
        print(f"[{time.monotonic() - STARTED:5.1f} s] {text}", file=TERMINAL, flush=True)


def say_ready(line: str) -> None:
    """The line that begins with `ready`, which programs wait for."""
    print(line, file=TERMINAL, flush=True)


def refuse(reason: str) -> None:
    """Why nothing runs, in one line."""
    print(f"cannot run: {reason}", file=ERRORS, flush=True)


def send_output_to(file: Path) -> None:
    """From now on what this process writes goes to a file, except what is said here."""
    with file.open("ab") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
