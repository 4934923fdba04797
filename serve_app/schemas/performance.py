"""Request and response of POST /api/performance."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from db.brands import Currency, Id
from serve_app.schemas.fields import Answer, AnyTime, Body, Count, Money, Number

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
    """Something that happened. Which fields an event needs or may not have depends on its `type`."""

    event_id: Id
    """Your name for the event, never used for another one: a repetition has no effect."""
    type: Literal["impression", "click", "conversion", "conversion_update", "aggregate"]
    """`impression` and `click` need the place (`slot_id`, `device_type`, `creative_type`); `conversion` needs
    `conversion_id`, `status`, and the place or a `click_id` to take it from; `conversion_update` needs `conversion_id`
    and what has changed; `aggregate` needs the place and a `period`."""
    occurred_at: AnyTime
    """When it happened, at most five minutes ahead of now; for aggregates, any time within the hour or day."""
    brand_id: Id
    """The brand that it counts for; events never create a brand."""
    partner_id: Id
    """The partner whose slot it happened in."""
    slot_id: Id | None = None
    """The slot."""
    device_type: Id | None = None
    """The device, in the words of your score requests."""
    creative_type: Id | None = None
    """The kind of creative, in the words of your score requests."""
    placement_score: Number | None = None
    """The placement score of the score request; null or left out: none."""
    reservation_id: Id | None = None
    """The win that it belongs to: its reserved cost is settled or given back. Left out: the cost settles on the brand
    all the same."""
    click_id: Id | None = None
    """Of a click: your name for it. Of a conversion: the click that it came from, whose place and
    reservation it takes."""
    conversion_id: Id | None = None
    """Your name for the conversion; updates name the same one."""
    status: Literal["pending", "approved", "rejected"] | None = None
    """Of a conversion: whether the brand has approved it; `rejected` sets its revenue and cost to zero."""
    period: Literal["hour", "day"] | None = None
    """Of an aggregate: the hour or day around `occurred_at` that it sums. Several for one place and period add up."""
    impressions: Count | None = None
    """Of an aggregate: impressions in the period."""
    clicks: Count | None = None
    """Of an aggregate: clicks in the period."""
    conversions: Count | None = None
    """Of an aggregate: conversions in the period."""
    cost_micros: Count | None = None
    """What the brand pays for it, in micros; in a conversion_update, the whole new amount. Null or left out:
    not known."""
    revenue_micros: Money | None = None
    """What the brand earned by it, in micros; in a conversion_update, the whole new amount, which may be negative."""
    currency: Currency | None = None
    """Of cost and revenue; if given, it must be the brand's."""

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
            wrong.append("conversion needs slot_id, device_type and creative_type, or a click_id to take them from")
        if event.revenue_micros is not None and event.revenue_micros < 0:
            wrong.append("conversion takes no negative revenue_micros; send a conversion_update")
    if (
        event.type == "conversion_update"
        and event.status is None
        and event.cost_micros is None
        and event.revenue_micros is None
    ):
        wrong.append("conversion_update needs a status, cost_micros or revenue_micros")
    return wrong


class PerformanceRequest(Body):
    """A batch of events."""

    events: Annotated[list[PerformanceEvent], Field(min_length=1, max_length=10_000)]
    """1 to 10,000 events, in any order; a mistake in one refuses the whole batch with 422."""


EventStatus = Literal["accepted", "duplicate", "conflict", "rejected"]


class EventResult(Answer):
    """What became of one event."""

    event_id: str
    """As in the request."""
    status: EventStatus
    """`accepted`: stored before this answer was sent; `duplicate`: it was stored before, nothing changes; `conflict`:
    this event_id was used for other content, nothing changes; `rejected`: see `code`."""
    code: str | None = None
    """Why it was rejected, for programs: `not_found`, `forbidden`, `in_the_future`, `too_old`,
    `currency_mismatch`, `click_unknown`, `tuple_missing`, `invalid` and others."""
    message: str | None = None
    """Why it was rejected, for people; the wording may change."""


class PerformanceResponse(Answer):
    """What became of the events."""

    accepted: int
    """Events that were stored."""
    duplicates: int
    """Events that were stored by an earlier request."""
    rejected: int
    """Events with status `rejected` or `conflict`."""
    items: list[EventResult]
    """One result for each event, in the order of the request."""
