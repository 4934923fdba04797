"""Query and response of GET /api/roas."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from db.brands import Id
from serve_app.schemas.fields import Answer, Number, Query, Time


class RoasQuery(Query):
    """Which slot is asked about, as which brand sees it."""

    brand_id: Id
    """The brand."""
    partner_id: Id
    """The partner that the slot belongs to."""
    slot_id: Id
    """The slot; one that was never seen is predicted from its partner's history."""
    device_type: Id = "unknown"
    """The device to predict for. If given, only its rows are counted in `actual`."""
    creative_type: Id = "unknown"
    """The kind of creative to predict for. If given, only its rows are counted in `actual`."""
    placement_score: Number | None = None
    """Your quality score of the placement to predict for; `actual` counts all scores."""
    at: Time | None = None
    """The time to predict for, whose UTC day is the last of the window; default now."""
    window: Literal["1d", "7d", "28d"] = "7d"
    """How many days `actual` sums, the day of `at` included."""


class Actual(Answer):
    """What was reported for the slot within the window."""

    impressions: int
    """Impressions shown."""
    clicks: int
    """Clicks."""
    conversions: int
    """Conversions, pending ones included, rejected ones not."""
    cost_micros: int | None
    """Cost in micros; null if no row's cost is known."""
    revenue_micros: int
    """Approved revenue in micros."""
    pending_revenue_micros: int
    """Revenue in micros of conversions that are neither approved nor rejected yet."""
    roas: float | None
    """Revenue ÷ cost, with what late conversions and pending approvals are expected to add; null if it is not known."""


class Confidence(Answer):
    """How much history stands behind the prediction."""

    impressions: float
    """Impressions behind it, older ones counting less (half after ten days with data)."""
    level: str
    """The most specific level with history of its own: `placement`, `creative`, `device`, `slot`, `partner`, `brand`,
    or `all` for a brand that was never seen."""


class RoasResponse(Answer):
    """Predicted and actual revenue, cost and ROAS of a brand in a slot."""

    brand_id: str
    """As in the query."""
    partner_id: str
    """As in the query."""
    slot_id: str
    """As in the query."""
    window: str
    """As in the query."""
    currency: str
    """The brand's, of all micros in the answer."""
    predicted_roas: float | None
    """predicted_revenue_micros ÷ predicted_cost_micros; null if the cost is 0 or not known."""
    predicted_revenue_micros: float
    """Expected revenue of one impression, in micros."""
    predicted_cost_micros: float | None
    """Expected cost of one impression in micros, by the slot's history; null if no cost was ever reported."""
    target_roas: float
    """The ROAS that the brand is set to."""
    lambda_: float = Field(alias="lambda")
    """λ, the price of one micro of cost in micros of revenue, that the brand's bids are scored with now."""
    model_version: str
    """The model that made the prediction."""
    actual: Actual
    """What was reported within the window."""
    confidence: Confidence
    """How much history stands behind the prediction."""
