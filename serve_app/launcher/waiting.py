"""Waiting in a start: a stop signal ends it at once, and the screen says every ten seconds for what."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from serve_app.launcher.signals import raise_if_stopped
from serve_app.launcher.terminal import say

T = TypeVar("T")
LOOK_S, SAY_EVERY_S = 0.05, 10.0


def until(done: Callable[[], object], what: Callable[[], str], within_s: float = math.inf) -> bool:
    """Look again and again whether something is done.

    Args:
        what: what is waited for now, to follow the word "for".

    Returns:
        Whether it is; False: `within_s` are over.

    Raises:
        Stop: a signal has come.
    """
    began = said = time.monotonic()
    while not done():
        raise_if_stopped()
        now = time.monotonic()
        if now - began > within_s:
            return False
        if now - said >= SAY_EVERY_S:
            said = now
            say(f"waiting for {what()} ({now - began:.0f} s)")
        time.sleep(LOOK_S)
    return True


def result_of(work: Callable[[], T], what: str) -> T:
    """Do it in a thread, so that a signal ends the wait for it; return or raise what it does."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    until(result.done, lambda: what)
    return result.result()
