"""Progress lines of a nightly run, and what its summary says of each step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

STEPS = ("etl", "features", "fit", "gate", "lambda", "publish", "swap", "verify")
Say = Callable[[str], None]
"""Shows a line to whoever watches the run; a warning begins with `warning: `."""
KEPT_WORDS = "kept from an earlier run"


class Done(Protocol):
    """What a step calls when its work is done."""

    def __call__(self, words: str, *, kept: bool = False) -> None:
        """
        Args:
            words: what the step has done, for its line.
            kept: whether an earlier run had done it.
        """


class Progress:
    """Says a line when a step ends, and keeps its duration, warnings and whether an earlier run had done it."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.now: str | None = None
        self.seconds: dict[str, float] = {}
        self.kept: list[str] = []
        self.warnings: list[str] = []

    @contextmanager
    def step(self, name: str) -> Iterator[Done]:
        """Run a step in this block; call what it gives when the step's work is done."""
        self.now, started, line = name, time.monotonic(), ""

        def done(words: str, *, kept: bool = False) -> None:
            nonlocal line
            line = f"{words}: {KEPT_WORDS}" if kept else words
            if kept:
                self.kept.append(name)

        if name == "fit":  # the only step that takes minutes
            self.say(f"  {_number(name)} fit …")
        yield done
        taken = time.monotonic() - started
        self.seconds[name] = round(taken, 3)
        self.say(f"  {_number(name)} {name}: {line} ({taken:.1f} s)")

    def warn(self, line: str) -> None:
        """Say the line as a warning, and keep it for the summary."""
        self.warnings.append(line.removeprefix("warning: "))
        self.say(f"warning: {line.removeprefix('warning: ')}")

    def relay(self, line: str) -> None:
        """Pass a line on; one that begins with `warning: ` is kept for the summary, too."""
        if line.startswith("warning: "):
            self.warn(line)
        else:
            self.say(line)


def _number(step: str) -> str:
    return f"[{STEPS.index(step) + 1}/{len(STEPS)}]"
