"""Brands and portfolios are put and shown: settings, today's budget, what today has brought."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from db.brands import BrandSettings, PortfolioSettings
from ledger.domain.brand import Brand, Portfolio, Scheduled
from ledger.domain.budget import Budget
from ledger.domain.budget_day import day_ends_at, day_of, midnight
from ledger.domain.errors import CurrencyFixed, NotFound, OtherShard, PortfolioMismatch, PortfolioUnknown
from ledger.domain.pricing import lambda_
from ledger.domain.sharding import shard_of
from ledger.service.directory import Directory
from ledger.transaction.working_set import BRAND, PORTFOLIO, BudgetKey


class Administration(Directory):
    async def put_brand(self, brand_id: str, settings: BrandSettings) -> dict[str, Any]:
        """Create or replace. Budgets move at once; a change of portfolio or time zone starts at the next midnight.

        Raises:
            PortfolioUnknown, PortfolioMismatch, CurrencyFixed, OtherShard: nothing was changed.
        """

        if settings.portfolio_id is not None and settings.portfolio_id not in self._portfolios:
            await self.refresh()  # another shard may just have made it

        def work(connection: Connection) -> Brand:
            now = self._clock()
            stored = (self._store.brands(connection, [brand_id], lock=True)).get(brand_id)
            known = stored.at(now) if stored is not None else None
            brand = Brand(brand_id, settings, now)
            if not self.owns(known or brand):
                raise OtherShard("brand", brand_id, self._shard_of(known or brand))
            self._check_portfolio(brand_id, settings)
            if known is not None:
                if known.settings.currency == settings.currency:
                    brand = _scheduled(known, settings, now)
                elif self._store.brand_money_moved(connection, brand_id):
                    raise CurrencyFixed("brand", brand_id, known.settings.currency)
                # Where no money has ever moved, no day needs to be finished: portfolio and time zone change at once.
                self._move_limit(connection, BRAND, brand_id, brand.day(now), settings.daily_budget_micros, now)
            self._store.put_brand(connection, brand, stored is None, now)
            return brand

        async with self._writing:
            brand = await self._store.transact(work)
            self._brands[brand_id] = brand
            self.moves += 1
            self._make_terms()
        return (await self._describe([brand]))[0]

    def _check_portfolio(self, brand_id: str, settings: BrandSettings) -> None:
        if settings.portfolio_id is None:
            return
        portfolio = self._portfolios.get(settings.portfolio_id)
        if portfolio is None:
            raise PortfolioUnknown(settings.portfolio_id)
        for field in ("currency", "timezone"):
            wanted, has = getattr(portfolio.settings, field), getattr(settings, field)
            if wanted != has:
                raise PortfolioMismatch(portfolio.portfolio_id, brand_id, field, wanted, has)

    async def put_portfolio(self, portfolio_id: str, settings: PortfolioSettings) -> dict[str, Any]:
        """Create or replace. Currency and time zone can change only while it has no members.

        Raises:
            PortfolioMismatch, CurrencyFixed, OtherShard: nothing was changed.
        """
        self._check_own_portfolio(portfolio_id)

        def work(connection: Connection) -> Portfolio:
            now = self._clock()
            known = (self._store.portfolios(connection)).get(portfolio_id)
            portfolio = Portfolio(portfolio_id, settings, now)
            for brand in self._store.members(connection, portfolio_id).values():
                if _is_member(brand.at(now), portfolio_id):
                    for field in ("currency", "timezone"):
                        wanted = getattr(settings, field)
                        has = getattr(known.settings if known else settings, field)
                        if wanted != has:
                            raise PortfolioMismatch(portfolio_id, brand.brand_id, field, wanted, has)
            if known is not None:
                if known.settings.currency != settings.currency and self._store.portfolio_money_moved(
                    connection, portfolio_id
                ):
                    raise CurrencyFixed("portfolio", portfolio_id, known.settings.currency)
                day = day_of(settings.timezone, now)
                self._move_limit(connection, PORTFOLIO, portfolio_id, day, settings.daily_budget_micros, now)
            self._store.put_portfolio(connection, portfolio, known is None, now)
            return portfolio

        async with self._writing:
            self._portfolios[portfolio_id] = await self._store.transact(work)
            self._make_terms()
        return await self.get_portfolio(portfolio_id)

    def _check_own_portfolio(self, portfolio_id: str) -> None:
        home = shard_of(portfolio_id, "", self._settings.shards)
        if home != self.shard:
            raise OtherShard("portfolio", portfolio_id, home)

    def _move_limit(
        self, connection: Connection, owner: str, owner_id: str, day: dt.date, limit: int | None, now: dt.datetime
    ) -> None:
        """Top up or cut a day that has begun; one that has not begins with the new budget."""
        key = BudgetKey(owner, owner_id, day)
        page = self._page(connection, now, [key])
        if key in page.existing:
            page.set_limit(key, limit)
            self._store.write(connection, page)

    async def get_brand(self, brand_id: str) -> dict[str, Any]:
        """Settings, today's budget and results, λ and throttle, as GET /api/brands/{brand_id} shows them.

        Raises:
            NotFound: no such brand.
            OtherShard: it is another shard's.
        """
        if brand_id not in self._brands:
            await self.refresh()
        if brand_id not in self._brands:
            raise NotFound("brand", brand_id)
        if (home := self.home_of(brand_id)) != self.shard:
            raise OtherShard("brand", brand_id, home)
        return (await self._describe([self._brands[brand_id]]))[0]

    async def list_brands(self, cursor: str | None = None, limit: int = 100) -> tuple[list[dict[str, Any]], str | None]:
        """A page of this shard's brands by their ids, and the cursor of the next page (None: that was the last)."""
        ids = sorted(id_ for id_ in self.owned(self._clock()) if cursor is None or id_ > cursor)
        page = ids[: max(1, limit)]
        brands = await self._describe([self._brands[id_] for id_ in page])
        return brands, page[-1] if len(page) < len(ids) else None

    async def _describe(self, brands: Sequence[Brand]) -> list[dict[str, Any]]:
        now = self._clock()
        current = [brand.at(now) for brand in brands]

        def work(connection: Connection) -> list[dict[str, Any]]:
            budgets = self._budgets_of(connection, current, now)
            return [
                self._shown(brand, budgets[brand.brand_id], *self._results(connection, brand, brand.day(now)))
                for brand in current
            ]

        return await self._store.read(work)

    def _lambda(self, brand_id: str) -> float:
        """As replicas have it; of another shard's brand, its night's."""
        terms = self._terms.newest.brands.get(brand_id)
        if terms is not None:
            return terms.lambda_
        brand = self._brands[brand_id].at(self._clock())
        return lambda_(brand.settings.strategy_multiplier, self.night_kappa(brand))

    def _results(self, connection: Connection, brand: Brand, day: dt.date) -> tuple[int, int]:
        start = midnight(brand.settings.timezone, day)
        end = midnight(brand.settings.timezone, day + dt.timedelta(days=1))
        return self._store.results(connection, brand.brand_id, start, end)

    def _shown(self, brand: Brand, budget: Budget, cost: int, revenue: int) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "brand_id": brand.brand_id,
            **brand.settings.model_dump(),
            "today": {**_states(budget), "cost": cost, "revenue": revenue, "roas": revenue / cost if cost else None},
            "lambda": self._lambda(brand.brand_id),
            "throttled": self.throttle(brand.brand_id).throttled,
        }
        if notes := _notes(budget):
            shown["notes"] = notes
        if brand.scheduled is not None:
            shown["scheduled"] = {
                "portfolio_id": brand.scheduled.portfolio_id,
                "timezone": brand.scheduled.timezone,
                "from": brand.scheduled.start,
            }
        return shown

    async def get_portfolio(self, portfolio_id: str) -> dict[str, Any]:
        """Settings, members and today's budget.

        Raises:
            NotFound: no such portfolio.
            OtherShard: it is another shard's.
        """
        self._check_own_portfolio(portfolio_id)
        if portfolio_id not in self._portfolios:
            await self.refresh()
        portfolio = self._portfolios.get(portfolio_id)
        if portfolio is None:
            raise NotFound("portfolio", portfolio_id)
        now = self._clock()
        key = BudgetKey(PORTFOLIO, portfolio_id, day_of(portfolio.settings.timezone, now))
        rows = await self._store.read(lambda connection: self._store.budgets(connection, [key]))
        budget = rows[0] if rows else Budget.of(*key, portfolio.settings.daily_budget_micros)
        members = sorted(id_ for id_, brand in self.brands().items() if brand.portfolio_id == portfolio_id)
        return {
            "portfolio_id": portfolio_id,
            **portfolio.settings.model_dump(),
            "brand_ids": members,
            "today": _states(budget),
            **({"notes": notes} if (notes := _notes(budget)) else {}),
        }


