"""A win's hold: how long it lives, how it shrinks, and how it ends."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from ledger.domain.budget_day import ONE_DAY

OPEN, SETTLED, EXPIRED, RETURNED, VOID = "open", "settled", "expired", "returned", "void"
CONVERSION_MODELS = ("cpa", "revshare")
"""Pricing models that are paid when a conversion comes, days after the click; holds must last until then."""

LATE_S = 3600.0
"""So long after a hold's end its events still count."""

DelayCurve = Callable[[float], float]
"""Share of its lifetime (0–1) → share of the hold (0–1) that is still needed; it never rises."""


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
    award_id: str = ""  # one for all wins of an answer; empty: made from an event, not recorded by its replica yet
    instead_id: str | None = None  # of a void win: the reservation that its request was paid with gets its events
    price_micros: int | None = None  # per 1,000 impressions, click or conversion
    revenue_share: float | None = None  # of revshare
    revenue_micros: int = 0  # predicted
    lack_micros: int = 0  # slack that it has drawn and that is pending
    portfolio_lack_micros: int = 0
    confirmed: bool = False  # shown, clicked or settled

    @property
    def is_open(self) -> bool:
        return self.status == OPEN

    @property
    def is_late(self) -> bool:
        """Whether the hold was released before the cost came."""
        return self.status in (EXPIRED, RETURNED, VOID)

    def end(self, status: str, now: dt.datetime) -> Self:
        if not self.is_open:
            raise ValueError(f"reservation {self.reservation_id} has ended already: it is {self.status}")
        # Slack that an expired win has drawn stays with it for as long as a late event may still confirm it.
        waits = status == EXPIRED and self.has_lack
        due = self.expires_at + dt.timedelta(seconds=LATE_S) if waits else None
        return replace(self, status=status, held_micros=0, due_at=due, ended_at=now)

    @property
    def has_lack(self) -> bool:
        return self.lack_micros > 0 or self.portfolio_lack_micros > 0

    @property
    def counted_micros(self) -> int:
        """Its cost in the slack: as predicted, or for cpm what was charged if that is more."""
        return max(self.amount_micros, self.settled_micros) if self.pricing_model == "cpm" else self.amount_micros

    def without_lack(self) -> Self:
        return replace(self, lack_micros=0, portfolio_lack_micros=0, due_at=self.due_at if self.is_open else None)

    def confirm(self) -> Self:
        """The win was shown: what it drew is no longer pending, its own revenue and cost count."""
        return replace(self.without_lack(), confirmed=True)

    def settle(self, cost_micros: int) -> Self:
        return replace(self, settled_micros=self.settled_micros + cost_micros)

    def age(self, now: dt.datetime, curve: DelayCurve = linear) -> Self:
        """The reservation at that time: unchanged, with a smaller hold, or expired."""
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
    """Micros that must still be held: all, or for cpa and revshare the curve's share, in daily steps, rounded up.

    The lifetime is that of when the hold was made; later settings do not change it.

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
    # Rounded to 1e-9, or the last digit of a binary fraction could make ceil add a micro.
    return min(amount_micros, math.ceil(round(amount_micros * curve(days * ONE_DAY / (end - created_at)), 9)))


def due_at(pricing_model: str, created_at: dt.datetime, end: dt.datetime, now: dt.datetime) -> dt.datetime:
    """When the hold expires or shrinks next after `now`."""
    if pricing_model not in CONVERSION_MODELS:
        return end
    return min(end, created_at + ((now - created_at) // ONE_DAY + 1) * ONE_DAY)
