"""Finds payout breaks: days from which on a brand pays another amount per click, so that its past no longer predicts.

What a brand pays per click varies little from day to day, while how often people click varies a lot: so a break is
looked for in revenue per click, and per impression only if the brand has no clicks. A day is compared with the level of
the days before; if it is far outside of the brand's usual variation it is a break, and the level restarts from it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from training.arrays import Codes, Flags, Floats, Integers

LEAST_CHANGE = np.log(1.2)
"""Smaller changes are not breaks: the histories follow them within days."""
LEAST_SPREAD = 0.03
SPREADS = 5.0
LEAST_DAYS = 4
"""Days that a brand needs before a change can be called unusual."""
LEAST_UNITS = 100.0
"""Clicks, or 100 times as many impressions, that a day needs to be judged."""
UNITS_OF_IMPRESSIONS = 0.01
SMOOTHING = 0.5
TO_SIGMA = 1.4826
"""A normal distribution's standard deviation ÷ its median absolute deviation."""


class Break(NamedTuple):
    """A day from which on a brand pays another amount."""

    brand: int  # code
    day: int  # position among the days
    before_micros: float  # per click, or per impression if the brand has no clicks
    after_micros: float
    per: str  # click | impression


def find(revenue: Floats, clicks: Floats, exposure: Floats) -> list[Break]:
    """The payout breaks of all brands, by day.

    Args:
        revenue, clicks, exposure: (days, brands) sums; the days in order.

    >>> clicks = np.full((8, 1), 1000.0)
    >>> payout = np.array([100.0, 101.0, 99.0, 100.0, 102.0, 100.0, 55.0, 55.0])[:, None]
    >>> [(one.day, round(one.before_micros), round(one.after_micros)) for one in find(payout * clicks, clicks, clicks)]
    [(6, 100, 55)]
    """
    found: list[Break] = []
    for brand in range(revenue.shape[1]):
        by_clicks = clicks[:, brand].sum() >= LEAST_UNITS
        units = clicks[:, brand] if by_clicks else exposure[:, brand] * UNITS_OF_IMPRESSIONS
        judged = np.flatnonzero((units >= LEAST_UNITS) & (revenue[:, brand] > 0))
        of_unit = exposure if not by_clicks else clicks
        logs = np.log(revenue[judged, brand] / of_unit[judged, brand])
        for index, before in _in_series(logs):
            found.append(
                Break(
                    brand,
                    int(judged[index]),
                    float(np.exp(before)),
                    float(np.exp(logs[index])),
                    "click" if by_clicks else "impression",
                )
            )
    return sorted(found, key=lambda one: (one.day, one.brand))


def _in_series(logs: Floats) -> list[tuple[int, float]]:
    """(position, level before) of each break in a brand's log payouts."""
    found: list[tuple[int, float]] = []
    level = 0.0
    differences: list[float] = []
    for index, value in enumerate(logs.tolist()):
        if index == 0:
            level = value
            continue
        change = value - level
        if len(differences) >= LEAST_DAYS - 1:
            spread = max(TO_SIGMA * float(np.median(np.abs(differences))), LEAST_SPREAD)
            if abs(change) > max(LEAST_CHANGE, SPREADS * spread):
                found.append((index, level))
                level = value
                continue
        differences.append(change)
        level += SMOOTHING * change
    return found


def jumps(breaks: list[Break], n_days: int, n_brands: int) -> Flags:
    """(days, brands) true where a brand's level is to be learned again, for `hierarchical_rates.walk`.

    The day after a break counts, too: a payout seldom changes at midnight, so the first day mixes both amounts.
    """
    found: Flags = np.zeros((n_days, n_brands), np.bool_)
    for one in breaks:
        found[one.day : one.day + 2, one.brand] = True
    return found


def by_day(day_of_row: Integers, brand: Codes, values: Floats, n_days: int, n_brands: int) -> Floats:
    """(days, brands) sums of (n,) values."""
    places = day_of_row * n_brands + brand
    sums = np.bincount(places, weights=values, minlength=n_days * n_brands).astype(np.float64)
    return sums.reshape(n_days, n_brands)
