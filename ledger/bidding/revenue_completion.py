"""What a window's clicks will have brought once approvals and late conversions are in, and the ROAS that follows.

Pure: time and history are arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ledger.former_names import pickled_as

DELAYS_LEAST = 50
"""Observed conversion delays below which revenue is taken as complete."""

COMPLETION_BOUNDS = (0.2, 5.0)
PRIOR_APPROVED, PRIOR_REJECTED = 8.0, 2.0
"""What is believed of conversions in general before any was decided: 80 % are approved, on the word of ten."""

PRIOR_WEIGHT = 10.0
"""How many decisions of its own outweigh what is believed of all brands."""


@pickled_as("ledger.pacing")
class DaySums(NamedTuple):
    """A brand's day. Revenue and cost only of rows whose cost is known: they match."""

    impressions: int = 0
    clicks: int = 0
    conversions: int = 0
    cost_micros: int = 0
    revenue_micros: int = 0  # approved
    pending_revenue_micros: int = 0


@dataclass(frozen=True, slots=True)
class History:
    """What a brand's past says of its pending conversions."""

    approved: int = 0
    rejected: int = 0
    delays: tuple[int, ...] = ()
    """Conversions seen by whole days after their click: index = days."""

    def plus(self, other: History) -> History:
        length = max(len(self.delays), len(other.delays))
        mine, theirs = (delays + (0,) * (length - len(delays)) for delays in (self.delays, other.delays))
        return History(
            self.approved + other.approved,
            self.rejected + other.rejected,
            tuple(a + b for a, b in zip(mine, theirs, strict=True)),
        )


def approval_share(history: History, everybody: History = History()) -> float:
    """Share of pending revenue that will be approved: the brand's own decisions over what is usual among all.

    >>> approval_share(History())
    0.8
    """
    usual = (everybody.approved + PRIOR_APPROVED) / (
        everybody.approved + everybody.rejected + PRIOR_APPROVED + PRIOR_REJECTED
    )
    return (history.approved + PRIOR_WEIGHT * usual) / (history.approved + history.rejected + PRIOR_WEIGHT)


def arrived(history: History, age_days: float) -> float:
    """Share of a click's conversions that are there after so many days; 1 where too few were ever seen."""
    total = sum(history.delays)
    if total < DELAYS_LEAST:
        return 1.0
    whole = math.floor(max(age_days, 0.0))
    before = sum(history.delays[:whole])
    within = history.delays[whole] if whole < len(history.delays) else 0
    return (before + (max(age_days, 0.0) - whole) * within) / total


def still_needed(history: History, conversion_days: int) -> Callable[[float], float] | None:
    """Share of a conversion's hold that is needed at a share of its lifetime: what has not arrived by then.

    None: too few delays were ever seen; holds then shrink in a straight line.
    """
    if sum(history.delays) < DELAYS_LEAST:
        return None
    return lambda age: 1.0 - arrived(history, age * conversion_days)


def completion(costs: Sequence[tuple[float, int]], window_days: float, history: History) -> float:
    """Revenue that the window's spending will have brought ÷ revenue that the window has seen, in expectation.

    Revenue stands at its conversion's hour, spending at the impression's. In a steady state what is still to come
    makes up for what came from before the window; a brand that has just begun, or just grown, is behind.

    Args:
        costs: (age in days, micros) of each day, the window's and those before it.
    """
    if sum(history.delays) < DELAYS_LEAST:
        return 1.0
    inside = sum(cost for age, cost in costs if age < window_days)
    seen = sum(cost * (arrived(history, age) - arrived(history, age - window_days)) for age, cost in costs)
    low, high = COMPLETION_BOUNDS
    if seen <= 0.0 or inside <= 0:
        return 1.0
    return min(max(inside / seen, low), high)


class Completed(NamedTuple):
    """A window's sums with what is still to come. Windows of several brands add up."""

    impressions: int
    cost_micros: int
    revenue_micros: float

    def plus(self, other: Completed) -> Completed:
        return Completed(*(a + b for a, b in zip(self, other, strict=True)))  # type: ignore[arg-type]


def completed(
    days: Mapping[int, DaySums], window_days: int, today_fraction: float, history: History, usual: History = History()
) -> Completed:
    """Args:
    days: sums by how many days ago, today 0; those beyond the window only say what may still come from them.
    today_fraction: share of today that is over.
    """
    window = [sums for ago, sums in days.items() if ago < window_days]
    share = approval_share(history, usual)
    factor = completion(_aged(days, today_fraction), window_days - 1 + today_fraction, history)
    revenue = sum(d.revenue_micros + share * d.pending_revenue_micros for d in window) * factor
    return Completed(sum(d.impressions for d in window), sum(d.cost_micros for d in window), revenue)


def completed_today(
    approved: float,
    pending: float,
    days: Mapping[int, DaySums],
    today_fraction: float,
    history: History,
    usual: History = History(),
) -> float:
    """Revenue that today's spending will have brought, from what today has seen of it.

    Args:
        days, today_fraction: as for `completed`.
    """
    factor = completion(_aged(days, today_fraction), max(today_fraction, 1e-6), history)
    return (approved + approval_share(history, usual) * pending) * factor


def _aged(days: Mapping[int, DaySums], today_fraction: float) -> list[tuple[float, int]]:
    """(age in days, cost). A day's spending happened in its middle on average; today's, in that of what is over."""
    return [
        (ago + today_fraction / 2 if ago == 0 else ago - 0.5 + today_fraction, sums.cost_micros)
        for ago, sums in days.items()
    ]


def current_roas(sums: Completed, min_impressions: int) -> float:
    """Completed revenue ÷ its cost; NaN below `min_impressions` or without cost.

    >>> current_roas(Completed(2000, 100, 150.0), 1000)
    1.5
    """
    if sums.impressions < min_impressions or sums.cost_micros <= 0:
        return math.nan
    return sums.revenue_micros / sums.cost_micros
