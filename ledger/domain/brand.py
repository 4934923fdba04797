"""Brands, portfolios and λ fits, as the ledger keeps them in memory. Balances are only in the database."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from ledger.domain.budget_day import day_ends_at, day_of
from ledger.domain.pricing import kappa

if TYPE_CHECKING:  # they are pydantic models, and this package needs only the standard library
    from db.brands import BrandSettings, PortfolioSettings


class Scheduled(NamedTuple):
    """A change of portfolio or time zone, which starts at midnight, so that no day has two owners or two lengths."""

    portfolio_id: str | None
    timezone: str
    start: dt.datetime


class Fit(NamedTuple):
    """A brand's newest λ fit that converged."""

    fitted_at: dt.datetime
    kappa: float  # from the multipliers, raised until the targets held over whole opportunities

    mu_brand: float
    mu_portfolio: float
    nu_brand: float
    nu_portfolio: float
    target_roas: float | None  # None: fitted before limits were kept
    portfolio_target_roas: float | None  # None: fitted alone
    daily_budget_micros: int | None
    portfolio_daily_budget_micros: int | None

    def price(self, brand: BrandSettings, portfolio: PortfolioSettings | None, untouched: bool) -> float:
        """κ under the limits of now: the fit's own κ if the limits have not changed since the fit.

        Otherwise it is computed from the fit's multipliers and the targets of now, and raised by the factor by which
        the fit raised its κ. A brand that has joined or left a portfolio since gets its ROAS target.

        Args:
            untouched: brand and portfolio were not written since the fit; used where the fit has no limits stored.
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
        """The brand at that time: with its scheduled change, if that has started."""
        if self.scheduled is None or now < self.scheduled.start:
            return self
        moved = {"portfolio_id": self.scheduled.portfolio_id, "timezone": self.scheduled.timezone}
        settings = self.settings.model_copy(update=moved)
        return replace(self, settings=settings, updated_at=self.scheduled.start, scheduled=None)

    def put(self, settings: BrandSettings, now: dt.datetime) -> Brand:
        """The brand with new settings; a change of portfolio or time zone is scheduled for its next midnight."""
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
        """The brand's budget day at that moment."""
        return day_of(self.settings.timezone, at)


@dataclass(frozen=True, slots=True)
class Portfolio:
    portfolio_id: str
    settings: PortfolioSettings
    updated_at: dt.datetime
