"""Brands, portfolios and λ fits as the ledger remembers them between transactions. Money is only in the rows."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from ledger.domain.budget_day import day_ends_at, day_of
from ledger.domain.pricing import kappa

if TYPE_CHECKING:  # they are pydantic models, and the rules of money run on bare Python
    from db.brands import BrandSettings, PortfolioSettings


class Scheduled(NamedTuple):
    """A change of portfolio or time zone waits for midnight: no day has two owners or two lengths."""

    portfolio_id: str | None
    timezone: str
    start: dt.datetime


class Fit(NamedTuple):
    """A brand's newest λ fit that converged."""

    fitted_at: dt.datetime
    kappa: float  # of the multipliers, and moved until the targets held over whole opportunities

    mu_brand: float
    mu_portfolio: float
    nu_brand: float
    nu_portfolio: float
    target_roas: float | None  # None: fitted before limits were kept
    portfolio_target_roas: float | None  # None: fitted alone
    daily_budget_micros: int | None
    portfolio_daily_budget_micros: int | None

    def price(self, brand: BrandSettings, portfolio: PortfolioSettings | None, untouched: bool) -> float:
        """κ under the limits of now: the fit's own while they are the fit's.

        Otherwise its multipliers with the targets of now, raised as much as the fit had to raise its own κ. A brand
        that has joined or left a portfolio since is priced at its target, as one that has no fit.

        Args:
            untouched: brand and portfolio have not been written since the fit; decides where it kept no limits.
        """
        targets = (brand.target_roas, portfolio.target_roas if portfolio else None)
        if self.target_roas is None:
            return max(self.kappa, self._kappa(*targets)) if untouched else self._kappa(*targets)
        budgets = (brand.daily_budget_micros, portfolio.daily_budget_micros if portfolio else None)
        fitted = (self.target_roas, self.portfolio_target_roas)
        if (targets, budgets) == (fitted, (self.daily_budget_micros, self.portfolio_daily_budget_micros)):
            return self.kappa
        if (portfolio is None) != (self.portfolio_target_roas is None):
            return brand.target_roas
        explained = self._kappa(*fitted)
        return self._kappa(*targets) * (self.kappa / explained if explained > 0 else 1.0)

    def _kappa(self, target_brand: float, target_portfolio: float | None) -> float:
        return kappa(
            self.mu_brand, target_brand, self.mu_portfolio, target_portfolio or 0.0, self.nu_brand, self.nu_portfolio
        )


@dataclass(frozen=True, slots=True)
class Brand:
    brand_id: str
    settings: BrandSettings
    updated_at: dt.datetime
    scheduled: Scheduled | None = None

    def at(self, now: dt.datetime) -> Brand:
        """With what was scheduled, once its time has come."""
        if self.scheduled is None or now < self.scheduled.start:
            return self
        moved = {"portfolio_id": self.scheduled.portfolio_id, "timezone": self.scheduled.timezone}
        settings = self.settings.model_copy(update=moved)
        return replace(self, settings=settings, updated_at=self.scheduled.start, scheduled=None)

    def put(self, settings: BrandSettings, now: dt.datetime) -> Brand:
        """With new settings, but portfolio and time zone stay what they are until the brand's next midnight."""
        here = {"portfolio_id": self.settings.portfolio_id, "timezone": self.settings.timezone}
        if here == {"portfolio_id": settings.portfolio_id, "timezone": settings.timezone}:
            return Brand(self.brand_id, settings, now)
        start = self.scheduled.start if self.scheduled else day_ends_at(self.settings.timezone, now)
        scheduled = Scheduled(settings.portfolio_id, settings.timezone, start)
        return Brand(self.brand_id, settings.model_copy(update=here), now, scheduled)

    def is_member(self, portfolio_id: str) -> bool:
        """Whether it is in the portfolio, or will be from its next midnight on."""
        coming = self.scheduled.portfolio_id if self.scheduled else None
        return portfolio_id in (self.settings.portfolio_id, coming)

    def day(self, at: dt.datetime) -> dt.date:
        """The budget day that it has at that moment."""
        return day_of(self.settings.timezone, at)


@dataclass(frozen=True, slots=True)
class Portfolio:
    portfolio_id: str
    settings: PortfolioSettings
    updated_at: dt.datetime
