"""POST /api/performance."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from db.brands import Currency, Id
from serve_app.schemas.fields import Body, Count, Money, Number, Time

PLACE = ("slot_id", "device_type", "creative_type")
COUNTS = ("impressions", "clicks", "conversions")
NEEDS = {
    "impression": PLACE,
    "click": PLACE,
    "conversion": ("conversion_id", "status"),
    "conversion_update": ("conversion_id",),
    "aggregate": (*PLACE, "period"),
}
REFUSES = {
    "impression": ("conversion_id", "status", "period", "click_id", "revenue_micros", *COUNTS),
    "click": ("conversion_id", "status", "period", "revenue_micros", *COUNTS),
    "conversion": ("period", *COUNTS),
    "conversion_update": ("period", *COUNTS),
    "aggregate": ("reservation_id", "click_id", "conversion_id", "status"),
}


class PerformanceEvent(Body):
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
    cost_micros: Count | None = None
    revenue_micros: Money | None = None
    currency: Currency | None = None

    @model_validator(mode="after")
    def _fields_of_type(self) -> Self:
        for wrong in _wrong_fields(self):
            raise PydanticCustomError("fields_of_type", "{what}", {"what": wrong})
        return self


def _wrong_fields(event: PerformanceEvent) -> list[str]:
    wrong = [f"{event.type} needs {name}" for name in NEEDS[event.type] if getattr(event, name) is None]
    wrong += [f"{event.type} takes no {name}" for name in REFUSES[event.type] if getattr(event, name) is not None]
    if event.type == "conversion":
        given = [name for name in PLACE if getattr(event, name) is not None]
        if len(given) != len(PLACE) and (given or event.click_id is None):
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


class PerformanceRequest(Body):
    events: Annotated[list[PerformanceEvent], Field(min_length=1, max_length=10_000)]


EventStatus = Literal["accepted", "duplicate", "conflict", "rejected"]


class EventResult(BaseModel):
    event_id: str
    status: EventStatus
    code: str | None = None
    message: str | None = None


class PerformanceResponse(BaseModel):
    accepted: int
    duplicates: int
    rejected: int
    items: list[EventResult]
