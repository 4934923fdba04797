"""What events mean for money and for performance.

An event, or all events of one conversion taken together (a *group*), has one `Effect`: what it costs on which budget
day, what it adds to which performance row, and which holds it ends. The effect of a group depends only on the set of
its events, and a new event changes the books by new effect − old effect. So the result does not depend on the order in
which events come.

Rules for a group:

- its events are the `conversion` and `conversion_update` events of one (brand, partner, conversion_id);
- each field is that of the newest event that has it, by (occurred_at, event_id); status `rejected` sets cost, revenue
  and conversions to 0;
- place, hour, budget day and reservation are those of its oldest `conversion` event; until one has come, of its oldest
  update. An update without a place is charged, but is in no performance row yet;
- a click that comes after its conversion completes it, as if it had come before;
- the holds that it names end as soon as any of its events has a cost, or approves or rejects.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ledger.domain.messages import Placement

IMPRESSION, CLICK, CONVERSION, UPDATE, AGGREGATE = "impression", "click", "conversion", "conversion_update", "aggregate"
CONVERSIONS = (CONVERSION, UPDATE)
"""Types of the events of a group."""

PENDING, APPROVED, REJECTED = "pending", "approved", "rejected"


class Fact(NamedTuple):
    """A recorded event, with what it inherits from its click, and its budget day."""

    event_id: str
    type: str
    occurred_at: dt.datetime
    place: Placement | None
    day: dt.date  # the budget day that its cost belongs to
    portfolio_id: str | None  # the brand's when the event came, or the reservation's
    reservation_id: str | None  # a recorded one of this brand and partner
    pricing_model: str | None  # of the reservation
    status: str | None = None
    period: str | None = None
    impressions: int = 0
    clicks: int = 0
    conversions: int = 0
    cost_micros: int | None = None
    revenue_micros: int | None = None

    @property
    def rank(self) -> tuple[dt.datetime, str]:
        return self.occurred_at, self.event_id

    def inheriting(self, click: Fact) -> Fact:
        """The event with the click's place and reservation, where it has none of its own."""
        fact = self._replace(place=self.place or click.place)
        if fact.reservation_id is not None or click.reservation_id is None:
            return fact
        return fact._replace(
            day=click.day,
            portfolio_id=click.portfolio_id,
            reservation_id=click.reservation_id,
            pricing_model=click.pricing_model,
        )


def fact_of_row(row: Any, pricing_model: str | None) -> Fact:
    """The fact of a row of `events`.

    Args:
        pricing_model: of its reservation; only decides which holds end.
    """
    place = None
    if row.slot_id is not None:
        place = Placement(
            row.brand_id, row.partner_id, row.slot_id, row.device_type, row.creative_type, row.placement_score
        )
    return Fact(
        event_id=row.event_id,
        type=row.type,
        occurred_at=row.occurred_at,
        place=place,
        day=row.day,
        portfolio_id=row.portfolio_id,
        reservation_id=row.reservation_id,
        pricing_model=pricing_model,
        status=row.status,
        cost_micros=row.cost_micros,
        revenue_micros=row.revenue_micros,
    )


class RowKey(NamedTuple):
    """A row of `performance_hourly`."""

    kind: str  # event | aggregate
    period: str  # hour | day
    hour: dt.datetime
    place: Placement


class Figures(NamedTuple):
    impressions: int = 0
    clicks: int = 0
    conversions: int = 0
    cost_micros: int | None = 0  # None: not known
    revenue_micros: int = 0
    pending_revenue_micros: int = 0

    def plus(self, other: Figures, sign: int = 1) -> Figures:
        cost = self.cost_micros
        if other.cost_micros is not None:
            cost = (cost or 0) + sign * other.cost_micros
        return Figures(
            self.impressions + sign * other.impressions,
            self.clicks + sign * other.clicks,
            self.conversions + sign * other.conversions,
            cost,
            self.revenue_micros + sign * other.revenue_micros,
            self.pending_revenue_micros + sign * other.pending_revenue_micros,
        )


class Charge(NamedTuple):
    """The budget day, portfolio and reservation that a cost belongs to."""

    day: dt.date
    portfolio_id: str | None
    reservation_id: str | None


@dataclass(frozen=True, slots=True)
class Effect:
    charge: Charge | None
    cost_micros: int
    row: RowKey | None
    figures: Figures
    ends: frozenset[str]  # ids of reservations whose holds end


NOTHING = Effect(None, 0, None, Figures(), frozenset())


class Change(NamedTuple):
    """New effect − old effect."""

    costs: list[tuple[Charge, int]]
    rows: list[tuple[RowKey, Figures]]
    ends: frozenset[str]


