"""A repeated request gets its first answer, for a while and within bounded memory."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

RequestKey = tuple[str, str]
"""sub, request_id"""
ANSWERS_MOST_BYTES = 48 * 1024 * 1024


@dataclass(slots=True)
class IdempotencyEntry:
    """A request_id that was asked, and what is known of its answer."""

    body_hash: str
    since: float  # monotonic seconds
    content: bytes | None = None  # the answer; None: it is not there yet…
    work: asyncio.Task[bytes] | None = None  # …and made here
    wins: list[tuple[str, str]] = field(default_factory=list)  # brand_id, reservation_id
    askers: int = 0  # who waited for the answer and has got it, or still waits


class IdempotencyCache:
    """Answers by (sub, request_id). The oldest are forgotten when time, number or bytes run out."""

    def __init__(self, keep_s: float, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep_s, self._most, self._clock = keep_s, most, clock
        self._known: OrderedDict[RequestKey, IdempotencyEntry] = OrderedDict()
        self._bytes = 0

    def find(self, key: RequestKey) -> IdempotencyEntry | None:
        found = self._known.get(key)
        if found is not None and self._clock() - found.since > self._keep_s:
            self._forget(key)
            return None
        return found

    def begin(self, key: RequestKey, entry: IdempotencyEntry) -> None:
        """The first of its name, with its answer or with the work that makes it."""
        self._known[key] = entry
        if entry.content is not None:
            self._bytes += len(entry.content)
        elif entry.work is not None:
            entry.work.add_done_callback(lambda done: self._settle(key, entry, done))
        self._trim()

    def _settle(self, key: RequestKey, entry: IdempotencyEntry, done: asyncio.Task[bytes]) -> None:
        """A failed answer is forgotten, so that it may be tried again."""
        if self._known.get(key) is not entry:
            return
        if done.cancelled() or done.exception() is not None:
            self._forget(key)
        else:
            entry.content, entry.work = done.result(), None
            self._bytes += len(entry.content)
            self._trim()

    def _trim(self) -> None:
        now = self._clock()
        while self._known:
            key, oldest = next(iter(self._known.items()))
            full = len(self._known) > self._most or self._bytes > ANSWERS_MOST_BYTES
            if not full and now - oldest.since <= self._keep_s:
                break
            self._forget(key)

    def _forget(self, key: RequestKey) -> None:
        content = self._known.pop(key).content
        self._bytes -= 0 if content is None else len(content)
