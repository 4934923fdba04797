"""The working set of one transaction: rows are read at its start, changed here in memory, and written at its end.

Pure: it knows no database. `Budgets` fills it, and the store writes what is new or has changed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from ledger.domain.budget import Budget
from ledger.domain.reservation import EXPIRED, RETURNED, SETTLED, VOID, DelayCurve, Reservation, linear
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


def budget_keys(brand_id: str, portfolio_id: str | None, day: dt.date) -> list[BudgetKey]:
    keys = [BudgetKey(BRAND, brand_id, day)]
    return keys if portfolio_id is None else [*keys, BudgetKey(PORTFOLIO, portfolio_id, day)]


class WorkingSet:
    """
    Args:
        budgets: the existing days among those that the transaction may change.
        limits: (owner, owner id) → the budget that a day begins with in micros, None if unlimited; for new days.
        leases: the existing ones among those that the transaction may change.
    """

    def __init__(
        self,
        now: dt.datetime,
        budgets: Iterable[Budget],
        limits: Callable[[str, str], int | None],
        leases: Mapping[LeaseKey, Lent] | None = None,
    ) -> None:
        self.now = now
        self.entries: list[Entry] = []
        self.changed_budgets: dict[BudgetKey, Budget] = {}
        self.changed_reservations: dict[str, Reservation] = {}
        self.new_reservations: dict[str, Reservation] = {}
        self.batches: list[ReservationBatch] = []
        self.changed_leases: dict[LeaseKey, Lent] = {}
        self._budgets = {BudgetKey(budget.owner, budget.owner_id, budget.day): budget for budget in budgets}
        self._leases = dict(leases or {})
        self.existing = frozenset(self._budgets)
        self.existing_leases = frozenset(self._leases)
        self._limits = limits

    def add(self, budgets: Iterable[Budget]) -> None:
        """Add more existing days."""
        found = {BudgetKey(budget.owner, budget.owner_id, budget.day): budget for budget in budgets}
        self._budgets = found | self._budgets
        self.existing |= found.keys()

    def budget(self, key: BudgetKey) -> Budget:
        budget = self._budgets.get(key)
        return budget if budget is not None else Budget.of(*key, budget_micros=self._limits(key.owner, key.owner_id))

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

    # Reservations

    def hold(self, key: LeaseKey, reservation: Reservation) -> None:
        """Record a win that was drawn from this lease as a hold."""
        amount = reservation.held_micros
        self._draw(key, amount)
        self.new_reservations[reservation.reservation_id] = reservation
        self._write("reserve", reservation, reserved=amount, leased=-amount)

    def hold_all(self, batch: ReservationBatch, totals: Mapping[LeaseKey, int]) -> None:
        """`hold` of many wins at once.

        Args:
            totals: what they take from each lease, all of which exist.
        """
        for key, amount in totals.items():
            self._draw(key, amount)
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
        self.new_reservations[reservation.reservation_id] = reservation.end(VOID, self.now)

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
            self.changed_reservations[reservation_id] = self.current(reservation).settle(cost_micros)
        self.entries.append(Entry(kind, brand_id, portfolio_id, day, reservation_id, settled_delta_micros=cost_micros))

    def end(self, reservation: Reservation, status: str) -> bool:
        """Release what the hold still holds, and end it. Returns False if it had ended before."""
        reservation = self.current(reservation)
        if not reservation.is_open:
            return False
        self._release(reservation, reservation.held_micros)
        kind = {SETTLED: "settle", EXPIRED: "expire", RETURNED: "return"}[status]
        self._write(kind, reservation, reserved=-reservation.held_micros)
        self.changed_reservations[reservation.reservation_id] = reservation.end(status, self.now)
        return True

    def age(self, reservation: Reservation, curve: DelayCurve = linear) -> None:
        """Expire or shrink the hold as is due by now."""
        before = self.current(reservation)
        after = before.age(self.now, curve)
        if before.is_open and not after.is_open:
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
