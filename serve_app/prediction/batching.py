"""Batches requests: while a call is in flight the next requests gather for the next one; nothing waits for a timer."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class CallLost(Exception):
    """The call that an item was part of was cancelled; whether it took effect is not known."""


class Batcher(Generic[Item, Outcome]):
    """Hands items to `call` in groups, in order, at most `in_flight` groups at a time.

    Args:
        call: takes a group, returns one answer per item, in order.
        size: of an item (rows, offers); the sizes of a group sum to at most `most`, or it is a single item.
        abandoned: called with an answer that nobody waits for any more.
    """

    def __init__(
        self,
        call: Callable[[Sequence[Item]], Awaitable[Sequence[Outcome]]],
        size: Callable[[Item], int],
        most: int,
        in_flight: int = 1,
        abandoned: Callable[[Item, Outcome], None] | None = None,
    ) -> None:
        self._call, self._size, self._most, self._abandoned = call, size, most, abandoned
        self._free = in_flight
        self._waiting: deque[tuple[Item, asyncio.Future[Outcome]]] = deque()
        self._calls: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Outcome:
        """The item's answer. Raises: what `call` raises, to everybody in the group; CallLost."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._start()
        return await future

    def _start(self) -> None:
        while self._free and (group := self._take()):
            self._free -= 1
            # In a context of its own, because Serve cancels a call when the client of the request that made it
            # disconnects; but this call answers many requests.
            task = asyncio.get_running_loop().create_task(self._run(group), context=contextvars.Context())
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    def _take(self) -> list[tuple[Item, asyncio.Future[Outcome]]]:
        group: list[tuple[Item, asyncio.Future[Outcome]]] = []
        weight = 0
        while self._waiting:
            item, future = self._waiting[0]
            if future.done():  # cancelled before it was sent
                self._waiting.popleft()
                continue
            weight += self._size(item)
            if group and weight > self._most:
                break
            group.append(self._waiting.popleft())
        return group

    async def _run(self, group: list[tuple[Item, asyncio.Future[Outcome]]]) -> None:
        try:
            answers = await self._call([item for item, _ in group])
            if len(answers) != len(group):
                raise RuntimeError(f"a batch of {len(group)} items got {len(answers)} answers")
        except BaseException as error:
            reason = error if isinstance(error, Exception) else CallLost(repr(error))
            for _, future in group:
                if not future.done():
                    future.set_exception(reason)
            if not isinstance(error, (Exception, asyncio.CancelledError)):
                raise
        else:
            for (item, future), answer in zip(group, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
                elif self._abandoned is not None:
                    self._abandoned(item, answer)
        finally:
            self._free += 1
            self._start()
