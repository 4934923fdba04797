"""Remembers answers by request_id, for a while and in bounded memory: a repeated request gets the same one."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from ledger.bidding.throttle import Admission

RequestKey = tuple[str, str]
"""sub, request_id"""
ANSWERS_MOST_BYTES = 48 * 1024 * 1024


@dataclass(slots=True)
class IdempotencyEntry:
    """A request_id that was used, and its answer or the task that makes it."""

    body_hash: str
    since: float  # monotonic seconds
    content: bytes | None = None  # the answer; None while `work` makes it
    work: asyncio.Task[bytes] | None = None
    wins: list[tuple[str, str]] = field(default_factory=list)  # brand_id, reservation_id
    admission: Admission | None = None  # which throttled brands take part; the same if it is ranked again
    askers: int = 0  # requests that have got the answer or still wait for it


class IdempotencyCache:
    """Answers by (sub, request_id). The oldest are dropped after `keep_s` seconds, beyond `most` entries, or beyond
    ANSWERS_MOST_BYTES."""

    def __init__(self, keep_s: float, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep_s, self._most, self._clock = keep_s, most, clock
        self._known: OrderedDict[RequestKey, IdempotencyEntry] = OrderedDict()
        self._bytes = 0

    def find(self, key: RequestKey) -> IdempotencyEntry | None:
        """The entry of a request that was seen before; None if it was not, or too long ago."""
        found = self._known.get(key)
        if found is not None and self._clock() - found.since > self._keep_s:
            self._forget(key)
            return None
        return found

    def begin(self, key: RequestKey, entry: IdempotencyEntry) -> None:
        """Remember a new request, with its answer or with the task that makes it."""
        self._known[key] = entry
        if entry.content is not None:
            self._bytes += len(entry.content)
        elif entry.work is not None:
            entry.work.add_done_callback(lambda done: self._settle(key, entry, done))
        self._trim()

    def _settle(self, key: RequestKey, entry: IdempotencyEntry, done: asyncio.Task[bytes]) -> None:
        """Keep a finished task's answer; forget the request if it failed, so that it can be tried again."""
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
