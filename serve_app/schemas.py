"""The contract: what is accepted and what is answered. The OpenAPI document is made from these models."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from db.brands import MOST_MICROS, BrandSettings, Currency, Id, PortfolioSettings

ID_PATTERN = re.compile(r"[A-Za-z0-9._:\-]{1,64}")
CURRENCY = re.compile(r"[A-Z]{3}")
RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
EARLIEST, LATEST = dt.datetime(1971, 1, 1, tzinfo=dt.UTC), dt.datetime(2200, 1, 1, tzinfo=dt.UTC)


def _time(value: Any) -> Any:
    # Parsed here: in strict mode pydantic takes text for a time only where it reads the JSON itself.
    try:
        if isinstance(value, str) and RFC3339.fullmatch(value):
            return dt.datetime.fromisoformat(value.upper())
    except ValueError:
        pass  # the 30th of February
    raise PydanticCustomError("rfc3339", "must be an RFC 3339 time such as 2026-01-31T12:00:00Z")


def _range(value: dt.datetime) -> dt.datetime:
    if not EARLIEST <= value <= LATEST:
        raise PydanticCustomError("time_range", "must lie between 1971 and 2200")
    return value


Time = Annotated[AwareDatetime, BeforeValidator(_time), AfterValidator(_range)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Price = Annotated[int, Field(ge=1, le=MOST_MICROS)]
Money = Annotated[int, Field(ge=-MOST_MICROS, le=MOST_MICROS)]
Count = Annotated[int, Field(ge=0, le=MOST_MICROS)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Bid(_In):
    bid_id: Id
    brand_id: Id
    partner_id: Id
    slot_id: Id
    device_type: Id
    creative_type: Id
    placement_score: Number | None = None
    pricing_model: Literal["cpm", "cpc", "cpa", "revshare"]
    price_micros: Price | None = Field(
        default=None, description="per 1,000 impressions (cpm), click (cpc) or conversion (cpa)"
    )
    revenue_share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        default=None, description="of revshare, instead of price_micros"
    )

    @model_validator(mode="after")
    def _priced(self) -> Self:
        if self.pricing_model == "revshare":
            if self.revenue_share is None or self.price_micros is not None:
                raise PydanticCustomError("price", "revshare takes revenue_share and no price_micros")
        elif self.price_micros is None or self.revenue_share is not None:
            raise PydanticCustomError("price", "cpm, cpc and cpa take price_micros and no revenue_share")
        return self


class ScoreRequest(_In):
    request_id: Id
    bids: Annotated[list[Bid], Field(min_length=1, max_length=1000)]
    winners: Annotated[int, Field(ge=1, le=50)] = 1
    explain: bool = False
    currency: Currency | None = None
    at: Time | None = Field(default=None, description="sets the time features only; default now")
    floor_micros: Annotated[float, Field(ge=0, le=MOST_MICROS, allow_inf_nan=False)] | None = Field(
        default=None, description="least cost per impression that may win"
    )
    tmax_ms: Annotated[int, Field(ge=1, le=60_000)] | None = Field(default=None, description="deadline of the answer")


Status = Literal["won", "lost", "throttled", "no_budget", "rejected"]
Reason = Literal[
    "outbid",
    "score_below_zero",
    "below_floor",
    "roas_throttle",
    "brand_budget",
    "portfolio_budget",
    "no_lease",
    "brand_unknown",
    "brand_paused",
    "currency_mismatch",
    "not_found",
]


class Contributions(BaseModel):
    base: float
    features: dict[str, float]


class Ranked(BaseModel):
    bid_id: str
    brand_id: str
    rank: int
    status: Status
    reason: Reason | None
    score: float | None
    predicted_revenue_micros: float | None
    predicted_cost_micros: float | None
    predicted_roas: float | None
    strategy_multiplier: float | None
    lambda_: float | None = Field(alias="lambda")
    reservation_id: str | None = None
    reserved_micros: int | None = None
    expires_at: dt.datetime | None = None
    contributions: Contributions | None = None


class ScoreResponse(BaseModel):
    request_id: str
    model_version: str
    currency: str
    ranked: list[Ranked]


class PerformanceEvent(_In):
    event_id: Id
    type: Literal["impression", "click", "conversion", "conversion_update", "aggregate"]
    occurred_at: Time
    brand_id: Id
    partner_id: Id
    slot_id: Id | None = None
    device_type: Id | None = None
    creative_type: Id | None = None
    placement_score: Number | None = None
    reservation_id: Id | None = None
    click_id: Id | None = None
    conversion_id: Id | None = None
    status: Literal["pending", "approved", "rejected"] | None = None
    period: Literal["hour", "day"] | None = None
    impressions: Count | None = None
    clicks: Count | None = None
    conversions: Count | None = None
    cost_micros: Annotated[int, Field(ge=0, le=MOST_MICROS)] | None = None
    revenue_micros: Money | None = None
    currency: Currency | None = None

    @model_validator(mode="after")
    def _fields_of_type(self) -> Self:
        for wrong in _wrong_fields(self):
            raise PydanticCustomError("fields_of_type", "{what}", {"what": wrong})
        return self


TUPLE = ("slot_id", "device_type", "creative_type")
COUNTS = ("impressions", "clicks", "conversions")
NEEDS = {
    "impression": TUPLE,
    "click": TUPLE,
    "conversion": ("conversion_id", "status"),
    "conversion_update": ("conversion_id",),
    "aggregate": (*TUPLE, "period"),
}
REFUSES = {
    "impression": ("conversion_id", "status", "period", "click_id", "revenue_micros", *COUNTS),
    "click": ("conversion_id", "status", "period", "revenue_micros", *COUNTS),
    "conversion": ("period", *COUNTS),
    "conversion_update": ("period", *COUNTS),
    "aggregate": ("reservation_id", "click_id", "conversion_id", "status"),
}


def _wrong_fields(event: PerformanceEvent) -> list[str]:
    wrong = [f"{event.type} needs {name}" for name in NEEDS[event.type] if getattr(event, name) is None]
    wrong += [f"{event.type} takes no {name}" for name in REFUSES[event.type] if getattr(event, name) is not None]
    if event.type == "conversion":
        given = [name for name in TUPLE if getattr(event, name) is not None]
        if len(given) != len(TUPLE) and (given or event.click_id is None):
            wrong.append("conversion needs slot_id, device_type and creative_type, or a click_id to inherit them from")
        if event.revenue_micros is not None and event.revenue_micros < 0:
            wrong.append("conversion takes no negative revenue; send a conversion_update")
    if (
        event.type == "conversion_update"
        and event.status is None
        and event.cost_micros is None
        and event.revenue_micros is None
    ):
        wrong.append("conversion_update needs a status, cost_micros or revenue_micros")
    return wrong


class PerformanceRequest(_In):
    events: Annotated[list[PerformanceEvent], Field(min_length=1, max_length=10_000)]


class EventResult(BaseModel):
    event_id: str
    status: Literal["accepted", "duplicate", "conflict", "rejected"]
    code: str | None = None
    message: str | None = None


class PerformanceResponse(BaseModel):
    accepted: int
    duplicates: int
    rejected: int
    items: list[EventResult]


class RoasQuery(BaseModel):
    """Of GET /api/roas. Queries are text, so numbers are read from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    brand_id: Id
    partner_id: Id
    slot_id: Id
    device_type: Id = "unknown"
    creative_type: Id = "unknown"
    placement_score: Number | None = None
    at: Time | None = None
    window: Literal["1d", "7d", "28d"] = "7d"


class Actual(BaseModel):
    impressions: int
    clicks: int
    conversions: int
    cost_micros: int | None
    revenue_micros: int
    pending_revenue_micros: int
    roas: float | None


class Confidence(BaseModel):
    impressions: float
    level: str


class RoasResponse(BaseModel):
    brand_id: str
    partner_id: str
    slot_id: str
    window: str
    currency: str
    predicted_roas: float | None
    predicted_revenue_micros: float
    predicted_cost_micros: float | None
    target_roas: float
    lambda_: float = Field(alias="lambda")
    model_version: str
    actual: Actual
    confidence: Confidence


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


class PageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    cursor: Id | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class ModelsQuery(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

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
