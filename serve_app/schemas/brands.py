"""Queries and responses of /api/brands and /api/portfolios; the settings themselves are in `db/brands.py`."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from pydantic import ConfigDict, Field

from db.brands import BrandSettings, Id, PortfolioSettings
from serve_app.schemas.fields import Answer, Query


class PageQuery(Query):
    """Which brands are listed."""

    cursor: Id | None = None
    """`next_cursor` of the page before; left out: the first page."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    """Brands on a page, at most."""


class Budgets(Answer):
    """Today's budget by state, in micros: budget = available + leased + reserved + settled − excess."""

    budget: int | None
    """The whole day's budget; null: unlimited."""
    available: int | None
    """Not lent to any replica yet; null: unlimited."""
    leased: int
    """Lent to replicas, which reserve wins from it."""
    reserved: int
    """Held for wins whose actual cost is not known yet."""
    settled: int
    """Actual cost of today."""
    excess: int
    """What is leased, reserved and settled beyond the budget, after a budget cut or a cost above its reservation."""
    overspend: int
    """What is settled beyond the budget."""


class Today(Budgets):
    """Today's budget by state and today's results, in micros; today is the brand's budget day."""

    cost: int
    """Cost of today's events."""
    revenue: int
    """Approved revenue of today's events."""
    roas: float | None
    """revenue ÷ cost of today; null if there is no cost."""


class Scheduled(Answer):
    """A change of portfolio or time zone that starts at the brand's next midnight."""

    portfolio_id: str | None
    """The portfolio from then on; null: none."""
    timezone: str
    """The time zone from then on."""
    from_: dt.datetime = Field(alias="from")
    """When it starts."""


class Brand(BrandSettings, frozen=True):
    """A brand's settings, λ, budget and results of today."""

    model_config = ConfigDict(extra="ignore")

    brand_id: str
    """The brand's id."""
    today: Today
    """Today's budget and results, in micros."""
    lambda_: float = Field(alias="lambda")
    """λ, the price of one micro of cost in micros of revenue, that its bids are scored with now."""
    throttled: bool
    """Whether it takes part in fewer auctions, because its ROAS is below throttle_roas."""
    notes: list[str] | None = None
    """What you should know of today's budget, such as a cut below what is spent already; left out if nothing."""
    scheduled: Scheduled | None = None
    """A change of portfolio or time zone that is due; left out if none."""


class BrandPage(Answer):
    """One page of brands, ordered by id."""

    brands: list[Brand]
    """The page's brands."""
    next_cursor: str | None
    """Send it as `cursor` to get the next page; null: this is the last."""


class Portfolio(PortfolioSettings, frozen=True):
    """A portfolio's settings, members and budget of today."""

    model_config = ConfigDict(extra="ignore")

    portfolio_id: str
    """The portfolio's id."""
    brand_ids: list[str]
    """The brands that belong to it."""
    today: Budgets
    """Today's shared budget, in micros."""
    notes: list[str] | None = None
    """What you should know of today's budget, such as a cut below what is spent already; left out if nothing."""
