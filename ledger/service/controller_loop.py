"""Computes every brand's κ anew every few seconds, from the demand that replicas saw and the day's results."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Callable, Mapping

from db.outage import Outage
from ledger.bidding.brand_state import Limits
from ledger.bidding.controller import Controller, DayResults, Rules, traffic_of
from ledger.bidding.demand import DemandColumns, added_up, unpacked
from ledger.bidding.terms import ControlSignal
from ledger.domain.budget_day import day_ends_at, day_of, midnight
from ledger.domain.errors import LedgerUnavailable
from ledger.domain.settings import RoasSettings
from ledger.service.ledger import Ledger

logger = logging.getLogger("paceline.pilot")
TRAFFIC_S = 3600.0
"""How often the distribution of traffic over the day is learned again."""

TRAFFIC_DAYS = 28
AT_ONCE = 250
"""Brands whose demand is taken in before the event loop gets its turn."""

Completed = Callable[[str, int, int], float]
"""(brand id, approved, pending revenue of today) → revenue that today's spending will have brought, in micros."""


class ControllerLoop:
    """
    Args:
        completed: adds to a brand's revenue of today what approvals and late conversions will add.
        stopwatch: monotonic seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: RoasSettings,
        completed: Completed = lambda _brand, approved, pending: approved + pending,
        stopwatch: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger, self._settings, self._completed, self._stopwatch = ledger, settings, completed, stopwatch
        self._controller = Controller(settings.watch_s)
        self._waiting: list[DemandColumns] = []
        self._shaped_s: float | None = None
        self._frozen: dict[str, str] = {}
        self._inherited: dict[str, tuple[dt.date, ControlSignal]] | None = None
        self._outage = Outage(logger, f"shard {ledger.shard}: λ is solved for again")

    @property
    def frozen(self) -> Mapping[str, str]:
        """By id of each frozen brand, why it was frozen."""
        return self._frozen

    def observe(self, seen: bytes) -> None:
        """Keep the demand of a beat for the next step."""
        if not seen:
            return
        try:
            self._waiting.append(unpacked(seen))
        except ValueError:
            line = "shard %d: %d bytes of a replica's demand cannot be decoded, λ is solved without them"
            logger.exception(line, self._ledger.shard, len(seen))

    async def keep_steering(self) -> None:
        """Solve every `resolve_s` seconds until cancelled; errors are logged, and the next turn tries again."""
        shard = self._ledger.shard
        while True:
            await asyncio.sleep(self._settings.resolve_s)
            try:
                await self.step()
                self._outage.ended()
            except LedgerUnavailable as error:
                self._outage.failed(
                    f"shard {shard}: λ keeps its last values until the database answers: {error.reason}"
                )
            except Exception as error:
                again = f"retrying in {self._settings.resolve_s:g} s"
                line = f"shard {shard}: solving for λ failed, λ keeps its last values, {again}"
                self._outage.failed(line, logging.ERROR, error)

    async def step(self) -> None:
        """Solve for κ of the brands with new demand, and put it into the terms."""
        waiting, self._waiting = self._waiting, []
        now_s = self._stopwatch()
        if self._shaped_s is None or now_s - self._shaped_s >= TRAFFIC_S:
            self._controller.shape(*traffic_of(await self._ledger.performance.traffic(TRAFFIC_DAYS)))
            self._shaped_s = now_s
        if not waiting:
            return
        rules = self._rules()
        seen = list(added_up(waiting).items())
        for start in range(0, len(seen), AT_ONCE):
            self._controller.observe(dict(seen[start : start + AT_ONCE]), rules, now_s)
            await asyncio.sleep(0)  # others have their turn: this loop answers beats, too
        results = await self._results(self._controller.news)
        shared = {
            id_: Limits(settings.target_roas, settings.daily_budget_micros)
            for id_, settings in self._ledger.directory.portfolios().items()
        }
        steering = self._controller.step(rules, results, shared)
        for brand_id in steering.frozen.keys() - self._frozen.keys():
            logger.error("brand %s is frozen at last night's λ: %s", brand_id, steering.frozen[brand_id])
        for brand_id in self._frozen.keys() - steering.frozen.keys():
            logger.warning("brand %s: λ is steered by day again", brand_id)
        self._frozen = steering.frozen
        self._ledger.terms.steer(self._with_inherited(steering.steered, rules))

    def _with_inherited(
        self, steered: Mapping[str, ControlSignal], rules: Mapping[str, Rules]
    ) -> dict[str, ControlSignal]:
        """Add the κ of a ledger before this one, until the brand was watched for long enough or its day ends."""
        if self._inherited is None:
            self._inherited = {
                brand_id: (rules[brand_id].day, one)
                for brand_id, one in self._ledger.terms.steered.items()
                if brand_id in rules
            }
        self._inherited = {
            brand_id: (day, one)
            for brand_id, (day, one) in self._inherited.items()
            if brand_id not in steered and brand_id in rules and rules[brand_id].day == day
        }
        return {**{brand_id: one for brand_id, (_, one) in self._inherited.items()}, **steered}

    def _rules(self) -> dict[str, Rules]:
        now = self._ledger.now()
        days: dict[str, tuple[dt.date, float, float]] = {}
        rules = {}
        for brand_id, brand in self._ledger.directory.owned(now).items():
            settings = brand.settings
            timezone = settings.timezone
            if timezone not in days:
                start = midnight(timezone, day_of(timezone, now))
                end = day_ends_at(timezone, now)
                days[timezone] = day_of(timezone, now), (now - start).total_seconds(), (end - start).total_seconds()
            day, now_s, day_s = days[timezone]
            rules[brand_id] = Rules(
                day,
                settings.target_roas,
                settings.daily_budget_micros,
                settings.exploration,
                settings.portfolio_id,
                self._ledger.directory.night_kappa(brand),
                self._ledger.directory.has_fit(brand_id),
                now_s,
                day_s,
            )
        return rules

    async def _results(self, brand_ids: frozenset[str]) -> dict[str, DayResults]:
        least = self._settings.min_impressions
        found = {}
        for brand_id, (budget, sums) in (await self._ledger.performance.days_of(brand_ids)).items():
            # With too few impressions the predicted revenue is used.
            revenue = None
            if sums.impressions >= max(least, 1):
                revenue = self._completed(brand_id, sums.revenue_micros, sums.pending_revenue_micros)
            found[brand_id] = DayResults(budget.settled_micros, budget.reserved_micros, revenue)
        return found
