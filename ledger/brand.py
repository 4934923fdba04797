"""Brands and portfolios as the ledger remembers them between transactions. No money here: that is only in the rows."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import NamedTuple

from db.brands import BrandSettings, PortfolioSettings
from ledger.days import day_of


class Scheduled(NamedTuple):
    """A change of portfolio or time zone waits for midnight: no day has two owners or two lengths."""

    portfolio_id: str | None
    timezone: str
    start: dt.datetime


class Fit(NamedTuple):
    """A brand's newest λ fit."""

    fitted_at: dt.datetime
    kappa: float  # of the multipliers, and raised until every limit held over the opportunities

    mu_brand: float
    mu_portfolio: float
    nu_brand: float
    nu_portfolio: float


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

    def day(self, at: dt.datetime) -> dt.date:
        return day_of(self.settings.timezone, at)


@dataclass(frozen=True, slots=True)
class Portfolio:
    portfolio_id: str
    settings: PortfolioSettings
    updated_at: dt.datetime
