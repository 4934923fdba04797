"""Which version is live. The database decides; Redis's pointer says when to ask it: a few cheap looks a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from training.registry.replication import redis_key

CURRENT = redis_key("current")
DATABASE_S = 5.0
"""The database is asked at least as often: Redis may have missed an activation."""
WITHOUT_REDIS_S = 1.0
"""And as often while Redis says nothing, or the database itself did not answer."""
POINTER_TIMEOUT_S = 0.5

Ask = Callable[[], Awaitable[str | None]]


class LiveVersion:
    """
    Args:
        truth: what the database takes for the live version.
        hint: what Redis does; None: nothing, or it does not answer.
        clock: monotonic seconds.
    """

    def __init__(self, truth: Ask, hint: Ask, clock: Callable[[], float] = time.monotonic) -> None:
        self._truth, self._hint, self._clock = truth, hint, clock
        self._hinted: str | None = None  # when the database was asked last
        self._due_at = -float("inf")
        self._version: str | None = None

    async def version(self) -> str | None:
        """The live version, None before the first. Raises: what `truth` raises."""
        hint, now = await self._hint(), self._clock()
        if hint == self._hinted and now < self._due_at:
            return self._version
        self._hinted, self._due_at = hint, now + WITHOUT_REDIS_S
        self._version = await self._truth()
        if hint is not None:
            self._due_at = now + DATABASE_S
        return self._version


class Pointer:
    """Redis's pointer to the live version. Nothing is tried twice: a dead Redis must not hold up looks."""

    def __init__(self, redis_url: str) -> None:
        self._redis = Redis.from_url(redis_url, decode_responses=True, retry=Retry(NoBackoff(), 0))

    async def __call__(self) -> str | None:
        try:
            async with asyncio.timeout(POINTER_TIMEOUT_S):
                pointer = await self._redis.get(CURRENT)
        except (RedisError, OSError, TimeoutError, UnicodeDecodeError):
            return None
        return None if pointer is None else str(pointer)

    async def close(self) -> None:
        await self._redis.aclose()
