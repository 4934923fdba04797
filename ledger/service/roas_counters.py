"""The pulse: performance counters in Redis, the current ROAS and the throttle computed from them, gauges for /metrics.

Every number in Redis is absolute and recomputed from the database, so a lost or repeated write does no harm, and Redis
may forget everything. No money depends on it. Each shard keeps its own brands; readers of the gauges see them all.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import json
import logging
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import Connection, and_, func, or_, select

from db import tables as t
from db.brands import BrandSettings
from db.rows import chunks
from ledger.bidding.revenue_completion import (
    Completed,
    DaySums,
    History,
    completed,
    completed_today,
    current_roas,
    still_needed,
)
from ledger.bidding.terms import Steered
from ledger.bidding.throttle import Throttle
from ledger.domain.budget import Budget
from ledger.domain.errors import LedgerUnavailable
from ledger.domain.settings import RoasSettings
from ledger.domain.sharding import SHARDS_MOST
from ledger.service.ledger import Ledger
from ledger.service.performance import BrandDay
from ledger.storage.event_store import DAY_SUMS, PERFORMANCE

logger = logging.getLogger("paceline.counters")


REMEMBER_S = 3600.0
"""A throttle, or a λ by day, as old as this is not taken up again after a restart."""

HISTORY_EVENTS = 1_000_000
"""How many of the newest events a starting ledger learns approval and delays from."""

FLUSH_S = 1.0


def gauges_key(shard: int) -> str:
    return f"paceline:gauges:{shard}"


def built_key(shard: int) -> str:
    """Gone when Redis has lost its memory: then the shard's window is built again."""
    return f"paceline:performance:{shard}:built"


def _key(shard: int, day: dt.date) -> str:
    return f"paceline:performance:{shard}:{day.isoformat()}"


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
        """All together. The newest part says how many shards there are; a brand that has moved shows as its new shard
        has it."""
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
    """The newest gauges of all shards; None before the first.

    Raises:
        RedisError, OSError: Redis is away.
    """
    texts = await redis.mget([gauges_key(shard) for shard in range(SHARDS_MOST)])
    return Gauges.of_shards({shard: Gauges.of_json(text) for shard, text in enumerate(texts) if text is not None})


