"""/api/models."""

from __future__ import annotations

import datetime as dt
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from db.brands import Id
from serve_app.schemas.fields import Query, Time


class ModelsQuery(Query):
    at: Time | None = None
    """Ask what was live then, too."""
    brand_id: Id | None = None
    """Only this brand's λ at that time."""


class GateCheck(BaseModel):
    check: str
    passed: bool
    detail: str


class GateDuel(BaseModel):
    """Metrics of both sides on the same rows; null: it could not be judged, or has learned from them."""

    challenger: dict[str, Any] | None
    champion: dict[str, Any] | None


class GateRows(BaseModel):
    newest: int
    usual: float | None
    known: int
    learned: int | None


class WorstBrand(GateDuel):
    brand_id: str


class BrandShift(BaseModel):
    brand_id: str
    shift: float


class Gate(BaseModel):
    """How the version did against the one that was live."""

    accepted: bool
    reason: str
    checks: list[GateCheck] = []
    newest_day: GateDuel | None = None
    week: GateDuel | None = None
    worst_brand: WorstBrand | None = None
    brands_compared: int = 0
    rows: GateRows | None = None
    score_shift: float | None = None
    """Median |log(challenger ÷ champion)| over the champion's golden rows."""
    brand_shift: BrandShift | None = None
    """The same of the brand whose golden rows moved most."""


class ModelVersion(BaseModel):
    version: str
    parent: str | None
    engine: str
    trained_through: dt.date
    status: str
    simulated: bool
    live: bool
    created_at: dt.datetime
    metrics: dict[str, Any]
    gate: Gate | None = None


class BrandLambda(BaseModel):
    """A brand's λ at a time."""

    model_config = ConfigDict(extra="ignore")

    brand_id: str
    night_kappa: float | None
    """κ of the night's fit that was in force; null: none was, λ began at the target."""
    fitted_at: dt.datetime | None
    lambda_: float | None = Field(alias="lambda")
    """What its bids were scored with: multiplier × κ; null: nothing was recorded."""
    kappa: float | None
    """As solved by day; null: the night's was in force."""
    since: dt.datetime | None


class AsOf(BaseModel):
    at: dt.datetime
    model_version: str | None
    activated_at: dt.datetime | None
    reason: str | None
    """Why it was made live: nightly, api, operator, fallback."""
    lambdas: list[BrandLambda]


class ModelPage(BaseModel):
    models: list[ModelVersion]
    as_of: AsOf | None = None
    """What was live at the time asked for."""
