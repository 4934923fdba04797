"""Creates, changes and shows brands and portfolios: settings, today's budget and today's results."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from db.brands import BrandSettings, PortfolioSettings
from ledger.domain.brand import Brand, Portfolio
from ledger.domain.budget import Budget
from ledger.domain.budget_day import budget_day, day_of
from ledger.domain.errors import CurrencyFixed, NotFound, OtherShard, PortfolioMismatch, PortfolioUnknown
from ledger.domain.messages import Change
from ledger.service.budgets import Budgets
from ledger.service.directory import Clock, Directory
from ledger.service.live_terms import LiveTerms
from ledger.service.settings_change import brand_after, portfolio_after
from ledger.service.transactions import Transactions
from ledger.storage.store import Store
from ledger.transaction.working_set import BRAND, PORTFOLIO, BudgetKey


class Administration:
    def __init__(
        self,
        store: Store,
        directory: Directory,
        budgets: Budgets,
        terms: LiveTerms,
        transactions: Transactions,
        clock: Clock,
    ) -> None:
        self._store, self._directory, self._budgets, self._terms = store, directory, budgets, terms
        self._transactions, self._clock = transactions, clock

    # Brands

    async def put_brand(self, brand_id: str, settings: BrandSettings | Change) -> dict[str, Any]:
        """Create, replace or change. Budgets change at once; portfolio and time zone at the next midnight.

        Args:
            settings: a change is applied to what the brand has in the transaction that writes it. Settings, which
                replace whatever there is, are what replicas of the version before send.

        Raises:
            NotFound, PreconditionFailed, SettingsInvalid, PortfolioUnknown, PortfolioMismatch, CurrencyFixed,
            OtherShard: nothing was changed.
        """

        if settings.portfolio_id is not None and self._directory.portfolio(settings.portfolio_id) is None:
            await self._terms.refresh()  # another shard may just have made it

        def keep(brand: Brand) -> None:
            self._directory.put_brand(brand)
            self._terms.remake()

        brand = await self._transactions.move(lambda connection: self._put_brand(connection, brand_id, settings), keep)
        return (await self._describe([brand]))[0]

    def _put_brand(self, connection: Connection, brand_id: str, asked: BrandSettings | Change) -> Brand:
        now = self._clock()
        stored = self._store.directory.brands(connection, [brand_id], lock=True).get(brand_id)
        known = stored.at(now) if stored is not None else None
        home = self._directory.home_of(known) if known else self._directory.home_of_new(asked.portfolio_id, brand_id)
        if home != self._directory.shard:
            raise OtherShard("brand", brand_id, home)
        settings = asked if isinstance(asked, BrandSettings) else brand_after(asked, brand_id, known)
        brand = Brand(brand_id, settings, now)
        self._check_portfolio(brand_id, settings)
        if known is not None:
            if known.settings.currency == settings.currency:
                brand = known.put(settings, now)
            elif self._store.directory.brand_money_moved(connection, brand_id):
                raise CurrencyFixed("brand", brand_id, known.settings.currency)
            # A new currency means that no money has ever moved: portfolio and time zone can change at once, too.
            today = BudgetKey(BRAND, brand_id, brand.day(now))
            self._budgets.set_limit(connection, now, today, settings.daily_budget_micros)
        self._store.directory.put_brand(connection, brand, stored is None, now)
        return brand

    def _check_portfolio(self, brand_id: str, settings: BrandSettings) -> None:
        if settings.portfolio_id is None:
            return
        portfolio = self._directory.portfolio(settings.portfolio_id)
        if portfolio is None:
            raise PortfolioUnknown(settings.portfolio_id)
        for field in ("currency", "timezone"):
            wanted, has = getattr(portfolio.settings, field), getattr(settings, field)
            if wanted != has:
                raise PortfolioMismatch(portfolio.portfolio_id, brand_id, field, wanted, has)

    async def get_brand(self, brand_id: str) -> dict[str, Any]:
        """Settings, today's budget and results, λ and throttle, as GET /api/brands/{brand_id} shows them.

        Raises:
            NotFound: no such brand.
            OtherShard: it belongs to another shard.
        """
        if self._directory.brand(brand_id) is None:
            await self._terms.refresh()
        brand = self._directory.brand(brand_id)
        if brand is None:
            raise NotFound("brand", brand_id)
        if (home := self._directory.home_of_id(brand_id)) != self._directory.shard:
            raise OtherShard("brand", brand_id, home)
        return (await self._describe([brand]))[0]

    async def list_brands(self, cursor: str | None = None, limit: int = 100) -> tuple[list[dict[str, Any]], str | None]:
        """A page of this shard's brands by their ids, and the cursor of the next page (None: that was the last)."""
        own = self._directory.owned(self._clock())
        ids = sorted(id_ for id_ in own if cursor is None or id_ > cursor)
        page = ids[: max(1, limit)]
        brands = await self._describe([own[id_] for id_ in page])
        return brands, page[-1] if len(page) < len(ids) else None

    async def _describe(self, brands: Sequence[Brand]) -> list[dict[str, Any]]:
        now = self._clock()
        current = [brand.at(now) for brand in brands]

        def work(connection: Connection) -> list[dict[str, Any]]:
            budgets = self._budgets.of_brands(connection, now, current)
            return [
                self._shown(brand, budgets[brand.brand_id], *self._results(connection, brand, now)) for brand in current
            ]

        return await self._store.epochs.read(work)

    def _results(self, connection: Connection, brand: Brand, now: dt.datetime) -> tuple[int, int]:
        """(cost, revenue) of the brand's today, in micros."""
        today = budget_day(brand.settings.timezone, now)
        return self._store.events.results(connection, brand.brand_id, today.starts_at, today.ends_at)

    def _shown(self, brand: Brand, budget: Budget, cost: int, revenue: int) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "brand_id": brand.brand_id,
            **brand.settings.model_dump(),
            "today": {**_states(budget), "cost": cost, "revenue": revenue, "roas": revenue / cost if cost else None},
            "lambda": self._terms.lambda_of(brand),
            "throttled": self._terms.throttle(brand.brand_id).throttled,
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

    # Portfolios

    async def put_portfolio(self, portfolio_id: str, settings: PortfolioSettings | Change) -> dict[str, Any]:
        """Create, replace or change. Currency and time zone can change only while it has no members.

        Args:
            settings: as of `put_brand`.

        Raises:
            NotFound, PreconditionFailed, SettingsInvalid, PortfolioMismatch, CurrencyFixed, OtherShard: nothing was
            changed.
        """
        self._check_own_portfolio(portfolio_id)

        def keep(portfolio: Portfolio) -> None:
            self._directory.put_portfolio(portfolio)
            self._terms.remake()

        await self._transactions.write(lambda connection: self._put_portfolio(connection, portfolio_id, settings), keep)
        return await self.get_portfolio(portfolio_id)

    def _put_portfolio(self, connection: Connection, portfolio_id: str, asked: PortfolioSettings | Change) -> Portfolio:
        now = self._clock()
        known = self._store.directory.portfolios(connection).get(portfolio_id)
        settings = asked if isinstance(asked, PortfolioSettings) else portfolio_after(asked, portfolio_id, known)
        portfolio = Portfolio(portfolio_id, settings, now)
        for brand in self._store.directory.members(connection, portfolio_id).values():
            if brand.at(now).is_member(portfolio_id):
                _check_members_agree(brand, portfolio, known)
        if known is not None:
            if known.settings.currency != settings.currency and self._store.directory.portfolio_money_moved(
                connection, portfolio_id
            ):
                raise CurrencyFixed("portfolio", portfolio_id, known.settings.currency)
            today = BudgetKey(PORTFOLIO, portfolio_id, day_of(settings.timezone, now))
            self._budgets.set_limit(connection, now, today, settings.daily_budget_micros)
        self._store.directory.put_portfolio(connection, portfolio, known is None, now)
        return portfolio

    def _check_own_portfolio(self, portfolio_id: str) -> None:
        home = self._directory.home_of_portfolio(portfolio_id)
        if home != self._directory.shard:
            raise OtherShard("portfolio", portfolio_id, home)

    async def get_portfolio(self, portfolio_id: str) -> dict[str, Any]:
        """Settings, members and today's budget.

        Raises:
            NotFound: no such portfolio.
            OtherShard: it belongs to another shard.
        """
        self._check_own_portfolio(portfolio_id)
        if self._directory.portfolio(portfolio_id) is None:
            await self._terms.refresh()
        portfolio = self._directory.portfolio(portfolio_id)
        if portfolio is None:
            raise NotFound("portfolio", portfolio_id)
        now = self._clock()
        key = BudgetKey(PORTFOLIO, portfolio_id, day_of(portfolio.settings.timezone, now))
        budget = await self._budgets.one(key, portfolio.settings.daily_budget_micros)
        members = sorted(id_ for id_, brand in self._directory.brands().items() if brand.portfolio_id == portfolio_id)
        return {
            "portfolio_id": portfolio_id,
            **portfolio.settings.model_dump(),
            "brand_ids": members,
            "today": _states(budget),
            **({"notes": notes} if (notes := _notes(budget)) else {}),
        }


def _check_members_agree(brand: Brand, portfolio: Portfolio, known: Portfolio | None) -> None:
    for field in ("currency", "timezone"):
        wanted = getattr(portfolio.settings, field)
        has = getattr((known or portfolio).settings, field)
        if wanted != has:
            raise PortfolioMismatch(portfolio.portfolio_id, brand.brand_id, field, wanted, has)


def _notes(budget: Budget) -> list[str]:
    """A note where today's budget is below what is leased, reserved and settled already."""
    if not budget.excess_micros:
        return []
    return [
        f"today's budget of {budget.budget_micros} µ is less than what is in use: "
        f"{budget.leased_micros} µ leased, {budget.reserved_micros} µ reserved, {budget.settled_micros} µ settled. "
        f"Nothing new is lent today until {budget.excess_micros} µ of it are released."
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
