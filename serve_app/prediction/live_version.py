"""Tells which model version is live. The database decides; a pointer in Redis, cheap to read, says when to ask it."""

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
"""The database is asked at least this often, because Redis may have missed an activation."""
WITHOUT_REDIS_S = 1.0
"""The same while Redis does not answer or has no pointer, or while the database did not answer."""
POINTER_TIMEOUT_S = 0.5

Ask = Callable[[], Awaitable[str | None]]


class LiveVersion:
    """
    Args:
        truth: asks the database for the live version; None before the first.
        hint: asks Redis; None if it has no pointer or does not answer.
        clock: monotonic seconds.
    """

    def __init__(self, truth: Ask, hint: Ask, clock: Callable[[], float] = time.monotonic) -> None:
        self._truth, self._hint, self._clock = truth, hint, clock
        self._hinted: str | None = None  # Redis's pointer when the database was asked last
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
    """Reads Redis's pointer to the live version. No retries: a dead Redis must not delay the check."""

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
