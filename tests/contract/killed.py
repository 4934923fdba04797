"""A night that dies at a chosen place: `python -m tests.contract.killed before|after MODULE.FUNCTION`."""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from training import nightly


def deadly(function: Callable[..., Any], when: str) -> Callable[..., Any]:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def wait(*given: Any, **named: Any) -> None:
        if when == "after":
            await function(*given, **named)
        die()

    def call(*given: Any, **named: Any) -> None:
        if when == "after":
            function(*given, **named)
        die()

    return wait if inspect.iscoroutinefunction(function) else call


def main() -> int:
    when, where = sys.argv[1:]
    home, _, name = where.rpartition(".")
    module = importlib.import_module(home)
    setattr(module, name, deadly(getattr(module, name), when))
    return nightly.main(["--in-process", "--json"])


if __name__ == "__main__":
    sys.exit(main())