def _scheduled(known: Brand, settings: BrandSettings, now: dt.datetime) -> Brand:
    """The new settings; portfolio and time zone stay what they are until the brand's next midnight."""
    here = {"portfolio_id": known.settings.portfolio_id, "timezone": known.settings.timezone}
    if here == {"portfolio_id": settings.portfolio_id, "timezone": settings.timezone}:
        return Brand(known.brand_id, settings, now)
    start = known.scheduled.start if known.scheduled else day_ends_at(known.settings.timezone, now)
    scheduled = Scheduled(settings.portfolio_id, settings.timezone, start)
    return Brand(known.brand_id, settings.model_copy(update=here), now, scheduled)


def _is_member(brand: Brand, portfolio_id: str) -> bool:
    coming = brand.scheduled.portfolio_id if brand.scheduled else None
    return portfolio_id in (brand.settings.portfolio_id, coming)


def _notes(budget: Budget) -> list[str]:
    """What somebody who has just cut a budget should know."""
    if not budget.excess_micros:
        return []
    return [
        f"today's budget of {budget.budget_micros} µ is less than what is out already: "
        f"{budget.leased_micros} µ leased, {budget.reserved_micros} µ reserved, {budget.settled_micros} µ settled. "
        f"Nothing new is lent today until {budget.excess_micros} µ have come back."
    ]


def _states(budget: Budget) -> dict[str, int | None]:
    return {
        "budget": budget.budget_micros,
        "available": budget.available_micros,
        "leased": budget.leased_micros,
        "reserved": budget.reserved_micros,
        "settled": budget.settled_micros,
        "excess": budget.excess_micros,
        "overspend": budget.overspend_micros,
    }
