"""The working page of one transaction: rows read at its start, moved here by the rules, written at its end.

Pure: it knows no database. `store.py` fills it and writes what `changed_budgets`, `changed_reservations` and `entries`
say.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ledger.account import Budget
from ledger.reservation import EXPIRED, RETURNED, SETTLED, Reservation

BRAND, PORTFOLIO = "brand", "portfolio"


class BudgetKey(NamedTuple):
    owner: str
    owner_id: str
    day: dt.date


class Entry(NamedTuple):
    """A line of the journal. Lines are added, never edited."""

    kind: str  # reserve | settle | late_settle | shrink | expire | return | budget
    brand_id: str | None
    portfolio_id: str | None
    day: dt.date
    reservation_id: str | None = None
    budget_delta_micros: int = 0
    reserved_delta_micros: int = 0
    settled_delta_micros: int = 0


def budget_keys(brand_id: str, portfolio_id: str | None, day: dt.date) -> list[BudgetKey]:
    keys = [BudgetKey(BRAND, brand_id, day)]
    return keys if portfolio_id is None else [*keys, BudgetKey(PORTFOLIO, portfolio_id, day)]


class Page:
    """Args:
    budgets: the days that exist among those that the transaction may touch.
    limits: the daily budget that a day begins with; asked for days that do not exist yet.
    """

    def __init__(self, now: dt.datetime, budgets: Iterable[Budget], limits: Callable[[str, str], int | None]) -> None:
        self.now = now
        self.entries: list[Entry] = []
        self.changed_budgets: dict[BudgetKey, Budget] = {}
        self.changed_reservations: dict[str, Reservation] = {}
        self.new_reservations: dict[str, Reservation] = {}
        self._budgets = {BudgetKey(budget.owner, budget.owner_id, budget.day): budget for budget in budgets}
        self.existing = frozenset(self._budgets)
        self._limits = limits

    def budget(self, key: BudgetKey) -> Budget:
        budget = self._budgets.get(key)
        return budget if budget is not None else Budget.of(*key, budget_micros=self._limits(key.owner, key.owner_id))

    def refusal(self, brand_id: str, portfolio_id: str | None, day: dt.date, amount_micros: int) -> str | None:
        """Why this much cannot be reserved, brand before portfolio; None: it can."""
        for key in budget_keys(brand_id, portfolio_id, day):
            if not self.budget(key).can_reserve(amount_micros):
                return f"{key.owner}_budget"
        return None

    def reserve(self, reservation: Reservation) -> None:
        """Brand and portfolio are debited together.

        Raises:
            BudgetExhausted, MoneyOutOfRange: nothing has moved.
        """
        keys = budget_keys(reservation.brand_id, reservation.portfolio_id, reservation.day)
        self._put(keys, [self.budget(key).reserve(reservation.held_micros) for key in keys])
        self.new_reservations[reservation.reservation_id] = reservation
        self._write("reserve", reservation, reserved=reservation.held_micros)

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
        """A cost, or with a minus sign the taking back of one. It does not end the hold: `end` does.

        Raises:
            MoneyOutOfRange: nothing has moved.
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
        """The hold's money goes back to where it came from; False if it had ended before."""
        reservation = self.current(reservation)
        if not reservation.is_open:
            return False
        self._release(reservation, reservation.held_micros)
        kind = {SETTLED: "settle", EXPIRED: "expire", RETURNED: "return"}[status]
        self._write(kind, reservation, reserved=-reservation.held_micros)
        self.changed_reservations[reservation.reservation_id] = reservation.end(status, self.now)
        return True

    def look(self, reservation: Reservation) -> None:
        """Let time do to the hold what is due."""
        before = self.current(reservation)
        after = before.look(self.now)
        if before.is_open and not after.is_open:
            self.end(before, EXPIRED)
            return
        if freed := before.held_micros - after.held_micros:
            self._release(before, freed)
            self._write("shrink", before, reserved=-freed)
        self.changed_reservations[before.reservation_id] = after

    def set_limit(self, key: BudgetKey, budget_micros: int | None) -> None:
        """Top up or cut a day that has begun."""
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
                self._write_budget(key, limit)  # a day begins: the journal explains all of its budget
            self._budgets[key] = self.changed_budgets[key] = budget

    def _write(self, kind: str, reservation: Reservation, reserved: int) -> None:
        self.entries.append(
            Entry(
                kind,
                reservation.brand_id,
                reservation.portfolio_id,
                reservation.day,
                reservation.reservation_id,
                reserved_delta_micros=reserved,
            )
        )

    def _write_budget(self, key: BudgetKey, delta_micros: int) -> None:
        brand_id, portfolio_id = (key.owner_id, None) if key.owner == BRAND else (None, key.owner_id)
        self.entries.append(Entry("budget", brand_id, portfolio_id, key.day, budget_delta_micros=delta_micros))
