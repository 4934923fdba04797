"""GET /api/roas."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from db.brands import Id
from serve_app.schemas.fields import Number, Query, Time


class RoasQuery(Query):
    """Of GET /api/roas. Queries are text, so numbers are read from it."""

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
