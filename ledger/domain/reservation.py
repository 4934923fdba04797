"""A win's hold: how long it lives, how it shrinks, how it ends (once)."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from ledger.domain.budget_day import ONE_DAY

OPEN, SETTLED, EXPIRED, RETURNED, VOID = "open", "settled", "expired", "returned", "void"
CONVERSION_MODELS = ("cpa", "revshare")
"""Paid when a conversion comes, days after the click: the hold must outlive both."""

DelayCurve = Callable[[float], float]
"""Share of a hold (0–1) that is still needed at a share (0–1) of its lifetime; never rises."""


def linear(age: float) -> float:
    return max(0.0, 1.0 - age)


class Lifetimes(NamedTuple):
    reservation_ttl_s: float
    conversion_days: int


@dataclass(frozen=True, slots=True)
class Reservation:
    reservation_id: str
    brand_id: str
    portfolio_id: str | None
    partner_id: str
    pricing_model: str
    day: dt.date  # of the budget that holds it
    amount_micros: int  # when it was made
    held_micros: int  # now
    settled_micros: int  # Σ over its events of their latest cost, after its end too
    status: str
    created_at: dt.datetime
    expires_at: dt.datetime
    due_at: dt.datetime | None  # when it expires or shrinks next
    ended_at: dt.datetime | None = None
    session_id: int | None = None  # whose lease it was drawn from
    award_id: str = ""  # the wins of one answer have one; empty: an event has named it, its replica not yet
    instead_id: str | None = None  # void, for its request had been paid for: events go to this one

    @property
    def is_open(self) -> bool:
        return self.status == OPEN

    @property
    def is_late(self) -> bool:
        """Its money went back before the cost came."""
        return self.status in (EXPIRED, RETURNED, VOID)

    def end(self, status: str, now: dt.datetime) -> Self:
        if not self.is_open:
            raise ValueError(f"{self.reservation_id} has ended already: {self.status}")
        return replace(self, status=status, held_micros=0, due_at=None, ended_at=now)

    def settle(self, cost_micros: int) -> Self:
        return replace(self, settled_micros=self.settled_micros + cost_micros)

    def age(self, now: dt.datetime, curve: DelayCurve = linear) -> Self:
        """What time makes of it: nothing, a smaller hold, or its end."""
        if not self.is_open:
            return self
        if now >= self.expires_at:
            return self.end(EXPIRED, now)
        held = held_at(self.amount_micros, self.pricing_model, self.created_at, self.expires_at, now, curve)
        due = due_at(self.pricing_model, self.created_at, self.expires_at, now)
        return replace(self, held_micros=min(self.held_micros, held), due_at=due)


def expires_at(pricing_model: str, created_at: dt.datetime, lifetimes: Lifetimes) -> dt.datetime:
    if pricing_model in CONVERSION_MODELS:
        return created_at + dt.timedelta(days=lifetimes.conversion_days)
    return created_at + dt.timedelta(seconds=lifetimes.reservation_ttl_s)


def held_at(
    amount_micros: int,
    pricing_model: str,
    created_at: dt.datetime,
    end: dt.datetime,
    now: dt.datetime,
    curve: DelayCurve = linear,
) -> int:
    """What must still be held: all of it, or for conversions what the delay curve leaves, in daily steps, rounded up.

    The lifetime is the one that was promised when the hold was made, whatever the settings say today.

    >>> start = dt.datetime(2024, 5, 1, tzinfo=dt.UTC)
    >>> end, now = start + dt.timedelta(days=30), start + dt.timedelta(days=10, hours=5)
    >>> held_at(3000, "cpa", start, end, now)
    2000
    """
    if now >= end:
        return 0
    if pricing_model not in CONVERSION_MODELS:
        return amount_micros
    days = (now - created_at) // ONE_DAY
    if days <= 0:
        return amount_micros
    # Rounding to 1e-9 keeps a binary fraction's last digit from holding a micro more than the curve says.
    return min(amount_micros, math.ceil(round(amount_micros * curve(days * ONE_DAY / (end - created_at)), 9)))


def due_at(pricing_model: str, created_at: dt.datetime, end: dt.datetime, now: dt.datetime) -> dt.datetime:
    """When the hold expires or shrinks next after `now`."""
    if pricing_model not in CONVERSION_MODELS:
        return end
    return min(end, created_at + ((now - created_at) // ONE_DAY + 1) * ONE_DAY)
