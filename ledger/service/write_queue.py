"""Batches writes: the calls that wait while a transaction runs share the next one."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from ledger.domain.errors import LedgerError, StatementRefused
from ledger.domain.messages import Beat, Event, Reply, Result
from ledger.service.ledger import Ledger

logger = logging.getLogger("paceline.ledger")
BEATS_TOGETHER = 64
Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(slots=True)
class _Call(Generic[Item, Answer]):
    items: Sequence[Item]
    answers: asyncio.Future[list[Answer]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class WriteQueue:
    """Runs the ledger's writes one after the other. Beats go before events, because requests may wait for a lease.

    A call is answered after the commit of its transaction.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._beats: deque[_Call[Beat, Reply]] = deque()
        self._events: deque[_Call[Event, Result]] = deque()
        self._others: deque[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = deque()
        self._work = asyncio.Event()

    async def beat(self, beat: Beat) -> Reply:
        (reply,) = await self._submit(self._beats, [beat])
        return reply

    async def record(self, events: Sequence[Event]) -> list[Result]:
        """Record a batch in parts, so that beats run in between. Clicks go first: conversions inherit from them.

        Returns:
            A result for each event, in the order of `events`.
        """
        order = sorted(range(len(events)), key=lambda index: events[index].type != "click")
        size = self._ledger.settings.batch_events
        results: dict[int, Result] = {}
        for start in range(0, len(order), size):
            part = order[start : start + size]
            results |= zip(part, await self._submit(self._events, [events[index] for index in part]), strict=True)
        return [results[index] for index in range(len(events))]

    async def run(self, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Run any other write in its turn."""
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._others.append((work, done))
        self._work.set()
        return await done

    async def sweep(self) -> int:
        """`Ledger.sweep`, with other writes between its transactions."""
        return await self._ledger.sweep(self.run)

    async def _submit(self, queue: deque[_Call[Item, Answer]], items: Sequence[Item]) -> list[Answer]:
        call: _Call[Item, Answer] = _Call(items)
        queue.append(call)
        self._work.set()
        return await call.answers

    async def keep_writing(self) -> None:
        """Run the waiting writes until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._beats or self._events or self._others:
                await self._turn()

    async def _turn(self) -> None:
        """One transaction for all beats that wait, then one for some of the rest."""
        if self._beats:
            calls = _take(self._beats, BEATS_TOGETHER)
            await self._together(calls, self._ledger.beat)
        if self._others:
            work, done = self._others.popleft()
            await _answer(done, work)
        if self._events:
            calls_ = _take(self._events, self._ledger.settings.batch_events)
            await self._together(calls_, self._ledger.record)

    async def _together(
        self, calls: list[_Call[Item, Answer]], do: Callable[[Sequence[Item]], Awaitable[list[Answer]]]
    ) -> None:
        items = [item for call in calls for item in call.items]
        try:
            answers = await do(items)
        except Exception as error:
            if len(calls) == 1 or _concerns_all(error):
                for call in calls:
                    _fail(call.answers, error)
                return
            name = getattr(do, "__name__", do)
            line = "shard %d: %s failed for %d callers in one transaction, trying them one by one"
            logger.exception(line, self._ledger.shard, name, len(calls))
            for call in calls:
                await _answer(call.answers, partial(do, call.items))
        else:
            start = 0
            for call in calls:
                end = start + len(call.items)
                if not call.answers.done():
                    call.answers.set_result(answers[start:end])
                start = end


async def _answer(done: asyncio.Future[Answer], work: Callable[[], Awaitable[Answer]]) -> None:
    try:
        answer = await work()
    except Exception as error:
        _fail(done, error)
    else:
        if not done.done():
            done.set_result(answer)


def _concerns_all(error: Exception) -> bool:
    """Whether no single call is to blame: the database does not answer, or another ledger writes now."""
    return isinstance(error, LedgerError) and not isinstance(error, StatementRefused)


def _fail(done: asyncio.Future[Any], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)


def _take(queue: deque[_Call[Item, Answer]], most: int) -> list[_Call[Item, Answer]]:
    """Whole calls from the head, as many as stay within `most` items, at least one."""
    calls = [queue.popleft()]
    size = len(calls[0].items)
    while queue and size + len(queue[0].items) <= most:
        calls.append(queue.popleft())
        size += len(calls[-1].items)
    return calls
