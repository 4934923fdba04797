"""/api/brands and /api/portfolios. What they are set to is `db.brands`."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from db.brands import BrandSettings, Id, PortfolioSettings
from serve_app.schemas.fields import Query


class PageQuery(Query):
    cursor: Id | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class Budgets(BaseModel):
    budget: int | None
    available: int | None
    leased: int
    reserved: int
    settled: int
    excess: int
    overspend: int


class Today(Budgets):
    cost: int
    revenue: int
    roas: float | None


class Scheduled(BaseModel):
    """A change of portfolio or time zone that starts at the brand's next midnight."""

    portfolio_id: str | None
    timezone: str
    from_: dt.datetime = Field(alias="from")


class Brand(BrandSettings, frozen=True):
    model_config = ConfigDict(extra="ignore")

    brand_id: str
    today: Today
    lambda_: float = Field(alias="lambda")
    throttled: bool
    notes: list[str] | None = None
    """What its owner should know of today's budget, if anything."""
    scheduled: Scheduled | None = None


class BrandPage(BaseModel):
    brands: list[Brand]
    next_cursor: str | None


class Portfolio(PortfolioSettings, frozen=True):
    model_config = ConfigDict(extra="ignore")

    portfolio_id: str
    brand_ids: list[str]
    today: Budgets
    notes: list[str] | None = None
    """What its owner should know of today's budget, if anything."""
