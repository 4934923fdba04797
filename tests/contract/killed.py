"""Nights that die at chosen places: `python -m tests.contract.killed` reads `before|after MODULE.FUNCTION` or
`before|after MODULE.CLASS.METHOD` a line.

Each is a process of its own, forked from this one, which has imported everything and begun nothing; its exit code is
told in a line.
"""

from __future__ import annotations

import inspect
import os
import pkgutil
import signal
import sys
from collections.abc import Callable
from typing import Any

from training.nightly import cli


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
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            os.dup2(2, 1)
            when, where = line.split()
            home, _, name = where.rpartition(".")
            owner = pkgutil.resolve_name(home)  # a module, or a class in one
            setattr(owner, name, deadly(getattr(owner, name), when))
            os._exit(cli.main(["--in-process", "--json"]))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
