"""What a night tells of its steps while it runs, and remembers of them for its summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STEPS = ("etl", "features", "fit", "gate", "lambda", "publish", "swap", "verify")
Say = Callable[[str], None]
"""Takes a line for whoever watches."""
KEPT_WORDS = "kept from the run before"


class Progress:
    """Tells each step as it ends, and remembers how long it took."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.now: str | None = None
        self.seconds: dict[str, float] = {}
        self.kept: list[str] = []
        self.warnings: list[str] = []

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Call what it gives with what the step has done."""
        self.now, started, told = name, time.monotonic(), [""]
        if name == "fit":  # the long one
            self.say(f"  {_number(name)} fit …")
        yield lambda words: told.append(words)
        taken = time.monotonic() - started
        self.seconds[name] = round(taken, 3)
        self.say(f"  {_number(name)} {name}: {told[-1]} ({taken:.1f} s)")

    def keeps(self, words: str) -> str:
        """The current step was finished by an earlier run."""
        self.kept.append(str(self.now))
        return f"{words}: {KEPT_WORDS}"

    def warn(self, line: str) -> None:
        self.warnings.append(line.removeprefix("warning: "))
        self.say(f"warning: {line.removeprefix('warning: ')}")

    def hear(self, line: str) -> None:
        """What a helper says: its warnings belong into the summary, too."""
        if line.startswith("warning: "):
            self.warn(line)
        else:
            self.say(line)


def _number(step: str) -> str:
    return f"[{STEPS.index(step) + 1}/{len(STEPS)}]"
