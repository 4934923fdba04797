"""Decides on each event of a batch, and settles its cost. Pure: `EventRecording` reads rows before and writes after.

posting = EventPosting(now, events, brands, hashes, clicks, groups, reservations)
results = posting.post(working_set, figures)   # with the rows of `posting.budget_keys` and `posting.row_keys`
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ledger.domain.brand import Brand
from ledger.domain.budget import MONEY_MOST
from ledger.domain.errors import MoneyOutOfRange
from ledger.domain.messages import Event, Result
from ledger.domain.reservation import SETTLED, Reservation
from ledger.domain.settlement import (
    CLICK,
    CONVERSION,
    CONVERSIONS,
    NOTHING,
    Change,
    Effect,
    Fact,
    Figures,
    RowKey,
    change,
    effect_of,
    effect_of_group,
    essential,
    row_of,
)
from ledger.transaction.event_reading import ClickKey, EventKey, EventReader, ReadEvent, key_of, rejected, row_of_event
from ledger.transaction.working_set import BudgetKey, WorkingSet, budget_keys

ConversionGroup = tuple[str, str, str]
"""brand_id, partner_id, conversion_id. The partner is part of it, so that none can restate another's conversion."""


class EventPosting:
    def __init__(
        self,
        now: dt.datetime,
        events: Sequence[Event],
        brands: Mapping[str, Brand],
        hashes: Mapping[EventKey, str],
        clicks: Iterable[Any],
        conversions: Sequence[Any],
        reservations: Mapping[str, Reservation],
    ) -> None:
        """
        Args:
            brands: those that the events name.
            hashes: content hashes of the events that are recorded already.
            clicks: recorded click events that these conversions may inherit from.
            conversions: recorded events of the same groups, and of groups that these clicks may complete.
            reservations: all that any of these name.
        """
        self.now = now
        self._hashes, self._reservations = dict(hashes), reservations
        reader = EventReader(now, brands, reservations, clicks)
        self._groups: dict[ConversionGroup, list[Fact]] = {}
        for row in conversions:
            group = (row.brand_id, row.partner_id, row.conversion_id)
            self._groups.setdefault(group, []).append(reader.fact_of_row(row))
        self._effects: dict[ConversionGroup, Effect] = {}
        self._essentials: dict[ConversionGroup, list[Fact]] = {}
        self._waiting: dict[ClickKey, list[tuple[ConversionGroup, str]]] = {}
        """By click, the (group, event_id) of recorded conversions that the click would complete."""
        for row in conversions:
            if row.click_id is not None and (row.reservation_id is None or row.slot_id is None):
                group = (row.brand_id, row.partner_id, row.conversion_id)
                self._waiting.setdefault((row.brand_id, row.partner_id, row.click_id), []).append((group, row.event_id))
        self._items = reader.read(events, self._hashes)
        self.row_keys, self.budget_keys = self._keys()
        """The rows that must be loaded for `post`."""
        self.event_rows: list[dict[str, Any]] = []
        self.completed: dict[EventKey, Fact] = {}
        """Recorded conversion events that have inherited from a click of this batch."""
        self.changed_figures: dict[RowKey, Figures] = {}

    # Before `post`

    def _keys(self) -> tuple[set[RowKey], set[BudgetKey]]:
        """The performance rows and the budgets that may change."""
        rows: set[RowKey] = set()
        owners = {(held.brand_id, held.portfolio_id, held.day) for held in self._reservations.values()}
        for brand_id, fact in self._facts():
            owners.add((brand_id, fact.portfolio_id, fact.day))
            if (row := row_of(fact)) is not None:
                rows.add(row)
        return rows, {key for owner in owners for key in budget_keys(*owner)}

    def _facts(self) -> Iterable[tuple[str, Fact]]:
        for item in self._items:
            if isinstance(item, ReadEvent):
                yield item.event.brand_id, item.fact
                for facts in self._completed_by(item).values():
                    yield from ((item.event.brand_id, fact) for fact in facts)
        for group, facts in self._groups.items():
            for fact in facts:
                yield group[0], fact

    # `post`

    def post(self, working_set: WorkingSet, figures: Mapping[RowKey, Figures]) -> list[Result]:
        """Settle the events in order, and return a result for each. An event that is not accepted changes nothing."""
        rows = dict(figures)
        return [item if isinstance(item, Result) else self._post(item, working_set, rows) for item in self._items]

    def _post(self, item: ReadEvent, working_set: WorkingSet, rows: dict[RowKey, Figures]) -> Result:
        event, fact = item.event, item.fact
        key = key_of(event)
        if (known := self._hashes.get(key)) is not None:
            return Result(event.event_id, "duplicate" if known == item.content_hash else "conflict")
        group = group_of(event)
        if group is None:
            difference = change(NOTHING, effect_of(fact))
        else:
            facts = self._essential(group)
            if not event.restates and any(other.type == CONVERSION for other in facts):
                return rejected(event, "restatement", "the conversion is recorded; only its brand may restate it")
            new = effect_of_group([*facts, fact])
            difference = change(self._effect(group), new)
        try:
            self._apply(event.brand_id, difference, working_set, rows, item.is_late)
        except MoneyOutOfRange:
            return rejected(event, "amount_too_large", "a sum would exceed ±(2^53 − 1)")
        self._hashes[key] = item.content_hash
        if group is not None:
            self._groups.setdefault(group, []).append(fact)
            self._effects[group], self._essentials[group] = new, essential([*facts, fact])
        self.event_rows.append(row_of_event(item, self.now))
        if fact.reservation_id is not None:
            working_set.confirm(self._reservations[fact.reservation_id])
        for group, facts in self._completed_by(item).items():
            self._complete(group, facts, working_set, rows)
        return Result(event.event_id, "accepted")

    def _completed_by(self, item: ReadEvent) -> dict[ConversionGroup, list[Fact]]:
        """By group, the facts of recorded conversions that inherit from this click."""
        event = item.event
        if event.type != CLICK or event.click_id is None:
            return {}
        found: dict[ConversionGroup, list[Fact]] = {}
        for group, event_id in self._waiting.get((event.brand_id, event.partner_id, event.click_id), ()):
            facts = found.get(group, self._groups[group])
            found[group] = [fact.inheriting(item.fact) if fact.event_id == event_id else fact for fact in facts]
        return {group: facts for group, facts in found.items() if facts != self._groups[group]}

    def _complete(
        self, group: ConversionGroup, facts: list[Fact], working_set: WorkingSet, rows: dict[RowKey, Figures]
    ) -> None:
        effect = effect_of_group(facts)
        try:
            self._apply(group[0], change(self._effect(group), effect), working_set, rows)
        except MoneyOutOfRange:
            return  # a sum would be too large: the cost stays where it is
        for before, after in zip(self._groups[group], facts, strict=True):
            if before != after:
                self.completed[(group[0], group[1], after.event_id)] = after
        self._groups[group], self._effects[group], self._essentials[group] = facts, effect, essential(facts)

    def _essential(self, group: ConversionGroup) -> list[Fact]:
        """The group's events that matter: a handful, even where a batch restates a conversion ten thousand times."""
        if group not in self._essentials:
            self._essentials[group] = essential(self._groups.get(group, []))
        return self._essentials[group]

    def _effect(self, group: ConversionGroup) -> Effect:
        return self._effects.get(group) or effect_of_group(self._essential(group))

    def _apply(
        self,
        brand_id: str,
        difference: Change,
        working_set: WorkingSet,
        rows: dict[RowKey, Figures],
        is_late: bool = False,
    ) -> None:
        """Raises: MoneyOutOfRange, then nothing has changed."""
        changed = _moved(rows, difference)
        self._move_money(working_set, brand_id, difference, is_late)
        rows.update(changed)
        self.changed_figures.update(changed)

    def _move_money(self, working_set: WorkingSet, brand_id: str, difference: Change, is_late: bool) -> None:
        # Additions go first: only they can be refused, and then nothing has changed yet.
        for charge, cost_micros in sorted(difference.costs, key=lambda cost: -cost[1]):
            held = self._reservations.get(charge.reservation_id) if charge.reservation_id else None
            late = is_late if held is None else working_set.current(held).is_late
            working_set.settle(brand_id, charge.portfolio_id, charge.day, cost_micros, held, late)
        for reservation_id in sorted(difference.ends):
            working_set.end(self._reservations[reservation_id], SETTLED)


def group_of(event: Event) -> ConversionGroup | None:
    if event.type not in CONVERSIONS or event.conversion_id is None:
        return None
    return event.brand_id, event.partner_id, event.conversion_id


def _moved(rows: Mapping[RowKey, Figures], difference: Change) -> dict[RowKey, Figures]:
    changed: dict[RowKey, Figures] = {}
    for key, delta in difference.rows:
        before = changed.get(key) or rows.get(key) or Figures(cost_micros=0 if key.kind == "event" else None)
        after = before.plus(delta)
        for value in after:
            if value is not None and abs(value) > MONEY_MOST:
                raise MoneyOutOfRange(value)
        changed[key] = after
    return changed
