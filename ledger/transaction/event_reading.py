"""Checks a batch's events, and finds each one's budget day, reservation, and what it inherits from its click. Pure."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from db.times import AHEAD, Bounds
from ledger.domain.brand import Brand
from ledger.domain.messages import Event, Placement, Result
from ledger.domain.reservation import Reservation
from ledger.domain.settlement import (
    AGGREGATE,
    CLICK,
    CONVERSION,
    CONVERSIONS,
    IMPRESSION,
    UPDATE,
    Fact,
    fact_of_row,
    known_click,
)

EventKey = tuple[str, str, str]
"""brand_id, partner_id, event_id: no two events have the same."""

ClickKey = tuple[str, str, str]
"""brand_id, partner_id, click_id."""

EARLIEST = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
"""Nothing has happened before that every database and time zone could represent."""

TYPES = (IMPRESSION, CLICK, CONVERSION, UPDATE, AGGREGATE)


class ReadEvent(NamedTuple):
    """An event that may be accepted."""

    event: Event
    content_hash: str
    fact: Fact
    is_late: bool  # it names a reservation that is not known


class EventReader:
    """
    Args:
        now: events may not have happened later, or hardly.
        brands: those that the events name.
        reservations: all that the events, or the recorded ones, name.
        clicks: recorded click events that conversions may inherit from.
    """

    def __init__(
        self,
        now: dt.datetime,
        brands: Mapping[str, Brand],
        reservations: Mapping[str, Reservation],
        clicks: Iterable[Any],
    ) -> None:
        self._bounds, self._brands, self._reservations = Bounds(EARLIEST, now + AHEAD), brands, reservations
        self._clicks: dict[ClickKey, list[Fact]] = {}
        for row in clicks:
            self._clicks.setdefault((row.brand_id, row.partner_id, row.click_id), []).append(self.fact_of_row(row))

    def read(self, events: Sequence[Event], known: Collection[EventKey]) -> list[ReadEvent | Result]:
        """Each event as it was read, in order; a result for each that is rejected.

        Args:
            known: events that are recorded already.
        """
        clicks = self._read_clicks(events, known)
        return [clicks.get(number) or self._read(event, key_of(event) in known) for number, event in enumerate(events)]

    def fact_of_row(self, row: Any) -> Fact:
        """The fact of a row of `events`."""
        held = self._reservations.get(row.reservation_id) if row.reservation_id else None
        return fact_of_row(row, None if held is None else held.pricing_model)

    def _read_clicks(self, events: Sequence[Event], known: Collection[EventKey]) -> dict[int, ReadEvent | Result]:
        """Read the clicks first, since conversions of the same batch may inherit from them, whatever the order.

        Returns:
            The clicks as they were read, by index in the batch.
        """
        seen = set(known)
        items: dict[int, ReadEvent | Result] = {}
        for number, event in enumerate(events):
            key = key_of(event)
            if key in seen:
                continue
            seen.add(key)
            if event.type == CLICK and event.click_id is not None:
                items[number] = item = self._read(event, False)
                if isinstance(item, ReadEvent):
                    self._clicks.setdefault((event.brand_id, event.partner_id, event.click_id), []).append(item.fact)
        return items

    def _read(self, event: Event, is_known: bool) -> ReadEvent | Result:
        brand = self._brands.get(event.brand_id)
        if brand is None:
            return rejected(event, "not_found", "no such brand")
        if event.currency is not None and event.currency != brand.settings.currency:
            return rejected(event, "currency_mismatch", f"the brand's currency is {brand.settings.currency}")
        if event.type not in TYPES:
            return rejected(event, "invalid", "no such type of event")
        # What is recorded is a duplicate, although a clock that has been set back sees it ahead.
        code = None if is_known else self._bounds.code(event.occurred_at)
        if code is not None:
            return rejected(event, code, f"occurred_at {self._bounds.reason(code)}")
        place, reservation_id = _place(event), event.reservation_id
        if event.type in CONVERSIONS:
            if event.conversion_id is None:
                return rejected(event, "invalid", "a conversion needs its conversion_id")
            if event.click_id is not None and (place is None or reservation_id is None):
                click = known_click(self._clicks.get((event.brand_id, event.partner_id, event.click_id), ()))
                if click is not None:
                    place = place or click.place
                    reservation_id = reservation_id or click.reservation_id
                elif place is None and event.type == CONVERSION:
                    why = "no such click; give slot_id, device_type and creative_type, or send the click first"
                    return rejected(event, "click_unknown", why)
        if place is None and event.type != UPDATE:
            return rejected(event, "tuple_missing", "slot_id, device_type and creative_type are needed")
        content_hash = content_hash_of(event)
        fact = self._fact(event, brand, place, reservation_id)
        return ReadEvent(event, content_hash, fact, reservation_id is not None and fact.reservation_id is None)

    def _fact(self, event: Event, brand: Brand, place: Placement | None, reservation_id: str | None) -> Fact:
        held = self._reservations.get(reservation_id) if reservation_id else None
        if held is not None and (held.brand_id, held.partner_id) != (event.brand_id, event.partner_id):
            held = None  # another brand's or partner's: treated as unknown
        return Fact(
            event_id=event.event_id,
            type=event.type,
            occurred_at=event.occurred_at,
            place=place,
            day=brand.day(event.occurred_at) if held is None else held.day,
            portfolio_id=brand.settings.portfolio_id if held is None else held.portfolio_id,
            reservation_id=None if held is None else held.reservation_id,
            pricing_model=None if held is None else held.pricing_model,
            status=event.status,
            period=event.period,
            impressions=event.impressions,
            clicks=event.clicks,
            conversions=event.conversions,
            cost_micros=event.cost_micros,
            revenue_micros=event.revenue_micros,
        )


def key_of(event: Event) -> EventKey:
    return event.brand_id, event.partner_id, event.event_id


def content_hash_of(event: Event) -> str:
    """A hash of the event's content: equal for a repetition, different for another event under the same id."""
    content = (
        event.type, event.occurred_at.astimezone(dt.UTC).isoformat(), event.slot_id, event.device_type,
        event.creative_type, event.placement_score, event.reservation_id, event.click_id, event.conversion_id,
        event.status, event.period, event.impressions, event.clicks, event.conversions, event.cost_micros,
        event.revenue_micros,
    )  # fmt: skip
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _place(event: Event) -> Placement | None:
    if event.slot_id is None or event.device_type is None or event.creative_type is None:
        return None
    return Placement(
        event.brand_id, event.partner_id, event.slot_id, event.device_type, event.creative_type, event.placement_score
    )


def row_of_event(item: ReadEvent, now: dt.datetime) -> dict[str, Any]:
    event, fact = item.event, item.fact
    return {
        "brand_id": event.brand_id,
        "partner_id": event.partner_id,
        "event_id": event.event_id,
        "content_hash": item.content_hash,
        "type": event.type,
        "occurred_at": event.occurred_at,
        "received_at": now,
        "day": fact.day,
        "portfolio_id": fact.portfolio_id,
        "slot_id": fact.place.slot_id if fact.place else None,
        "device_type": fact.place.device_type if fact.place else None,
        "creative_type": fact.place.creative_type if fact.place else None,
        "placement_score": fact.place.placement_score if fact.place else None,
        "reservation_id": fact.reservation_id,
        "click_id": event.click_id,
        "conversion_id": event.conversion_id,
        "status": event.status,
        "period": event.period,
        "impressions": 1 if event.type == IMPRESSION else event.impressions,
        "clicks": 1 if event.type == CLICK else event.clicks,
        "conversions": 1 if event.type == CONVERSION else event.conversions,
        "cost_micros": event.cost_micros,
        "revenue_micros": event.revenue_micros,
    }


def rejected(event: Event, code: str, message: str) -> Result:
    return Result(event.event_id, "rejected", code, message)
