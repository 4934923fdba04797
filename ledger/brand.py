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


class Multipliers(NamedTuple):
    """Of a brand's newest λ fit."""

    mu_brand: float = 0.0
    mu_portfolio: float = 0.0
    nu_brand: float = 0.0
    nu_portfolio: float = 0.0


@dataclass(frozen=True, slots=True)
class Brand:
    brand_id: str
    settings: BrandSettings
    scheduled: Scheduled | None = None

    def at(self, now: dt.datetime) -> Brand:
        """With what was scheduled, once its time has come."""
        if self.scheduled is None or now < self.scheduled.start:
            return self
        moved = {"portfolio_id": self.scheduled.portfolio_id, "timezone": self.scheduled.timezone}
        return replace(self, settings=self.settings.model_copy(update=moved), scheduled=None)

    def day(self, at: dt.datetime) -> dt.date:
        return day_of(self.settings.timezone, at)


@dataclass(frozen=True, slots=True)
class Portfolio:
    portfolio_id: str
    settings: PortfolioSettings
