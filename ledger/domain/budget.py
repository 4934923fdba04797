"""One owner's budget of one day, in integer micros. Every rule about a balance is here."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Self

from db.fields import MOST_MICROS
from ledger.domain.errors import BudgetExhausted, MoneyOutOfRange

MONEY_MOST = MOST_MICROS
"""The largest amount in micros."""


@dataclass(frozen=True, slots=True)
class Budget:
    """budget = available + leased + reserved + settled − excess, and available ≥ 0.

    `available_micros` is stored and changed by every operation, not computed from the others. A budget of `None` is
    unlimited: then `available_micros` is `None`, too, and there is neither excess nor overspend.

    >>> budget = Budget.of("brand", "b-7", dt.date(2024, 5, 1), 100).lend(80).hold(60)
    >>> budget.settle(freed_micros=60, cost_micros=45).available_micros, budget.leased_micros
    (35, 20)
    """

    owner: str  # brand | portfolio
    owner_id: str
    day: dt.date
    budget_micros: int | None
    available_micros: int | None
    leased_micros: int = 0
    reserved_micros: int = 0
    settled_micros: int = 0

    @classmethod
    def of(cls, owner: str, owner_id: str, day: dt.date, budget_micros: int | None) -> Self:
        """The budget of a day on which nothing has happened yet."""
        _check(budget_micros or 0)
        return cls(owner, owner_id, day, budget_micros, budget_micros)

    @property
    def out_micros(self) -> int:
        """Leased, reserved and settled together."""
        return self.leased_micros + self.reserved_micros + self.settled_micros

    @property
    def excess_micros(self) -> int:
        """How much more than the budget is in use: after a cut, or after a cost above its hold."""
        return 0 if self.budget_micros is None else max(0, self.out_micros - self.budget_micros)

    @property
    def overspend_micros(self) -> int:
        return 0 if self.budget_micros is None else max(0, self.settled_micros - self.budget_micros)

    def lend(self, amount_micros: int) -> Self:
        """Move an amount from available to leased.

        Raises:
            BudgetExhausted: it is more than what is available.
            MoneyOutOfRange: it is negative, or leased and reserved together would exceed MONEY_MOST.
        """
        _check(amount_micros)
        _check(self.leased_micros + self.reserved_micros + amount_micros)
        if self.available_micros is not None and amount_micros > self.available_micros:
            raise BudgetExhausted(self.owner, self.owner_id, amount_micros, self.available_micros)
        return self._moved(leased=amount_micros)

    def take_back(self, amount_micros: int) -> Self:
        """Move an amount that a replica did not draw from leased to available."""
        _check(amount_micros)
        return self._moved(leased=-amount_micros)

    def hold(self, amount_micros: int) -> Self:
        """Move a recorded win's predicted cost from leased to reserved."""
        _check(amount_micros)
        return self._moved(leased=-amount_micros, reserved=amount_micros)

    def release(self, amount_micros: int) -> Self:
        """Move an amount from reserved to available: a hold ends or shrinks without a cost."""
        _check(amount_micros)
        return self._moved(reserved=-amount_micros)

    def settle(self, freed_micros: int, cost_micros: int) -> Self:
        """Replace a hold by its actual cost; a negative cost takes back what was settled before.

        A cost above its hold takes the rest from available; what is missing there becomes excess.
        """
        _check(freed_micros)
        _check(abs(cost_micros))
        return self._moved(reserved=-freed_micros, settled=cost_micros)

    def set_limit(self, budget_micros: int | None) -> Self:
        """Raise or lower the day's budget. A budget below what is in use leaves 0 available, and an excess."""
        _check(budget_micros or 0)
        available = None if budget_micros is None else max(0, budget_micros - self.out_micros)
        return type(self)(
            self.owner, self.owner_id, self.day, budget_micros, available,
            self.leased_micros, self.reserved_micros, self.settled_micros,
        )  # fmt: skip

    def _moved(self, leased: int = 0, reserved: int = 0, settled: int = 0) -> Self:
        available, moved = self.available_micros, leased + reserved + settled
        if available is not None:
            if moved >= 0:
                available = max(0, available - moved)
            else:
                available += max(0, -moved - self.excess_micros)  # what comes back reduces the excess first
        now_leased, now_reserved = self.leased_micros + leased, self.reserved_micros + reserved
        now_settled = self.settled_micros + settled
        for micros in (now_leased, now_reserved, now_settled):
            _check(micros)
        return type(self)(
            self.owner, self.owner_id, self.day, self.budget_micros, available, now_leased, now_reserved, now_settled,
        )  # fmt: skip


def _check(micros: int) -> None:
    if not 0 <= micros <= MONEY_MOST:
        raise MoneyOutOfRange(micros)