class RoasCounters:
    """Keeps Redis in step with the performance rows, and the ledger's throttle in step with Redis."""

    def __init__(self, ledger: Ledger, redis: Redis, settings: RoasSettings) -> None:
        self._ledger, self._redis, self._settings = ledger, redis, settings
        self._history: dict[str, History] = {}
        self._history_seq: int | None = None
        self._imports_seen = -1
        self._ticked_at: dt.datetime | None = None
        self._shown_at: dt.datetime | None = None
        self._shown: tuple[int, int] = (-1, -1)
        self._roas: dict[str, float] = {}
        self._portfolio_roas: dict[str, float] = {}
        self._portfolio_throttles: dict[str, Throttle] = {}
        self._restored = False
        self._last_days: dict[str, dict[int, DaySums]] = {}
        self.frozen: Callable[[], Mapping[str, str]] = dict
        """Brands that were taken off steering, and why."""
        self._kept: frozenset[str] = frozenset()
        self._kept_version = -1
        self._is_away = False

    # What the loop does

    async def keep_counting(self) -> None:
        """Runs until it is cancelled. Whatever goes wrong is tried again."""
        while True:
            await self.beat()
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError  # a client library took the cancellation for an error of its own
            await asyncio.sleep(FLUSH_S)

    async def beat(self) -> None:
        """One turn of the loop; errors are logged, once an outage."""
        try:
            await self.flush()
            now = self._ledger.now()
            if self._ticked_at is None or _seconds(now, self._ticked_at) >= self._settings.refresh_s:
                await self.tick()
            elif self._changed() and _seconds(now, self._shown_at) >= self._ledger.settings.gauges_s:
                await self.show()
        except (RedisError, OSError, LedgerUnavailable) as error:
            if not self._is_away:
                missing = "the database" if isinstance(error, LedgerUnavailable) else "Redis"
                logger.warning("ROAS and gauges wait for %s: %s", missing, error)
            self._is_away = True
        except Exception:
            logger.exception("ROAS and gauges could not be refreshed")
        else:
            self._is_away = False

    async def flush(self) -> None:
        """Bring Redis up to date: the days that changed, or everything after an import or a loss of memory."""
        if self._imports_seen != self._ledger.directory.imports_seen or not await self._redis.exists(
            built_key(self._shard)
        ):
            await self.rebuild()
            return
        arrived = self._arrived()
        dirty = {
            (brand_id, day) for brand_id, day in self._ledger.performance.take_changed() if day >= self._first_day()
        }
        dirty |= {(brand_id, day) for brand_id in arrived for day in self._all_days()}
        if not dirty:
            return
        try:
            await self._put(await self._sums(dirty), dirty)
        except BaseException:
            self._kept -= arrived
            self._kept_version = -1
            self._ledger.performance.note_changed(dirty)
            raise

    def _arrived(self) -> frozenset[str]:
        """Brands that another shard has counted until now; their days are here from the next write on."""
        version = self._ledger.terms.newest.version
        if self._ledger.settings.shards == 1 or version == self._kept_version:
            return frozenset()
        kept = frozenset(self._ledger.directory.brands())
        arrived, self._kept, self._kept_version = kept - self._kept, kept, version
        return arrived

    async def rebuild(self) -> None:
        """All days that the current ROAS may look at, from the database."""
        seen = self._ledger.directory.imports_seen
        self._arrived()
        self._ledger.performance.take_changed()
        here = self._ledger.directory.brands()
        sums = {key: value for key, value in (await self._sums(None)).items() if key[0] in here}
        async with self._redis.pipeline(transaction=True) as pipe:
            for day in self._all_days():
                pipe.delete(_key(self._shard, day))
            self._set(pipe, sums)
            pipe.set(built_key(self._shard), str(self._ledger.epoch))
            await pipe.execute()
        self._imports_seen = seen

    async def tick(self) -> None:
        """The current ROAS of every brand and portfolio, from the counters; then the throttle; then the gauges."""
        now = self._ledger.now()
        if not self._restored:
            await self._restore(now)
        await self._learn()
        days = self._last_days = await self._read(now)
        elapsed_s = _seconds(now, self._ticked_at) if self._ticked_at else self._settings.refresh_s
        self._decide(days, now, elapsed_s)
        self._ticked_at = now
        await self.show()

    async def show(self) -> None:
        """Write the gauges."""
        shown = self._ledger.moves, self._ledger.terms.newest.version
        budgets = await self._ledger.budgets.today()
        await self._redis.set(gauges_key(self._shard), self._gauges(budgets).to_json())
        self._shown, self._shown_at = shown, self._ledger.now()

    def roas(self, brand_id: str) -> float:
        """As of the last tick; NaN while it is not known."""
        return self._roas.get(brand_id, math.nan)

    def slot_roas(self, brand_id: str, days: Mapping[int, DaySums], window_days: int, today_fraction: float) -> float:
        """The same measure over other sums of the brand: a slot's, say. NaN while it is not known."""
        history = self._history.get(brand_id, History())
        total = completed(days, window_days, today_fraction, history, self._usual())
        return current_roas(total, self._settings.min_impressions)

    def completed_today(self, brand_id: str, approved: int, pending: int) -> float:
        """Revenue that the brand's spending of today will have brought, from what today has seen of it."""
        now = self._ledger.now()
        fraction = (now - now.replace(hour=0, minute=0, second=0, microsecond=0)) / dt.timedelta(days=1)
        history, days = self._history.get(brand_id, History()), self._last_days.get(brand_id, {})
        return completed_today(approved, pending, days, fraction, history, self._usual())

    def _usual(self) -> History:
        """What is usual among all brands."""
        return History(
            sum(history.approved for history in self._history.values()),
            sum(history.rejected for history in self._history.values()),
        )

    # How

    @property
    def _days(self) -> int:
        """The window's days, and those before it whose conversions may still come."""
        return self._settings.window_days + self._ledger.settings.conversion_days

    @property
    def _shard(self) -> int:
        return self._ledger.shard

    def _all_days(self) -> set[dt.date]:
        return {self._first_day() + dt.timedelta(days=ahead) for ahead in range(self._days + 1)}

    def _first_day(self) -> dt.date:
        return self._ledger.now().date() - dt.timedelta(days=self._days - 1)

    def _changed(self) -> bool:
        return self._shown != (self._ledger.moves, self._ledger.terms.newest.version)

    async def _restore(self, now: dt.datetime) -> None:
        """A restart does not lift the throttle, nor does another number of shards."""
        gauges = await read_gauges(self._redis)
        if gauges is not None and _seconds(now, gauges.updated_at) < REMEMBER_S:
            self._ledger.terms.set_throttles(
                {id_: Throttle(brand.share, brand.throttled) for id_, brand in gauges.brands.items()}
            )
            # λ of the day goes on as well, until enough is seen to solve for it anew.
            self._ledger.terms.steer(
                {id_: Steered(brand.kappa) for id_, brand in gauges.brands.items() if brand.kappa is not None}
            )
            self._portfolio_throttles = {
                id_: Throttle(throttled=portfolio.throttled) for id_, portfolio in gauges.portfolios.items()
            }
        self._restored = True

    def _decide(self, days: Mapping[str, Mapping[int, DaySums]], now: dt.datetime, elapsed_s: float) -> None:
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        fraction = (now - midnight) / dt.timedelta(days=1)
        brands, portfolios = self._ledger.directory.brands(), self._ledger.directory.portfolios()
        usual = self._usual()
        least, window = self._settings.min_impressions, self._settings.window_days
        sums = {
            id_: completed(days.get(id_, {}), window, fraction, self._history.get(id_, History()), usual)
            for id_ in brands
        }
        self._roas = {id_: current_roas(total, least) for id_, total in sums.items()}
        totals = dict.fromkeys(portfolios, Completed(0, 0, 0.0))
        for id_, settings in brands.items():
            if settings.portfolio_id in totals:
                totals[settings.portfolio_id] = totals[settings.portfolio_id].plus(sums[id_])
        self._portfolio_roas = {id_: current_roas(total, least) for id_, total in totals.items()}
        self._portfolio_throttles = {
            id_: self._portfolio_throttles.get(id_, Throttle()).step(
                self._portfolio_roas[id_], settings.throttle_roas, 0.0, elapsed_s
            )
            for id_, settings in portfolios.items()
        }
        self._ledger.terms.set_throttles(
            {
                id_: self._ledger.terms.throttle(id_).step(
                    self._roas[id_], self._threshold(settings), settings.exploration, elapsed_s
                )
                for id_, settings in brands.items()
            }
        )

    def _threshold(self, settings: BrandSettings) -> float:
        """A portfolio in trouble throttles those of its brands that keep it there."""
        portfolio_id = settings.portfolio_id or ""
        if self._portfolio_throttles.get(portfolio_id, Throttle()).throttled:
            return max(settings.throttle_roas, self._ledger.directory.portfolios()[portfolio_id].throttle_roas)
        return settings.throttle_roas

    def _gauges(self, budgets: Mapping[str, Budget]) -> Gauges:
        terms, frozen, steered = self._ledger.terms.newest.brands, self.frozen(), self._ledger.terms.steered
        return Gauges(
            brands={
                id_: BrandGauges(
                    roas_current=_known(self.roas(id_)),
                    roas_target=brand.target_roas,
                    lambda_=brand.lambda_,
                    throttled=brand.throttled,
                    share=self._ledger.terms.throttle(id_).share,
                    budget_micros=_states(budgets[id_]),
                    overspend_micros=budgets[id_].overspend_micros,
                    frozen=id_ in frozen,
                    kappa=steered[id_].kappa if id_ in steered else None,
                )
                for id_, brand in terms.items()
                if brand.active and id_ in budgets
            },
            portfolios={
                id_: PortfolioGauges(
                    roas_current=_known(self._portfolio_roas.get(id_, math.nan)),
                    roas_target=settings.target_roas,
                    throttled=self._portfolio_throttles.get(id_, Throttle()).throttled,
                )
                for id_, settings in self._ledger.directory.portfolios().items()
            },
            ledger_epoch={self._ledger.shard: self._ledger.epoch},
            updated_at=self._ledger.now(),
            shards=self._ledger.settings.shards,
        )

    # The database's side

    async def _sums(self, dirty: Collection[BrandDay] | None) -> dict[BrandDay, DaySums]:
        """Of these brand days, or of all that the ROAS may look at."""
        p = PERFORMANCE.c
        query = select(p.brand_id, p.day, *DAY_SUMS).group_by(p.brand_id, p.day)
        if dirty is None:
            queries = [query.where(p.day >= self._first_day())]
        else:
            by_day: dict[dt.date, list[str]] = {}
            for brand_id, day in sorted(dirty):
                by_day.setdefault(day, []).append(brand_id)
            queries = [
                query.where(p.day == day, p.brand_id.in_(chunk)) for day, ids in by_day.items() for chunk in chunks(ids)
            ]

        def work(connection: Connection) -> dict[BrandDay, DaySums]:
            found: dict[BrandDay, DaySums] = {}
            for each in queries:
                for row in connection.execute(each):
                    found[(row[0], row[1])] = DaySums(*map(int, row[2:]))
            return found

        return await self._ledger.read(work)

    async def _learn(self) -> None:
        """Approval and delay of the conversions that came since the last look."""
        e = t.events.c
        click = t.events.alias("click")

        def work(connection: Connection) -> tuple[int, list[Any], list[Any]]:
            newest = int((connection.execute(select(func.max(e.seq)))).scalar_one() or 0)
            after = self._history_seq if self._history_seq is not None else newest - HISTORY_EVENTS
            if newest <= after:
                return newest, [], []
            recent = and_(e.seq > after, e.seq <= newest)
            decided = (
                select(e.brand_id, e.status, func.count())
                .where(recent, or_(e.type == "conversion", e.type == "conversion_update"))
                .where(e.status.in_(("approved", "rejected")))
                .group_by(e.brand_id, e.status)
            )
            delays = (
                select(e.brand_id, e.occurred_at, click.c.occurred_at)
                .join(click, and_(click.c.brand_id == e.brand_id, click.c.click_id == e.click_id))
                .where(recent, e.type == "conversion", click.c.type == "click", click.c.partner_id == e.partner_id)
            )
            return (
                newest,
                list((connection.execute(decided)).all()),
                list((connection.execute(delays)).all()),
            )

        newest, decided, delays = await self._ledger.read(work)
        most = self._ledger.settings.conversion_days
        for brand_id, status, number in decided:
            self._add(brand_id, History(*((int(number), 0) if status == "approved" else (0, int(number)))))
        counts: dict[str, list[int]] = {}
        for brand_id, converted_at, clicked_at in delays:
            days = min(max((converted_at - clicked_at).days, 0), most - 1)
            counts.setdefault(brand_id, [0] * most)[days] += 1
        for brand_id, numbers in counts.items():
            self._add(brand_id, History(delays=tuple(numbers)))
        if counts:
            curves = {id_: still_needed(history, most) for id_, history in self._history.items()}
            self._ledger.holds.set_delay_curves({id_: curve for id_, curve in curves.items() if curve is not None})
        self._history_seq = newest

    def _add(self, brand_id: str, history: History) -> None:
        self._history[brand_id] = self._history.get(brand_id, History()).plus(history)

    # Redis's side

    async def _put(self, sums: Mapping[BrandDay, DaySums], dirty: Collection[BrandDay]) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            self._set(pipe, {key: sums.get(key, DaySums()) for key in dirty})
            await pipe.execute()

    def _set(self, pipe: Any, sums: Mapping[BrandDay, DaySums]) -> None:
        """Each brand where its own shard looks: an event may have come by another one."""
        by_key: dict[str, dict[str, str]] = {}
        for (brand_id, day), values in sums.items():
            key = _key(self._ledger.directory.home_of_id(brand_id), day)
            by_key.setdefault(key, {})[brand_id] = ",".join(map(str, values))
        for key, fields in by_key.items():
            pipe.hset(key, mapping=fields)
            pipe.expire(key, (self._days + 2) * 86_400)

    async def _read(self, now: dt.datetime) -> dict[str, dict[int, DaySums]]:
        """By brand and how many days ago."""
        delayed = any(sum(history.delays) for history in self._history.values())
        number = self._days if delayed else self._settings.window_days
        async with self._redis.pipeline(transaction=False) as pipe:
            for ago in range(number):
                pipe.hgetall(_key(self._shard, now.date() - dt.timedelta(days=ago)))
            answers = await pipe.execute()
        found: dict[str, dict[int, DaySums]] = {}
        for ago, answer in enumerate(answers):
            for brand_id, text in answer.items():
                found.setdefault(_text(brand_id), {})[ago] = DaySums(*map(int, _text(text).split(",")))
        return found


def _states(budget: Budget) -> dict[str, int | None]:
    return {
        "available": budget.available_micros,
        "leased": budget.leased_micros,
        "reserved": budget.reserved_micros,
        "settled": budget.settled_micros,
    }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _seconds(now: dt.datetime, then: dt.datetime | None) -> float:
    return math.inf if then is None else (now - then).total_seconds()
