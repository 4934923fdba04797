"""One owner's slack of one day: what it may lose on bids below its target, because other wins were above it. Pure.

ROAS is a budget, too. Σ(revenue − target × cost) over the day's *confirmed* wins, those that were shown, clicked or
settled, is what may be spent on bids that are worth less than the target. It is lent to replicas and drawn like money.
A win that nothing has confirmed adds nothing, so requests alone, however many, give no right to buy below target.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from ledger.domain.budget import MONEY_MOST
from ledger.domain.errors import MoneyOutOfRange


class Price(NamedTuple):
    """What slack is measured with."""

    target_roas: float
    factor: float = 1.0
    """Realised ÷ predicted revenue of the day, as far as it is known."""


def lack(revenue_micros: float, cost_micros: float, price: Price) -> int:
    """Micros of slack that a win draws: what it is worth below target × cost, rounded up; 0 at or above the target.

    >>> lack(900.0, 1000.0, Price(1.0)), lack(1000.0, 1000.0, Price(1.0)), lack(900.5, 1000.0, Price(1.0, factor=0.5))
    (100, 0, 550)
    """
    if price.factor * revenue_micros >= price.target_roas * cost_micros:
        return 0
    # What is booked are whole micros: the revenue rounded down, the cost rounded up.
    return max(1, math.ceil(price.target_roas * math.ceil(cost_micros) - price.factor * math.floor(revenue_micros)))


@dataclass(frozen=True, slots=True)
class Slack:
    """available = factor × revenue − target × cost − pending − leased, which may be negative: then nothing is lent.

    >>> slack = Slack("brand", "b-7", dt.date(2024, 5, 1)).confirm(0, 1500, 1000)
    >>> slack.available(Price(1.0)), slack.lend(300).draw(300).available(Price(1.0)), slack.available(Price(1.0, 0.5))
    (500, 200, -250)
    """

    owner: str  # brand | portfolio
    owner_id: str
    day: dt.date
    revenue_micros: int = 0
    """Predicted revenue of the day's confirmed wins."""
    cost_micros: int = 0
    """Cost of the same wins."""
    pending_micros: int = 0
    """What unconfirmed wins below target have drawn; it comes back if they are never shown."""
    leased_micros: int = 0
    """Lent to replicas, and not drawn yet."""

    def available(self, price: Price) -> int:
        """Micros that can be lent; negative if more is in use than there is."""
        earned = math.floor(price.factor * self.revenue_micros - price.target_roas * self.cost_micros)
        return earned - self.pending_micros - self.leased_micros

    def lend(self, micros: int) -> Self:
        return self.moved(leased=micros)

    def take_back(self, micros: int) -> Self:
        """A part of what was lent that a replica did not draw."""
        return self.moved(leased=-micros)

    def draw(self, micros: int) -> Self:
        """A recorded win below target: from leased to pending."""
        return self.moved(leased=-micros, pending=micros)

    def free(self, micros: int) -> Self:
        """A win below target will not be shown any more."""
        return self.moved(pending=-micros)

    def confirm(self, pending_micros: int, revenue_micros: int, cost_micros: int) -> Self:
        """A win was shown: what it drew ends, and its own revenue and cost count."""
        return self.moved(pending=-pending_micros, revenue=revenue_micros, cost=cost_micros)

    def moved(self, leased: int = 0, pending: int = 0, revenue: int = 0, cost: int = 0) -> Self:
        """The slack after these changes.

        Raises:
            MoneyOutOfRange: a sum would be negative or too large.
        """
        after = replace(
            self,
            revenue_micros=self.revenue_micros + revenue,
            cost_micros=self.cost_micros + cost,
            pending_micros=self.pending_micros + pending,
            leased_micros=self.leased_micros + leased,
        )
        for micros in (after.revenue_micros, after.cost_micros, after.pending_micros, after.leased_micros):
            if not 0 <= micros <= MONEY_MOST:
                raise MoneyOutOfRange(micros)
        return after
