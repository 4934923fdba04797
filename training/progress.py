"""What a night tells of its steps while it runs, and remembers of them for its summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

STEPS = ("etl", "features", "fit", "gate", "lambda", "publish", "swap", "verify")
Say = Callable[[str], None]
"""Takes a line for whoever watches."""
KEPT_WORDS = "kept from the run before"


class Done(Protocol):
    """What a step calls once its work is done."""

    def __call__(self, words: str, *, kept: bool = False) -> None:
        """
        Args:
            words: what the step has done.
            kept: an earlier run had.
        """


class Progress:
    """Tells each step as it ends, and remembers how long it took."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.now: str | None = None
        self.seconds: dict[str, float] = {}
        self.kept: list[str] = []
        self.warnings: list[str] = []

    @contextmanager
    def step(self, name: str) -> Iterator[Done]:
        """Call what it gives once the step has done its work."""
        self.now, started, line = name, time.monotonic(), ""

        def done(words: str, *, kept: bool = False) -> None:
            nonlocal line
            line = f"{words}: {KEPT_WORDS}" if kept else words
            if kept:
                self.kept.append(name)

        if name == "fit":  # the long one
            self.say(f"  {_number(name)} fit …")
        yield done
        taken = time.monotonic() - started
        self.seconds[name] = round(taken, 3)
        self.say(f"  {_number(name)} {name}: {line} ({taken:.1f} s)")

    def warn(self, line: str) -> None:
        """Say it as a warning, and remember it for the summary."""
        self.warnings.append(line.removeprefix("warning: "))
        self.say(f"warning: {line.removeprefix('warning: ')}")

    def relay(self, line: str) -> None:
        """What a helper says: its warnings belong into the summary, too."""
        if line.startswith("warning: "):
            self.warn(line)
        else:
            self.say(line)


def _number(step: str) -> str:
    return f"[{STEPS.index(step) + 1}/{len(STEPS)}]"
