"""The access log: one line per request, many lines per log record, since one record each slows requests by a third."""

from __future__ import annotations

import asyncio
import logging
import re
import time

FLUSH_S = 0.2
LINES_MOST = 2000
"""As many waiting lines are written at once, without waiting for FLUSH_S."""

logger = logging.getLogger("paceline.access")
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class AccessLog:
    """Collects lines in memory; `flush` writes all of them as one log record."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, str, str, int, float, bytes, bytes | None, str]] = []

    def add(
        self,
        method: str,
        path: str,
        status: int,
        seconds: float,
        name: bytes,
        traceparent: bytes | None,
        refused: str = "",
    ) -> None:
        """Queue one request's line; nothing is written before the next flush, unless LINES_MOST lines wait.

        Args:
            path: without the query string.
            name: the request's X-Request-ID.
            traceparent: the W3C header, of which only the trace id is logged; None if the request had none.
            refused: of a 401, the code that says why.
        """
        self._waiting.append((time.time(), method, path, status, seconds, name, traceparent, refused))
        if len(self._waiting) >= LINES_MOST:
            self.flush()

    def flush(self) -> None:
        """Write the lines that wait, if any, as one record."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            moment_of = {second: _moment(second) for second in {int(one[0]) for one in waiting}}
            logger.info("%s", "\n".join(_line(moment_of[int(one[0])], *one) for one in waiting))

    async def keep_flushing(self) -> None:
        """Flush every FLUSH_S seconds until cancelled."""
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
    refused: str,
) -> str:
    request = name.decode("latin-1")
    line = f"{moment}.{int(at % 1 * 1000):03d}Z {method} {path!r} {status} {seconds * 1000:.1f}ms request={request!r}"
    if refused:
        line += f" refused={refused}"
    if traceparent is not None and (trace := TRACEPARENT.fullmatch(traceparent)):
        line += f" trace={trace[1].decode()}"
    return line
