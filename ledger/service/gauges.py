"""The gauges of /metrics: each shard writes its own to Redis, readers merge them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass

from redis.asyncio import Redis

from ledger.domain.sharding import SHARDS_MOST


def gauges_key(shard: int) -> str:
    return f"paceline:gauges:{shard}"


@dataclass(frozen=True, slots=True)
class BrandGauges:
    roas_current: float | None  # None: not known
    roas_target: float
    lambda_: float
    throttled: bool
    share: float
    budget_micros: dict[str, int | None]  # available | leased | reserved | settled; None: unlimited
    overspend_micros: int
    frozen: bool = False
    kappa: float | None = None  # by day; None: the night's


@dataclass(frozen=True, slots=True)
class PortfolioGauges:
    roas_current: float | None
    roas_target: float
    throttled: bool = False


@dataclass(frozen=True, slots=True)
class Gauges:
    """What /metrics shows, one entry for each active brand, of one shard or of all."""

    brands: dict[str, BrandGauges]
    portfolios: dict[str, PortfolioGauges]
    ledger_epoch: dict[int, int]  # by shard
    updated_at: dt.datetime
    shards: int = 1  # of the layout that they were written in

    def to_json(self) -> str:
        return json.dumps(
            dataclasses.asdict(self) | {"updated_at": self.updated_at.isoformat()},
            separators=(",", ":"),
            allow_nan=False,
        )

    @classmethod
    def of_json(cls, text: str | bytes) -> Gauges:
        raw = json.loads(text)
        return cls(
            brands={id_: BrandGauges(**brand) for id_, brand in raw["brands"].items()},
            portfolios={id_: PortfolioGauges(**portfolio) for id_, portfolio in raw["portfolios"].items()},
            ledger_epoch={int(shard): epoch for shard, epoch in raw["ledger_epoch"].items()},
            updated_at=dt.datetime.fromisoformat(raw["updated_at"]),
            shards=raw["shards"],
        )

    @classmethod
    def of_shards(cls, parts: Mapping[int, Gauges]) -> Gauges | None:
        """Merge the shards' gauges; None if there are none.

        The newest says how many shards there are. A brand that two shards have is taken from the newer one.
        """
        if not parts:
            return None
        newest = max(parts.values(), key=lambda part: part.updated_at)
        merged = cls({}, {}, {}, newest.updated_at, newest.shards)
        for shard, part in sorted(parts.items(), key=lambda item: item[1].updated_at):
            if shard < newest.shards:
                merged.brands.update(part.brands)
                merged.portfolios.update(part.portfolios)
                merged.ledger_epoch.update(part.ledger_epoch)
        return merged


async def read_gauges(redis: Redis) -> Gauges | None:
    """The newest gauges of all shards; None if none were written yet.

    Raises:
        RedisError, OSError: Redis does not answer.
    """
    texts = await redis.mget([gauges_key(shard) for shard in range(SHARDS_MOST)])
    return Gauges.of_shards({shard: Gauges.of_json(text) for shard, text in enumerate(texts) if text is not None})
