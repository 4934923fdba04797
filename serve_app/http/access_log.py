"""A line for every request, many in one log record: a record each would cost a third of a request."""

from __future__ import annotations

import asyncio
import logging
import re
import time

FLUSH_S = 0.2
LINES_MOST = 2000
"""More are written before the second is over."""

logger = logging.getLogger("paceline.access")
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class AccessLog:
    """Collects; `flush` writes all lines as one record."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, str, str, int, float, bytes, bytes | None]] = []

    def add(self, method: str, path: str, status: int, seconds: float, name: bytes, traceparent: bytes | None) -> None:
        """
        Args:
            name: the request's X-Request-ID.
        """
        self._waiting.append((time.time(), method, path, status, seconds, name, traceparent))
        if len(self._waiting) >= LINES_MOST:
            self.flush()

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            moment_of = {second: _moment(second) for second in {int(one[0]) for one in waiting}}
            logger.info("%s", "\n".join(_line(moment_of[int(one[0])], *one) for one in waiting))

    async def keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self.flush()


def _moment(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _line(
    moment: str,
    at: float,
    method: str,
    path: str,
    status: int,
    seconds: float,
    name: bytes,
    traceparent: bytes | None,
) -> str:
    request = name.decode("latin-1")
    line = f"{moment}.{int(at % 1 * 1000):03d}Z {method} {path!r} {status} {seconds * 1000:.1f}ms request={request!r}"
    if traceparent is not None and (trace := TRACEPARENT.fullmatch(traceparent)):
        line += f" trace={trace[1].decode()}"
    return line
