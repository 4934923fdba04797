"""Estimates a window's revenue after approvals and late conversions, and the current ROAS from it.

Pure: time and history are arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ledger.former_names import pickled_as

DELAYS_LEAST = 50
"""With fewer observed conversion delays, revenue is taken as complete."""

COMPLETION_BOUNDS = (0.2, 5.0)
PRIOR_APPROVED, PRIOR_REJECTED = 8.0, 2.0
"""Before any decision: 80 % of conversions are assumed to be approved, with the weight of ten decisions."""

PRIOR_WEIGHT = 10.0
"""Weight of all brands' share against a brand's own, in decisions."""


@pickled_as("ledger.pacing")
class DaySums(NamedTuple):
    """A brand's day. Revenue and cost are only of rows whose cost is known, so that they belong together."""

    impressions: int = 0
    clicks: int = 0
    conversions: int = 0
    cost_micros: int = 0
    revenue_micros: int = 0  # approved
    pending_revenue_micros: int = 0


@dataclass(frozen=True, slots=True)
class History:
    """A brand's decided conversions and conversion delays."""

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
    """Expected share of pending revenue that is approved, from the brand's own decisions and everybody's.

    >>> approval_share(History())
    0.8
    """
    usual = (everybody.approved + PRIOR_APPROVED) / (
        everybody.approved + everybody.rejected + PRIOR_APPROVED + PRIOR_REJECTED
    )
    return (history.approved + PRIOR_WEIGHT * usual) / (history.approved + history.rejected + PRIOR_WEIGHT)


def arrived(history: History, age_days: float) -> float:
    """Share of a click's conversions that have come after so many days; 1 if too few delays are known."""
    total = sum(history.delays)
    if total < DELAYS_LEAST:
        return 1.0
    whole = math.floor(max(age_days, 0.0))
    before = sum(history.delays[:whole])
    within = history.delays[whole] if whole < len(history.delays) else 0
    return (before + (max(age_days, 0.0) - whole) * within) / total


def still_needed(history: History, conversion_days: int) -> Callable[[float], float] | None:
    """Share of a hold that is still needed at a share of its lifetime: the conversions that have not come by then.

    None if too few delays are known; holds then shrink in a straight line.
    """
    if sum(history.delays) < DELAYS_LEAST:
        return None
    return lambda age: 1.0 - arrived(history, age * conversion_days)


def completion(costs: Sequence[tuple[float, int]], window_days: float, history: History) -> float:
    """Expected factor from the revenue seen in the window to the revenue of the window's spending.

    Revenue is counted in the hour of its conversion, spending in that of the impression. In a steady state late
    conversions balance those that came from before the window; for a brand that has just begun or grown they do not.

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
    """A window's sums, with late conversions and approvals. Those of several brands can be added."""

    impressions: int
    cost_micros: int
    revenue_micros: float

    def plus(self, other: Completed) -> Completed:
        return Completed(*(a + b for a, b in zip(self, other, strict=True)))  # type: ignore[arg-type]


def completed(
    days: Mapping[int, DaySums], window_days: int, today_fraction: float, history: History, usual: History = History()
) -> Completed:
    """The window's sums, with revenue completed.

    Args:
        days: sums by how many days ago, today 0; days before the window count for their late conversions only.
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
    """Expected revenue of today's spending, from today's revenue so far.

    Args:
        days, today_fraction: as for `completed`.
    """
    factor = completion(_aged(days, today_fraction), max(today_fraction, 1e-6), history)
    return (approved + approval_share(history, usual) * pending) * factor


def _aged(days: Mapping[int, DaySums], today_fraction: float) -> list[tuple[float, int]]:
    """(age in days, cost) of each day; its spending is taken as if in the middle of the day, or of today so far."""
    return [
        (ago + today_fraction / 2 if ago == 0 else ago - 0.5 + today_fraction, sums.cost_micros)
        for ago, sums in days.items()
    ]


def current_roas(sums: Completed, min_impressions: int) -> float:
    """Completed revenue ÷ cost; NaN below `min_impressions` or without cost.

    >>> current_roas(Completed(2000, 100, 150.0), 1000)
    1.5
    """
    if sums.impressions < min_impressions or sums.cost_micros <= 0:
        return math.nan
    return sums.revenue_micros / sums.cost_micros
