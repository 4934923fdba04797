"""A shard's sums by brand and day in Redis, kept equal to the performance rows.

Every number is recomputed from the database, never incremented, so a lost or repeated write does no harm, and Redis may
lose everything.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from typing import Any

from redis.asyncio import Redis

from ledger.bidding.revenue_completion import DaySums
from ledger.service.ledger import Ledger
from ledger.service.performance import BrandDay


def built_key(shard: int) -> str:
    """A Redis key that says that the window is there; it is missing after Redis lost its data, then all is rebuilt."""
    return f"paceline:performance:{shard}:built"


def _key(shard: int, day: dt.date) -> str:
    return f"paceline:performance:{shard}:{day.isoformat()}"


class DayCounters:
    """
    Args:
        days: how many days are kept, today included.
    """

    def __init__(self, ledger: Ledger, redis: Redis, days: int) -> None:
        self._ledger, self._redis, self._days, self._shard = ledger, redis, days, ledger.shard
        self._imports_seen = -1
        self._counted: frozenset[str] = frozenset()
        """Brands whose days this shard keeps."""
        self._counted_version = -1
        """Version of the terms that `_counted` was made from."""

    async def flush(self) -> None:
        """Write the days that changed to Redis; all of them after an import, or after Redis lost its data.

        Raises:
            RedisError, OSError, LedgerUnavailable: the next call tries again.
        """
        directory, performance = self._ledger.directory, self._ledger.performance
        if self._imports_seen != directory.imports_seen or not await self._redis.exists(built_key(self._shard)):
            await self.rebuild()
            return
        arrived = self._arrived()
        changed = {(brand_id, day) for brand_id, day in performance.take_changed() if day >= self._first_day()}
        changed |= {(brand_id, day) for brand_id in arrived for day in self._all_days()}
        if not changed:
            return
        try:
            await self._put(await performance.sums(changed), changed)
        except BaseException:
            self._counted -= arrived
            self._counted_version = -1
            performance.note_changed(changed)
            raise

    def _arrived(self) -> frozenset[str]:
        """Brands that another shard has kept so far; their days are written here from now on."""
        version = self._ledger.terms.newest.version
        if self._ledger.settings.shards == 1 or version == self._counted_version:
            return frozenset()
        own = frozenset(self._ledger.directory.brands())
        arrived, self._counted, self._counted_version = own - self._counted, own, version
        return arrived

    async def rebuild(self) -> None:
        """Write all days that are kept, from the database."""
        directory, performance = self._ledger.directory, self._ledger.performance
        seen = directory.imports_seen
        self._arrived()
        performance.take_changed()
        own = directory.brands()
        since = await performance.sums_since(self._first_day())
        async with self._redis.pipeline(transaction=True) as pipe:
            for day in self._all_days():
                pipe.delete(_key(self._shard, day))
            self._set(pipe, {key: sums for key, sums in since.items() if key[0] in own})
            pipe.set(built_key(self._shard), str(self._ledger.epoch))
            await pipe.execute()
        self._imports_seen = seen

    async def read(self, now: dt.datetime, number: int) -> dict[str, dict[int, DaySums]]:
        """Sums of the last `number` days, by brand id, then by how many days ago."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for ago in range(number):
                pipe.hgetall(_key(self._shard, now.date() - dt.timedelta(days=ago)))
            answers = await pipe.execute()
        found: dict[str, dict[int, DaySums]] = {}
        for ago, answer in enumerate(answers):
            for brand_id, text in answer.items():
                found.setdefault(_text(brand_id), {})[ago] = DaySums(*map(int, _text(text).split(",")))
        return found

    async def _put(self, sums: Mapping[BrandDay, DaySums], changed: Collection[BrandDay]) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            self._set(pipe, {key: sums.get(key, DaySums()) for key in changed})
            await pipe.execute()

    def _set(self, pipe: Any, sums: Mapping[BrandDay, DaySums]) -> None:
        """Write each brand to its own shard's keys: its events may have been recorded by another shard."""
        by_key: dict[str, dict[str, str]] = {}
        for (brand_id, day), values in sums.items():
            key = _key(self._ledger.directory.home_of_id(brand_id), day)
            by_key.setdefault(key, {})[brand_id] = ",".join(map(str, values))
        for key, fields in by_key.items():
            pipe.hset(key, mapping=fields)
            pipe.expire(key, (self._days + 2) * 86_400)

    def _all_days(self) -> set[dt.date]:
        return {self._first_day() + dt.timedelta(days=ahead) for ahead in range(self._days + 1)}

    def _first_day(self) -> dt.date:
        return self._ledger.now().date() - dt.timedelta(days=self._days - 1)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
