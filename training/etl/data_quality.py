"""Finds oddities in a history, and says how training treats them: one line each, for the night's summary. Pure.

None of them stops a nightly run. Rows that cannot be used at all are rejected by the import.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from training.etl.reader import day_of

SHOWN = 3
"""Most names of a list that are shown."""


def oddities(frame: pd.DataFrame) -> list[str]:
    """A line for each oddity.

    Args:
        frame: a history, see `etl/reader.py`.
    """
    return [*_days(frame), *_brands(frame), *_rows(frame)] if len(frame) else []


def _days(frame: pd.DataFrame) -> Iterator[str]:
    days = np.unique(frame["day"].to_numpy(np.int64))
    if len(days) == 1:
        yield f"there is one day of history only ({day_of(days[0])}): the predictions cannot be judged"
    missing = sorted(set(range(int(days[0]), int(days[-1]) + 1)) - set(days.tolist()))
    if missing:
        named = _some([str(day_of(day)) for day in missing])
        yield f"{len(missing)} days without data between the first and the last ({named}): was nothing imported?"


def _brands(frame: pd.DataFrame) -> Iterator[str]:
    revenue = frame["revenue_micros"] + frame["pending_revenue_micros"]
    by_brand = revenue.groupby(frame["brand_id"].astype(str)).agg(["sum", "size"])
    if not (revenue > 0).any():
        yield "no row has revenue: predicted revenue is close to zero"
    elif poor := by_brand.index[by_brand["sum"] <= 0].tolist():
        yield f"{_count(len(poor), 'brand')} without revenue ({_some(poor)}): predicted revenue is close to zero"
    if single := by_brand.index[by_brand["size"] == 1].tolist():
        yield f"{_count(len(single), 'brand')} with one row ({_some(single)}): predicted mostly like all other brands"
    shown = frame["impressions"].to_numpy(np.float64) > 0
    rates = revenue.to_numpy(np.float64)[shown] / frame["impressions"].to_numpy(np.float64)[shown]
    if len(rates) > 1 and rates.max() > 0 and np.ptp(rates) <= 1e-9 * rates.max():
        yield f"every row earns the same ({rates[0]:.6g} micros per impression): all predictions are alike"


def _rows(frame: pd.DataFrame) -> Iterator[str]:
    impressions, clicks = frame["impressions"], frame["clicks"]
    cost = frame["cost_micros"].fillna(0.0)
    if number := int(((cost > 0) & (impressions <= 0)).sum()):
        yield f"{_count(number, 'row')} with cost and no impressions: used per click if it has clicks, else in sums"
    if number := int((frame["revenue_micros"] < 0).sum()):
        yield f"{_count(number, 'row')} with revenue below zero: subtracted in sums, zero for the trees"
    if number := int((frame["conversions"] > clicks).sum()):
        yield f"{_count(number, 'row')} with more conversions than clicks: used as they are"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
