"""Limits an outage to one log line when it begins, one a minute while it lasts, and one when it is over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

REMIND_S = 60.0


class Outage:
    """The log lines of one thing that may fail again and again.

    Args:
        over: logged when it works again; None: no line.
        clock: monotonic seconds.
    """

    def __init__(
        self, logger: logging.Logger, over: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger, self._over, self._clock = logger, over, clock
        self._quiet_until: float | None = None  # None: it works
        self._unsaid = 0

    def failed(self, line: str, level: int = logging.WARNING, error: BaseException | None = None) -> None:
        """Log the line, unless there was one within REMIND_S. `error`: logged with its traceback."""
        now = self._clock()
        if self._quiet_until is not None and now < self._quiet_until:
            self._unsaid += 1
            return
        if self._unsaid:
            line = f"{line} ({self._unsaid} more failures since the line before)"
        self._logger.log(level, "%s", line, exc_info=error)
        self._quiet_until, self._unsaid = now + REMIND_S, 0

    def ended(self) -> None:
        """Tell that it worked; the first time after a failure is logged."""
        if self._quiet_until is None:
            return
        self._quiet_until, self._unsaid = None, 0
        if self._over is not None:
            self._logger.info("%s", self._over)
