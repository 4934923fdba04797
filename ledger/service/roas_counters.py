"""The current ROAS of every brand and portfolio, the throttle computed from it, and the gauges for /metrics.

No budget depends on it. Each shard keeps its own brands; readers of the gauges put all shards together.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import math
from collections.abc import Callable, Mapping

from redis.asyncio import Redis
from redis.exceptions import RedisError

from db.brands import BrandSettings
from db.outage import Outage
from ledger.bidding.revenue_completion import (
    Completed,
    DaySums,
    completed,
    completed_today,
    current_roas,
)
from ledger.bidding.terms import ControlSignal
from ledger.bidding.throttle import Throttle
from ledger.domain.budget import Budget
from ledger.domain.errors import LedgerUnavailable
from ledger.domain.settings import RoasSettings
from ledger.service.conversion_history import ConversionHistory
from ledger.service.day_counters import DayCounters
from ledger.service.gauges import BrandGauges, Gauges, PortfolioGauges, gauges_key, read_gauges
from ledger.service.ledger import Ledger

logger = logging.getLogger("paceline.counters")
REMEMBER_S = 3600.0
"""After a restart, throttles and λ by day that are older than this are not used again."""

FLUSH_S = 1.0


class RoasCounters:
    """Keeps the brands' day sums in Redis, and computes current ROAS, throttle and gauges from them."""

    def __init__(self, ledger: Ledger, redis: Redis, settings: RoasSettings) -> None:
        self._ledger, self._redis, self._settings = ledger, redis, settings
        # The window's days, and days before it whose conversions may still come.
        self._days_kept = settings.window_days + ledger.settings.conversion_days
        self._day_counters, self._history = DayCounters(ledger, redis, self._days_kept), ConversionHistory(ledger)
        self._ticked_at: dt.datetime | None = None
        self._shown_at: dt.datetime | None = None
        self._shown: tuple[int, int] = (-1, -1)
        self._roas: dict[str, float] = {}
        self._portfolio_roas: dict[str, float] = {}
        self._portfolio_throttles: dict[str, Throttle] = {}
        self._restored = False
        self._last_days: dict[str, dict[int, DaySums]] = {}
        self.frozen: Callable[[], Mapping[str, str]] = dict
        """Returns, by id of each frozen brand, why it was frozen."""
        self._outage = Outage(logger, f"shard {ledger.shard}: ROAS and gauges are refreshed again")

    # The loop

    async def keep_counting(self) -> None:
        """Update Redis every second until cancelled; errors are logged, and the next turn tries again."""
        while True:
            await self.beat()
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError  # a client library took the cancellation for an error of its own
            await asyncio.sleep(FLUSH_S)

    async def beat(self) -> None:
        """One turn of the loop; errors are logged, once a minute."""
        try:
            await self._day_counters.flush()
            now = self._ledger.now()
            if self._ticked_at is None or _seconds(now, self._ticked_at) >= self._settings.refresh_s:
                await self.tick()
            elif self._changed() and _seconds(now, self._shown_at) >= self._ledger.settings.gauges_s:
                await self.show()
        except (RedisError, OSError, LedgerUnavailable) as error:
            missing = "the database" if isinstance(error, LedgerUnavailable) else "Redis"
            reason = error.reason if isinstance(error, LedgerUnavailable) else error
            shard = self._ledger.shard
            self._outage.failed(f"shard {shard}: ROAS and gauges stand still until {missing} answers: {reason}")
        except Exception as error:
            line = f"shard {self._ledger.shard}: ROAS and gauges could not be refreshed, retrying in {FLUSH_S:g} s"
            self._outage.failed(line, logging.ERROR, error)
        else:
            self._outage.ended()

    async def tick(self) -> None:
        """Compute the current ROAS of every brand and portfolio from the counters, then throttles, then gauges."""
        now = self._ledger.now()
        if not self._restored:
            await self._restore(now)
        await self._history.learn()
        number = self._days_kept if self._history.is_delayed else self._settings.window_days
        days = self._last_days = await self._day_counters.read(now, number)
        elapsed_s = _seconds(now, self._ticked_at) if self._ticked_at else self._settings.refresh_s
        self._decide(days, now, elapsed_s)
        self._ticked_at = now
        await self.show()

    async def show(self) -> None:
        """Write the gauges."""
        shown = self._ledger.moves, self._ledger.terms.newest.version
        budgets = await self._ledger.budgets.today()
        await self._redis.set(gauges_key(self._ledger.shard), self._gauges(budgets).to_json())
        self._shown, self._shown_at = shown, self._ledger.now()

    def roas(self, brand_id: str) -> float:
        """The brand's ROAS as of the last tick; NaN if it is not known."""
        return self._roas.get(brand_id, math.nan)

    def slot_roas(self, brand_id: str, days: Mapping[int, DaySums], window_days: int, today_fraction: float) -> float:
        """Current ROAS over other sums of the brand, such as a slot's; NaN if it is not known.

        Args:
            days: sums by how many days ago, today 0.
            today_fraction: share of today that is over.
        """
        total = completed(days, window_days, today_fraction, self._history.of(brand_id), self._history.usual())
        return current_roas(total, self._settings.min_impressions)

    def completed_today(self, brand_id: str, approved: int, pending: int) -> float:
        """Revenue in micros that the brand's spending of today will have brought, from today's so far."""
        now = self._ledger.now()
        fraction = (now - now.replace(hour=0, minute=0, second=0, microsecond=0)) / dt.timedelta(days=1)
        history, days = self._history.of(brand_id), self._last_days.get(brand_id, {})
        return completed_today(approved, pending, days, fraction, history, self._history.usual())

    # Steps of `tick`

    def _changed(self) -> bool:
        return self._shown != (self._ledger.moves, self._ledger.terms.newest.version)

    async def _restore(self, now: dt.datetime) -> None:
        """Take over throttles and κ from the gauges, so that a restart, or a new number of shards, changes neither."""
        gauges = await read_gauges(self._redis)
        if gauges is not None and _seconds(now, gauges.updated_at) < REMEMBER_S:
            self._ledger.terms.set_throttles(
                {id_: Throttle(brand.share, brand.throttled) for id_, brand in gauges.brands.items()}
            )
            # κ by day is kept until enough demand was seen to solve for it again.
            self._ledger.terms.steer(
                {id_: ControlSignal(brand.kappa) for id_, brand in gauges.brands.items() if brand.kappa is not None}
            )
            self._portfolio_throttles = {
                id_: Throttle(throttled=portfolio.throttled) for id_, portfolio in gauges.portfolios.items()
            }
        self._restored = True

    def _decide(self, days: Mapping[str, Mapping[int, DaySums]], now: dt.datetime, elapsed_s: float) -> None:
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        fraction = (now - midnight) / dt.timedelta(days=1)
        brands, portfolios = self._ledger.directory.brands(), self._ledger.directory.portfolios()
        usual = self._history.usual()
        least, window = self._settings.min_impressions, self._settings.window_days
        sums = {id_: completed(days.get(id_, {}), window, fraction, self._history.of(id_), usual) for id_ in brands}
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
        """The ROAS below which a brand is throttled: the portfolio's, too, while the portfolio is below it."""
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


def _states(budget: Budget) -> dict[str, int | None]:
    return {
        "available": budget.available_micros,
        "leased": budget.leased_micros,
        "reserved": budget.reserved_micros,
        "settled": budget.settled_micros,
    }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _seconds(now: dt.datetime, then: dt.datetime | None) -> float:
    return math.inf if then is None else (now - then).total_seconds()
