"""POST /api/score."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from db.brands import Currency, Id
from db.fields import MOST_MICROS
from serve_app.schemas.fields import Body, Number, Price, PricingModel, Time
from serve_app.schemas.structs import LEFT_OUT


class Bid(Body):
    bid_id: Id
    brand_id: Id
    partner_id: Id
    slot_id: Id
    device_type: Id
    creative_type: Id
    placement_score: Number | None = None
    pricing_model: PricingModel
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


class ScoreRequest(Body):
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
    contributions: Annotated[Contributions | None, LEFT_OUT] = None


class ScoreResponse(BaseModel):
    request_id: str
    model_version: str
    currency: str
    ranked: list[Ranked]