def effect_of(fact: Fact) -> Effect:
    """The effect of an impression, a click or an aggregate."""
    cost = fact.cost_micros or 0
    ends = fact.reservation_id is not None and (
        cost > 0
        or (fact.type == IMPRESSION and fact.pricing_model == "cpm")
        or (fact.type == CLICK and fact.pricing_model == "cpc")
    )
    return Effect(
        charge=Charge(fact.day, fact.portfolio_id, fact.reservation_id),
        cost_micros=cost,
        row=row_of(fact),
        figures=figures_of(fact),
        ends=frozenset((fact.reservation_id,)) if ends and fact.reservation_id else frozenset(),
    )


def effect_of_group(facts: Sequence[Fact]) -> Effect:
    """The effect of the events of one conversion, given in any order."""
    if not facts:
        return NOTHING
    newest_first = sorted(facts, key=lambda fact: fact.rank, reverse=True)
    status = next((fact.status for fact in newest_first if fact.status is not None), PENDING)
    cost = next((fact.cost_micros for fact in newest_first if fact.cost_micros is not None), 0)
    revenue = next((fact.revenue_micros for fact in newest_first if fact.revenue_micros is not None), 0)
    if status == REJECTED:
        cost = revenue = 0
    decided = any(fact.cost_micros or fact.status in (APPROVED, REJECTED) for fact in facts)
    anchor = min(facts, key=_anchor_order)
    return Effect(
        charge=Charge(anchor.day, anchor.portfolio_id, anchor.reservation_id),
        cost_micros=cost,
        row=row_of(anchor),
        figures=Figures(
            conversions=0 if status == REJECTED else 1,
            cost_micros=cost,
            revenue_micros=revenue if status == APPROVED else 0,
            pending_revenue_micros=revenue if status == PENDING else 0,
        ),
        ends=frozenset(fact.reservation_id for fact in facts if fact.reservation_id) if decided else frozenset(),
    )


def _anchor_order(fact: Fact) -> tuple[bool, tuple[dt.datetime, str]]:
    """Sorts first the event that decides place and day: the oldest conversion, else the oldest update."""
    return fact.type != CONVERSION, fact.rank


def essential(facts: Sequence[Fact]) -> list[Fact]:
    """The few events of a conversion that decide its effect, now and with any later events.

    `effect_of_group([*essential(facts), *more])` is `effect_of_group([*facts, *more])`.
    """
    newest_first = sorted(facts, key=lambda fact: fact.rank, reverse=True)
    wanted: list[Callable[[Fact], bool]] = [
        lambda fact: fact.status is not None,
        lambda fact: fact.cost_micros is not None,
        lambda fact: fact.revenue_micros is not None,
        lambda fact: bool(fact.cost_micros) or fact.status in (APPROVED, REJECTED),
    ]
    kept = [fact for is_wanted in wanted if (fact := next(filter(is_wanted, newest_first), None)) is not None]
    kept += [min(facts, key=_anchor_order)] if facts else []
    kept += {fact.reservation_id: fact for fact in facts if fact.reservation_id}.values()
    return list({fact.rank: fact for fact in kept}.values())


def change(old: Effect, new: Effect) -> Change:
    """The changes of costs and rows from one effect to another.

    A row that only the old effect has is taken back in full; a row of both changes by the difference.
    """
    costs: list[tuple[Charge, int]] = []
    if old.charge == new.charge:
        if new.charge is not None and new.cost_micros != old.cost_micros:
            costs.append((new.charge, new.cost_micros - old.cost_micros))
    else:
        if old.charge is not None and old.cost_micros:
            costs.append((old.charge, -old.cost_micros))
        if new.charge is not None and new.cost_micros:
            costs.append((new.charge, new.cost_micros))
    rows: list[tuple[RowKey, Figures]] = []
    if old.row is not None and old.row == new.row:
        rows.append((old.row, new.figures.plus(old.figures, -1)))
    else:
        if old.row is not None:
            rows.append((old.row, Figures().plus(old.figures, -1)))
        if new.row is not None:
            rows.append((new.row, new.figures))
    return Change(costs, rows, new.ends - old.ends)


def known_click(clicks: Iterable[Fact]) -> Fact | None:
    """The oldest of several clicks with one click_id; None if there are none."""
    return min(clicks, key=lambda click: click.rank, default=None)


def row_of(fact: Fact) -> RowKey | None:
    """The performance row that an event is counted in; None while its place is not known."""
    if fact.place is None:
        return None
    hour = fact.occurred_at.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0)
    if fact.type != AGGREGATE:
        return RowKey("event", "hour", hour, fact.place)
    if fact.period == "day":
        return RowKey("aggregate", "day", hour.replace(hour=0), fact.place)
    return RowKey("aggregate", "hour", hour, fact.place)


def figures_of(fact: Fact) -> Figures:
    """What an impression, a click or an aggregate adds to its row."""
    if fact.type == IMPRESSION:
        return Figures(impressions=1, cost_micros=fact.cost_micros or 0)
    if fact.type == CLICK:
        return Figures(clicks=1, cost_micros=fact.cost_micros or 0)
    return Figures(fact.impressions, fact.clicks, fact.conversions, fact.cost_micros, fact.revenue_micros or 0)
