"""Computes from a history the rates of every row as of the day before, and of every key as of its last day.

Rates are revenue, clicks, conversions and cost per exposure, each a product of factors along the path (see
`hierarchical_rates`), so that an unseen slot starts from its partner and an unseen brand from all brands. They make the
expectation that the trees start from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import pandas as pd

from training.arrays import Floats, Integers, Singles
from training.columns import EVERYBODY, ID_COLUMNS
from training.features import hierarchical_rates
from training.features.hierarchical_rates import Filter
from training.features.keys import BRAND, Keys, starts_of
from training.features.layout import FACTORS_FROM, HALF_LIVES_DAYS, LOGS_FROM, N_EXPOSURE
from training.features.payout_breaks import Break, by_day, find
from training.features.payout_breaks import jumps as jumps_of

MEASURES = ("revenue_micros", "clicks", "conversions", "exposure", "cost_micros", "cost_exposure")
REVENUE, CLICKS, CONVERSIONS, EXPOSURE, COST, COST_EXPOSURE = range(len(MEASURES))

QUICK = Filter()
STEADY = Filter(drift_top=0.002, shock_top=0.02, credible=10_000.0, floor=0.05)
COUNTED = Filter(drift_top=0.002, shock_top=0.02)
"""A single day says little about rare things such as conversions and what they pay: STEADY follows it slowly, QUICK at
once, and the right speed for a given market is between the two. COUNTED is for clicks, which are never rare."""
RATES = {
    # name: numerator, denominator, parameters
    "revenue": (REVENUE, EXPOSURE, QUICK),
    "revenue_steady": (REVENUE, EXPOSURE, STEADY),
    "clicks": (CLICKS, EXPOSURE, COUNTED),
    "conversions": (CONVERSIONS, EXPOSURE, STEADY),
    "cost": (COST, COST_EXPOSURE, QUICK),
}
QUICKLY, STEADILY, CLICKED, CONVERTED, SPENT = range(len(RATES))
PAYOUT = Filter(levels=2, drift_top=0.02, shock_top=0.001, credible=1.0)
"""Revenue per click of all brands together and of each: known to a percent within a day, and changed by contracts."""
PAID = (REVENUE, CLICKS, PAYOUT)
TRUSTED_CLICKS = 100.0
"""Clicks of a brand, older ones counting less, at which clicks × payout has half its full weight."""


def measures(frame: pd.DataFrame, pending_share: float | Mapping[str, float]) -> Floats:
    """(n, len(MEASURES)) figures of a history frame (see `etl/reader.py`).

    Args:
        pending_share: share of pending revenue that will be approved; by brand as from `approvals.pending_shares`.

    Exposure is impressions; for a placement whose day has clicks but no impressions it is clicks, so that placements
    of which only clicks are reported are predicted per click.
    """
    impressions = frame["impressions"].to_numpy(np.float64)
    clicks = frame["clicks"].to_numpy(np.float64)
    cost = frame["cost_micros"].to_numpy(np.float64)
    pending = frame["pending_revenue_micros"].to_numpy(np.float64)
    of_day = impressions
    if (frame["hour"].to_numpy() >= 0).any():
        keys = [frame[name] for name in ("day", *ID_COLUMNS)] + [frame["placement_score"]]
        of_day = frame["impressions"].groupby(keys, dropna=False, observed=True).transform("sum").to_numpy(np.float64)
    exposure = np.where(of_day > 0, impressions, clicks)
    columns: Floats = np.empty((len(frame), len(MEASURES)), order="F")  # each column is read as a whole
    if isinstance(pending_share, Mapping):
        of_brand = frame["brand_id"].map(pending_share).to_numpy(np.float64)
        pending = pending * np.where(np.isnan(of_brand), pending_share[EVERYBODY], of_brand)
    else:
        pending = pending * pending_share
    columns[:, REVENUE] = frame["revenue_micros"].to_numpy(np.float64) + pending
    columns[:, CLICKS] = clicks
    columns[:, CONVERSIONS] = frame["conversions"].to_numpy(np.float64)
    columns[:, EXPOSURE] = exposure
    columns[:, COST] = np.nan_to_num(cost)
    columns[:, COST_EXPOSURE] = np.where(np.isnan(cost), 0.0, exposure)
    return columns


class Known(NamedTuple):
    """The rates of k keys or rows."""

    logs: Sequence[Floats]  # in the order of RATES: (k,) log rates, NaN where nothing is known
    payout: Floats  # (k,) log of what the brand pays per click, NaN where it is not known
    clicks: Floats  # (k,) clicks of the brand, older ones counting less

    def part(self, rows: slice) -> Known:
        """The rates of some of the rows."""
        return Known([log[rows] for log in self.logs], self.payout[rows], self.clicks[rows])


def expectation(known: Known) -> Floats:
    """(k,) log of the expected revenue per exposure, NaN where no brand has earned anything.

    The geometric mean of three estimates: the quick rate, the steady rate, and clicks × payout, which is weighted by
    how many clicks the brand has. Together they predict better than any of them alone.
    """
    by_clicks = known.logs[CLICKED] + known.payout
    weight = np.where(np.isnan(by_clicks), 0.0, known.clicks / (known.clicks + TRUSTED_CLICKS))
    total = known.logs[QUICKLY] + known.logs[STEADILY] + weight * np.nan_to_num(by_clicks)
    mean: Floats = total / (2.0 + weight)
    return mean


class Histories(NamedTuple):
    """The rates of each row as of the day before, and of each key as of the last day."""

    rows: Known
    rates: list[Floats]  # by level of PATH: (keys, len(RATES)) log rates
    exposures: list[Floats]  # by level of PATH: (keys, half-lives)
    payout: list[Floats]  # of all brands together and of each: (keys,)
    clicks: list[Floats]  # the same

    @classmethod
    def of(cls, days: Integers, keys: Keys, numbers: Floats, rows: Singles | None = None) -> Self:
        """The histories of these rows.

        Args:
            days: (n,) ascending. Old days lose weight by days that have data, not by the calendar: after a pause of the
                whole feed nothing would be left of what was known.
            keys, numbers: of the same rows, from `Keys.of` and `measures`.
            rows: (n, len(FEATURES)), whose exposures and factors are filled; None: they are not needed.
        """
        starts = starts_of(days)
        broken = payout_breaks(starts, keys, numbers)
        jumps = jumps_of(broken, len(starts) - 1, keys.counts[BRAND])
        walks = [
            hierarchical_rates.walk(
                starts,
                keys.levels,
                keys.counts,
                keys.parents,
                numbers[:, numerator],
                numbers[:, denominator],
                believed,
                jumps=jumps if numerator == REVENUE else None,
                factors=None if rows is None or column != QUICKLY else rows[:, FACTORS_FROM:LOGS_FROM],
            )
            for column, (numerator, denominator, believed) in enumerate((*RATES.values(), PAID))
        ]
        *walks, paid = walks
        exposures = hierarchical_rates.fade(
            starts,
            keys.levels,
            keys.counts,
            numbers[:, EXPOSURE],
            HALF_LIVES_DAYS,
            None if rows is None else rows[:, :N_EXPOSURE],
        )
        top = BRAND + 1
        logs = np.empty((len(days), top), np.float32)
        clicked = hierarchical_rates.fade(
            starts, keys.levels[:top], keys.counts, numbers[:, CLICKS], HALF_LIVES_DAYS[-1:], logs
        )
        known = Known([walk.logs for walk in walks], paid.logs, np.expm1(logs[:, BRAND].astype(np.float64)))
        tables = [np.column_stack(level) for level in zip(*(walk.state for walk in walks), strict=True)]
        return cls(known, tables, exposures, paid.state, [sums[:, 0] for sums in clicked])


def payout_breaks(starts: Integers, keys: Keys, numbers: Floats) -> list[Break]:
    """The days on which a brand's payout changed.

    Args:
        starts: (days + 1,) where each day's rows begin.
    """
    n_days, n_brands = len(starts) - 1, keys.counts[BRAND]
    day_of_row = np.repeat(np.arange(n_days), np.diff(starts))
    return find(
        *(
            by_day(day_of_row, keys.levels[BRAND], numbers[:, column], n_days, n_brands)
            for column in (REVENUE, CLICKS, EXPOSURE)
        )
    )
