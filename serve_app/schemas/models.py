"""Queries and responses of /api/models."""

from __future__ import annotations

import datetime as dt
from typing import Any

from pydantic import ConfigDict, Field

from db.brands import Id
from serve_app.schemas.fields import Answer, Query, Time


class ModelsQuery(Query):
    """What is asked beside the list of versions."""

    at: Time | None = None
    """Also tell, as `as_of`, which version and which λ were live at this time."""
    brand_id: Id | None = None
    """With `at`: only this brand's λ; left out: every brand's."""


class GateCheck(Answer):
    """One condition of the gate."""

    check: str
    """Its name."""
    passed: bool
    """Whether the new version meets it."""
    detail: str
    """The figures that decided."""


class GateDuel(Answer):
    """Metrics of both sides on the same rows: `rows`, `exposure`, `r2`, `deviance`, `calibration`."""

    challenger: dict[str, Any] | None
    """The new version's; null if it could not be judged on these rows."""
    champion: dict[str, Any] | None
    """The live version's; null if there was none, or if it has been trained on these rows."""


class GateRows(Answer):
    """How much history there is, against what is usual."""

    newest: int
    """Rows of the newest day."""
    usual: float | None
    """Median rows of a day in the week before; null if the newest day is not over, or few days came before it."""
    known: int
    """Rows that are left of the days that the champion was trained on."""
    learned: int | None
    """Rows that the champion was trained on; null if it does not say."""


class WorstBrand(GateDuel):
    """The brand whose predictions got worst, with both sides' metrics on its rows."""

    brand_id: str
    """The brand."""


class BrandShift(Answer):
    """The brand whose predictions changed most."""

    brand_id: str
    """The brand."""
    shift: float
    """Median |log(challenger ÷ champion)| of its golden rows: 0.69 is twice or half."""


class Gate(Answer):
    """How the new version (challenger) compared with the one that was live (champion)."""

    accepted: bool
    """Whether it may go live."""
    reason: str
    """Why, in a sentence."""
    checks: list[GateCheck] = Field(default=[])
    """Every condition that could be checked."""
    newest_day: GateDuel | None = None
    """Both sides on the newest day, which neither was trained on."""
    week: GateDuel | None = None
    """Both sides on the week before, which both were trained on."""
    worst_brand: WorstBrand | None = None
    """The brand whose predictions got worst on the newest day; null if no brand had enough impressions."""
    brands_compared: int = 0
    """Brands with enough impressions on the newest day to be judged by themselves."""
    rows: GateRows | None = None
    """How much history there was."""
    score_shift: float | None = None
    """How far predictions moved: median |log(challenger ÷ champion)| over the champion's golden rows; 0.69 is twice or
    half."""
    brand_shift: BrandShift | None = None
    """The same of the brand that moved most."""


class ModelVersion(Answer):
    """A model version that a nightly run has made."""

    version: str
    """Its name: when it was made, in UTC, and six digits of a hash."""
    parent: str | None
    """The version that was live when it was made; null for the first."""
    engine: str
    """The trees' library: `lightgbm` or `xgboost`."""
    trained_through: dt.date
    """The last day of the history that it was trained on."""
    status: str
    """`published`: it may be made live; `rejected`: it lost at the gate and is kept to look at."""
    simulated: bool
    """Whether it was trained on the simulated market instead of real data."""
    live: bool
    """Whether it is the live version."""
    created_at: dt.datetime
    """When it was published."""
    metrics: dict[str, Any]
    """Its training's and the gate's figures."""
    gate: Gate | None = None
    """How it compared with the version that was live; null if it was not compared."""


class BrandLambda(Answer):
    """A brand's λ at a time."""

    model_config = ConfigDict(extra="ignore")

    brand_id: str
    """The brand."""
    night_kappa: float | None
    """κ of the nightly fit that was in force; null: there was none, so λ began at the target ROAS."""
    fitted_at: dt.datetime | None
    """When that fit was made."""
    lambda_: float | None = Field(alias="lambda")
    """λ that its bids were scored with, strategy multiplier × κ; null: none was recorded in the two days before."""
    kappa: float | None
    """κ as solved during the day; null: the nightly fit's was in force."""
    since: dt.datetime | None
    """When this λ was recorded."""


class AsOf(Answer):
    """What was live at a time."""

    at: dt.datetime
    """The time asked for."""
    model_version: str | None
    """The version that was live; null: none was yet."""
    activated_at: dt.datetime | None
    """When it was made live."""
    reason: str | None
    """Why it was made live: `nightly`, `api`, `operator`, or `fallback` (the version after it was damaged)."""
    lambdas: list[BrandLambda]
    """λ of each brand."""


class ModelPage(Answer):
    """All model versions, the newest first."""

    models: list[ModelVersion]
    """All versions, rejected ones included."""
    as_of: AsOf | None = None
    """What was live at the time asked for; null if none was."""
