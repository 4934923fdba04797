"""The working set of one transaction: rows are read at its start, changed here in memory, and written at its end.

Pure: it knows no database. `Budgets` fills it, and the store writes what is new or has changed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from ledger.domain.budget import Budget
from ledger.domain.errors import MoneyOutOfRange
from ledger.domain.reservation import EXPIRED, RETURNED, SETTLED, VOID, DelayCurve, Reservation, linear
from ledger.domain.slack import Slack
from ledger.transaction.reservation_batch import ReservationBatch

BRAND, PORTFOLIO = "brand", "portfolio"


class BudgetKey(NamedTuple):
    owner: str
    owner_id: str
    day: dt.date


class Entry(NamedTuple):
    """A row of the journal; rows are inserted, never changed."""

    kind: str  # lend | take_back | reserve | settle | late_settle | shrink | expire | return | budget
    brand_id: str | None
    portfolio_id: str | None
    day: dt.date
    reservation_id: str | None = None
    session_id: int | None = None
    budget_delta_micros: int = 0
    leased_delta_micros: int = 0
    reserved_delta_micros: int = 0
    settled_delta_micros: int = 0


class LeaseKey(NamedTuple):
    session_id: int
    brand_id: str
    day: dt.date


class Lent(NamedTuple):
    """A session's lease of a brand's day, as the ledger keeps it."""

    portfolio_id: str | None
    leased_micros: int = 0  # debited, and neither recorded as a win nor returned
    lasting: bool = False  # it may be drawn on for cpa and revshare
    slack_micros: int = 0  # of the brand, for wins below its target
    portfolio_slack_micros: int = 0

    @property
    def is_empty(self) -> bool:
        return not (self.leased_micros or self.slack_micros or self.portfolio_slack_micros)


class SlackMicros(NamedTuple):
    """Micros of a brand's slack and of its portfolio's."""

    brand: int = 0
    portfolio: int = 0

    def plus(self, other: SlackMicros) -> SlackMicros:
        return SlackMicros(self.brand + other.brand, self.portfolio + other.portfolio)

    def __neg__(self) -> SlackMicros:
        return SlackMicros(-self.brand, -self.portfolio)


NO_MICROS = SlackMicros()


def budget_keys(brand_id: str, portfolio_id: str | None, day: dt.date) -> list[BudgetKey]:
    keys = [BudgetKey(BRAND, brand_id, day)]
    return keys if portfolio_id is None else [*keys, BudgetKey(PORTFOLIO, portfolio_id, day)]


class WorkingSet:
    """
    Args:
        budgets: the existing days among those that the transaction may change.
        limits: (owner, owner id) → the budget that a day begins with in micros, None if unlimited; for new days.
        leases: the existing ones among those that the transaction may change.
        slacks: as budgets.
        loaded: the days that were looked for.
    """

    def __init__(
        self,
        now: dt.datetime,
        budgets: Iterable[Budget],
        limits: Callable[[str, str], int | None],
        leases: Mapping[LeaseKey, Lent] | None = None,
        slacks: Iterable[Slack] = (),
        loaded: Iterable[BudgetKey] = (),
    ) -> None:
        self.now = now
        self.entries: list[Entry] = []
        self.changed_budgets: dict[BudgetKey, Budget] = {}
        self.changed_reservations: dict[str, Reservation] = {}
        self.new_reservations: dict[str, Reservation] = {}
        self.batches: list[ReservationBatch] = []
        self.changed_leases: dict[LeaseKey, Lent] = {}
        self.changed_slacks: dict[BudgetKey, Slack] = {}
        self._budgets = {BudgetKey(budget.owner, budget.owner_id, budget.day): budget for budget in budgets}
        self._leases = dict(leases or {})
        self._slacks = {BudgetKey(slack.owner, slack.owner_id, slack.day): slack for slack in slacks}
        self.existing = frozenset(self._budgets)
        self.existing_slacks = frozenset(self._slacks)
        self.loaded = frozenset(loaded)
        self.existing_leases = frozenset(self._leases)
        self._limits = limits

    def add(self, budgets: Iterable[Budget], slacks: Iterable[Slack], loaded: Iterable[BudgetKey]) -> None:
        """Add the existing ones of more days."""
        self.loaded |= frozenset(loaded)
        more = {BudgetKey(slack.owner, slack.owner_id, slack.day): slack for slack in slacks}
        self._slacks = more | self._slacks
        self.existing_slacks |= more.keys()
        found = {BudgetKey(budget.owner, budget.owner_id, budget.day): budget for budget in budgets}
        self._budgets = found | self._budgets
        self.existing |= found.keys()

    def budget(self, key: BudgetKey) -> Budget:
        budget = self._budgets.get(key)
        return budget if budget is not None else Budget.of(*key, budget_micros=self._limits(key.owner, key.owner_id))

    def slack(self, key: BudgetKey) -> Slack:
        return self._slacks.get(key) or Slack(*key)

    # Leases

    @property
    def leases(self) -> list[LeaseKey]:
        return list(self._leases)

    def lent(self, key: LeaseKey) -> Lent | None:
        return self._leases.get(key)

    def room(self, brand_id: str, portfolio_id: str | None, day: dt.date) -> tuple[int | None, str]:
        """(micros that can be lent, None if any amount; whose budget is the smaller, `brand` or `portfolio`)."""
        room: int | None = None
        owner = BRAND
        for key in budget_keys(brand_id, portfolio_id, day):
            available = self.budget(key).available_micros
            if available is not None and (room is None or available < room):
                room, owner = available, key.owner
        return room, owner

    def lend(self, key: LeaseKey, portfolio_id: str | None, micros: int, lasting: bool) -> None:
        """Debit brand and portfolio, and add the amount to the lease.

        Raises:
            BudgetExhausted, MoneyOutOfRange: nothing has changed.
        """
        before = self._leases.get(key) or Lent(portfolio_id)
        self._move_lease(key, before, "lend", micros, lambda budget: budget.lend(micros))
        after = self._leases[key]
        self._leases[key] = self.changed_leases[key] = after._replace(lasting=after.lasting or lasting)

    def take_back(self, key: LeaseKey, micros: int) -> None:
        """Return a part of a lease that was not drawn."""
        if micros:  # for 0 there may be no lease
            self._move_lease(key, self._leases[key], "take_back", -micros, lambda budget: budget.take_back(micros))

    def _move_lease(
        self, key: LeaseKey, before: Lent, kind: str, micros: int, move: Callable[[Budget], Budget]
    ) -> None:
        keys = budget_keys(key.brand_id, before.portfolio_id, key.day)
        self._put(keys, [move(self.budget(one)) for one in keys])
        self._leases[key] = self.changed_leases[key] = before._replace(leased_micros=before.leased_micros + micros)
        self.entries.append(
            Entry(kind, key.brand_id, before.portfolio_id, key.day, None, key.session_id, leased_delta_micros=micros)
        )

    # Slack

    def lend_slack(self, key: LeaseKey, portfolio_id: str | None, micros: SlackMicros) -> None:
        """Lend slack of brand and portfolio, or take it back if negative.

        Raises:
            MoneyOutOfRange: nothing has changed.
        """
        if micros == NO_MICROS:
            return
        before = self._leases.get(key) or Lent(portfolio_id)
        self._move_slack(key.brand_id, before.portfolio_id, key.day, leased=micros)
        self._leases[key] = self.changed_leases[key] = before._replace(
            slack_micros=before.slack_micros + micros.brand,
            portfolio_slack_micros=before.portfolio_slack_micros + micros.portfolio,
        )

    def _draw_slack(self, key: LeaseKey, micros: SlackMicros, is_pending: bool = True) -> None:
        """Move slack from leased to pending. What the lease does not have any more, the slack itself is short of."""
        if micros == NO_MICROS:
            return
        lent = self._leases.get(key) or Lent(None)
        drawn = SlackMicros(min(micros.brand, lent.slack_micros), min(micros.portfolio, lent.portfolio_slack_micros))
        self.lend_slack(key, lent.portfolio_id, -drawn)
        if is_pending:
            self._move_slack(key.brand_id, lent.portfolio_id, key.day, pending=micros)

    def confirm(self, reservation: Reservation) -> None:
        """A win was shown, clicked or settled: from now on it counts with what it was predicted to earn."""
        before = self.current(reservation)
        if before.confirmed or before.status == VOID:
            return
        try:
            self._confirm(before)
        except MoneyOutOfRange:
            return  # it stays unconfirmed, and gives no right to anything
        self.changed_reservations[before.reservation_id] = before.confirm()

    def _confirm(self, before: Reservation) -> None:
        earned, cost = before.revenue_micros, before.counted_micros
        self._move_slack(
            before.brand_id,
            before.portfolio_id,
            before.day,
            pending=-SlackMicros(before.lack_micros, before.portfolio_lack_micros),
            revenue=SlackMicros(earned, earned),
            cost=SlackMicros(cost, cost),
        )

    def complete(self, known: Reservation, record: Reservation, key: LeaseKey) -> None:
        """Add what a win's record says to a hold that an event has made before.

        Args:
            record: the win as its record has it.
        """
        before = self.current(known)
        lacks = SlackMicros(record.lack_micros, record.portfolio_lack_micros)
        after = replace(
            before,
            award_id=record.award_id,
            price_micros=record.price_micros,
            revenue_share=record.revenue_share,
            revenue_micros=record.revenue_micros,
        )
        self._draw_slack(key, lacks, is_pending=not before.confirmed)
        if before.confirmed:
            earned = SlackMicros(record.revenue_micros, record.revenue_micros)
            self._move_slack(before.brand_id, before.portfolio_id, before.day, revenue=earned)
        else:
            after = replace(after, lack_micros=lacks.brand, portfolio_lack_micros=lacks.portfolio)
        self.changed_reservations[before.reservation_id] = after

    def _free_slack(self, reservation: Reservation) -> Reservation:
        """The win cannot be shown any more: what it drew comes back."""
        if reservation.has_lack:
            lacks = SlackMicros(reservation.lack_micros, reservation.portfolio_lack_micros)
            self._move_slack(reservation.brand_id, reservation.portfolio_id, reservation.day, pending=-lacks)
        return reservation.without_lack()

    def _move_slack(
        self,
        brand_id: str,
        portfolio_id: str | None,
        day: dt.date,
        leased: SlackMicros = NO_MICROS,
        pending: SlackMicros = NO_MICROS,
        revenue: SlackMicros = NO_MICROS,
        cost: SlackMicros = NO_MICROS,
    ) -> None:
        """Raises: MoneyOutOfRange, then nothing has changed."""
        moved = {}
        for at, key in enumerate(budget_keys(brand_id, portfolio_id, day)):
            moved[key] = self.slack(key).moved(leased[at], pending[at], revenue[at], cost[at])
        self._slacks |= moved
        self.changed_slacks |= moved

    # Reservations

    def hold(self, key: LeaseKey, reservation: Reservation) -> None:
        """Record a win that was drawn from this lease as a hold."""
        amount = reservation.held_micros
        self._draw(key, amount)
        self._draw_slack(key, SlackMicros(reservation.lack_micros, reservation.portfolio_lack_micros))
        self.new_reservations[reservation.reservation_id] = reservation
        self._write("reserve", reservation, reserved=amount, leased=-amount)

    def hold_all(
        self, batch: ReservationBatch, totals: Mapping[LeaseKey, int], lacks: Mapping[LeaseKey, SlackMicros]
    ) -> None:
        """`hold` of many wins at once.

        Args:
            totals: what they take from each lease, all of which exist.
            lacks: the slack that they take.
        """
        for key, amount in totals.items():
            self._draw(key, amount)
        for key, micros in lacks.items():
            self._draw_slack(key, micros)
        self.batches.append(batch)

    def _draw(self, key: LeaseKey, micros: int) -> None:
        """Move an amount from leased to reserved."""
        if micros:  # for 0 there may be no lease
            lent = self._leases[key]
            keys = budget_keys(key.brand_id, lent.portfolio_id, key.day)
            self._put(keys, [self.budget(one).hold(micros) for one in keys])
            self._leases[key] = self.changed_leases[key] = lent._replace(leased_micros=lent.leased_micros - micros)

    def void(self, reservation: Reservation) -> None:
        """Record a win that has no hold, because its request was paid for before or its lease is gone."""
        self.new_reservations[reservation.reservation_id] = reservation.without_lack().end(VOID, self.now)

    def current(self, reservation: Reservation) -> Reservation:
        """The reservation as this transaction has left it."""
        return self.changed_reservations.get(reservation.reservation_id, reservation)

    def settle(
        self,
        brand_id: str,
        portfolio_id: str | None,
        day: dt.date,
        cost_micros: int,
        reservation: Reservation | None,
        late: bool = False,
    ) -> None:
        """Settle a cost; a negative one takes back what was settled. It does not end the hold: `end` does.

        Raises:
            MoneyOutOfRange: nothing has changed.
        """
        keys = budget_keys(brand_id, portfolio_id, day)
        self._put(keys, [self.budget(key).settle(0, cost_micros) for key in keys])
        kind = "late_settle" if late else "settle"
        reservation_id = None
        if reservation is not None:
            reservation_id = reservation.reservation_id
            before = self.current(reservation)
            after = self.changed_reservations[reservation_id] = before.settle(cost_micros)
            if before.confirmed and (more := after.counted_micros - before.counted_micros):
                counted = SlackMicros(more, more)
                self._move_slack(before.brand_id, before.portfolio_id, before.day, cost=counted)
        self.entries.append(Entry(kind, brand_id, portfolio_id, day, reservation_id, settled_delta_micros=cost_micros))

    def end(self, reservation: Reservation, status: str) -> bool:
        """Release what the hold still holds, and end it. Returns False if it had ended before."""
        reservation = self.current(reservation)
        if not reservation.is_open:
            return False
        self._release(reservation, reservation.held_micros)
        kind = {SETTLED: "settle", EXPIRED: "expire", RETURNED: "return"}[status]
        self._write(kind, reservation, reserved=-reservation.held_micros)
        if status == RETURNED:
            reservation = self._free_slack(reservation)
        self.changed_reservations[reservation.reservation_id] = reservation.end(status, self.now)
        return True

    def age(self, reservation: Reservation, curve: DelayCurve = linear) -> None:
        """Expire or shrink the hold as is due by now; free the slack of one that has expired for long enough."""
        before = self.current(reservation)
        if not before.is_open:
            if before.due_at is not None and before.due_at <= self.now:
                self.changed_reservations[before.reservation_id] = self._free_slack(before)
            return
        after = before.age(self.now, curve)
        if not after.is_open:
            self.end(before, EXPIRED)
            return
        if freed := before.held_micros - after.held_micros:
            self._release(before, freed)
            self._write("shrink", before, reserved=-freed)
        self.changed_reservations[before.reservation_id] = after

    def set_limit(self, key: BudgetKey, budget_micros: int | None) -> None:
        """Raise or lower the budget of a day that has begun."""
        before = self.budget(key)
        self._put([key], [before.set_limit(budget_micros)])
        if delta := (budget_micros or 0) - (before.budget_micros or 0):
            self._write_budget(key, delta)

    def _release(self, reservation: Reservation, freed_micros: int) -> None:
        keys = budget_keys(reservation.brand_id, reservation.portfolio_id, reservation.day)
        self._put(keys, [self.budget(key).release(freed_micros) for key in keys])

    def _put(self, keys: list[BudgetKey], budgets: list[Budget]) -> None:
        for key, budget in zip(keys, budgets, strict=True):
            if key not in self._budgets and (limit := self.budget(key).budget_micros):
                self._write_budget(key, limit)  # a day begins: the journal's rows sum to its budget
            self._budgets[key] = self.changed_budgets[key] = budget

    def _write(self, kind: str, reservation: Reservation, reserved: int, leased: int = 0) -> None:
        self.entries.append(
            Entry(
                kind,
                reservation.brand_id,
                reservation.portfolio_id,
                reservation.day,
                reservation.reservation_id,
                reservation.session_id,
                leased_delta_micros=leased,
                reserved_delta_micros=reserved,
            )
        )

    def _write_budget(self, key: BudgetKey, delta_micros: int) -> None:
        brand_id, portfolio_id = (key.owner_id, None) if key.owner == BRAND else (None, key.owner_id)
        self.entries.append(Entry("budget", brand_id, portfolio_id, key.day, budget_delta_micros=delta_micros))
