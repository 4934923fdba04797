"""Request and response of POST /api/score."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from db.brands import Currency, Id
from db.fields import MOST_MICROS
from serve_app.schemas.fields import Answer, Body, Number, Price, PricingModel, Time
from serve_app.schemas.structs import LEFT_OUT


class Bid(Body):
    """One brand's offer for one slot."""

    bid_id: Id
    """Your name for this bid, unique within the request."""
    brand_id: Id
    """The brand that bids. It must have been created, by PUT /api/brands or by an import."""
    partner_id: Id
    """The partner that the slot belongs to; a partner's token may only name its own."""
    slot_id: Id
    """The slot. It need not be known: an unseen one is predicted from its partner's history."""
    device_type: Id
    """The device that the impression is shown on, such as `mobile`; use the same words in every request and event."""
    creative_type: Id
    """The kind of creative, such as `160x600`; use the same words in every request and event."""
    placement_score: Number | None = None
    """Your own quality score of the placement, any finite number; null or left out: none."""
    pricing_model: PricingModel
    """What the brand pays for: `cpm` 1,000 impressions, `cpc` a click, `cpa` a conversion, `revshare` a share of the
    revenue."""
    price_micros: Price | None = None
    """Price in micros of the request's currency: per 1,000 impressions (cpm), per click (cpc) or per conversion (cpa).
    Required for these three, not allowed for revshare."""
    revenue_share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    """For revshare only, where it is required: the share of the revenue that the brand pays, 0 to 1."""

    @model_validator(mode="after")
    def _priced(self) -> Self:
        if self.pricing_model == "revshare":
            if self.revenue_share is None or self.price_micros is not None:
                raise PydanticCustomError("price", "a revshare bid needs revenue_share, and no price_micros")
        elif self.price_micros is None or self.revenue_share is not None:
            raise PydanticCustomError("price", "a cpm, cpc or cpa bid needs price_micros, and no revenue_share")
        return self


class ScoreRequest(Body):
    """The bids for one auction."""

    request_id: Id
    """Your name for this request, unique per token `sub`. Sent again within `PACELINE_SCORE_IDEMPOTENCY_S` (120 s) with
    the same body, it gets the same answer; with another body, 409."""
    bids: Annotated[list[Bid], Field(min_length=1, max_length=1000)]
    """1 to 1,000 bids."""
    winners: Annotated[int, Field(ge=1, le=50)] = 1
    """How many bids may win in the whole request, at most one of each brand."""
    explain: bool = False
    """Add to each bid what every feature contributes to its predicted revenue. Slow: half a second for 1,000 bids."""
    currency: Currency | None = None
    """The currency of all prices and of the answer, three capital letters; default `PACELINE_CURRENCY`. Bids of brands
    with another currency are rejected."""
    at: Time | None = None
    """The time that is predicted for: hour and day of the week; default now. Budgets and λ are always today's."""
    floor_micros: Annotated[float, Field(ge=0, le=MOST_MICROS, allow_inf_nan=False)] | None = None
    """Least predicted cost per impression, in micros, of a bid that may win; default none."""
    tmax_ms: Annotated[int, Field(ge=1, le=60_000)] | None = None
    """Deadline in milliseconds from the request's arrival; later the answer is 503 `deadline`. Default
    `PACELINE_SCORE_DEADLINE_MS` (5,000)."""


Status = Literal["won", "lost", "throttled", "no_budget", "rejected"]
Reason = Literal[
    "outbid",
    "score_below_zero",
    "below_floor",
    "roas_throttle",
    "brand_budget",
    "portfolio_budget",
    "no_lease",
    "roas_slack",
    "cost_outlier",
    "brand_unknown",
    "brand_paused",
    "currency_mismatch",
    "not_found",
]


class Contributions(Answer):
    """Why the model predicts what it predicts: SHAP values of log(predicted_revenue_micros)."""

    base: float
    """The expectation before any feature is looked at, a natural logarithm of micros."""
    features: dict[str, float]
    """What each feature adds; base + the sum of them = log(predicted_revenue_micros)."""


class Ranked(Answer):
    """A bid of the request, and what became of it."""

    bid_id: str
    """As in the request."""
    brand_id: str
    """As in the request."""
    rank: int
    """Place in the answer, 1 is the best; rejected bids come last."""
    status: Status
    """`won`: its cost is reserved; `lost`: another bid won, or it was not worth winning; `throttled`: its brand sits
    this auction out; `no_budget`: no money, or no slack, could be reserved; `rejected`: it was not scored."""
    reason: Reason | None
    """Why it did not win; null for `won`. `outbid`: better bids took all places; `score_below_zero`: the brand is
    better off without it; `below_floor`: its predicted cost is below floor_micros; `roas_throttle`: the brand's ROAS is
    below its throttle_roas; `brand_budget`, `portfolio_budget`: today's budget is used up or reserved; `no_lease`: the
    ledger could not be asked in time, try the next auction; `roas_slack`: it is worth less than the target ROAS, and
    what the brand's shown wins have earned above the target does not cover that; `cost_outlier`: its predicted
    cost is above the brand's max_cost_micros; `brand_unknown`: no such brand; `brand_paused`: it is not active;
    `currency_mismatch`: its currency is not the request's; `not_found`: the partner is not one of your token's."""
    score: float | None
    """predicted_revenue_micros × strategy_multiplier − lambda × predicted_cost_micros, in micros per impression; null
    if rejected, as are the next five."""
    predicted_revenue_micros: float | None
    """Expected revenue of one impression, in micros."""
    predicted_cost_micros: float | None
    """Expected cost of one impression, in micros."""
    predicted_roas: float | None
    """predicted_revenue_micros ÷ predicted_cost_micros; null also if the cost is 0."""
    strategy_multiplier: float | None
    """The brand's setting; it moves the brand against other brands."""
    lambda_: float | None = Field(alias="lambda")
    """λ, the price of one micro of cost in micros of revenue, that keeps the brand's target ROAS and budget."""
    reservation_id: str | None = None
    """Of a win: send it with the events of this impression, so that the reserved cost is settled. Else null."""
    reserved_micros: int | None = None
    """Of a win: micros held in the brand's budget, the predicted cost rounded up. Else null."""
    expires_at: dt.datetime | None = None
    """Of a win: when the reserved cost goes back unless an event has settled it. Else null."""
    contributions: Annotated[Contributions | None, LEFT_OUT] = None
    """With `explain: true` only; null if rejected."""


class ScoreResponse(Answer):
    """All bids of the request, the best first."""

    request_id: str
    """As in the request."""
    model_version: str
    """The model that made the predictions."""
    currency: str
    """Of all micros in the answer."""
    ranked: list[Ranked]
    """All bids, the best first, rejected ones last."""
