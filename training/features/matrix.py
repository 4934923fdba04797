"""Fills the feature matrix from rates; training and serving share the code that fills a row."""

from __future__ import annotations

import numpy as np
import pandas as pd

from training.arrays import Floats, Singles
from training.features.histories import CLICKED, CONVERTED, QUICKLY, SPENT, STEADILY, Histories, Known, expectation
from training.features.keys import Keys
from training.features.layout import CODED, CODES_FROM, DAY_OF_WEEK, FEATURES, HOUR, LOGS_FROM, N_HEADS, PLACEMENT

FILLED_TOGETHER = 65_536
"""Rows that are filled at a time; each takes a hundred bytes meanwhile."""


def fill(rows: Singles, heads: Floats, known: Known) -> None:
    """Fill the columns of rows and heads that follow from rates; exposures and factors are filled elsewhere.

    Args:
        rows: (k, len(FEATURES)), heads: (k, N_HEADS), written to.
    """
    log = expectation(known)
    rows[:, LOGS_FROM] = log
    rows[:, LOGS_FROM + 1] = known.logs[QUICKLY] - known.logs[STEADILY]
    rows[:, LOGS_FROM + 2] = known.logs[CLICKED]
    rows[:, LOGS_FROM + 3] = known.logs[CONVERTED]
    rows[:, LOGS_FROM + 4] = log - known.logs[SPENT]
    heads[:, 0] = np.exp(np.nan_to_num(log, nan=-np.inf))
    heads[:, 1] = np.minimum(np.exp(np.nan_to_num(known.logs[CLICKED], nan=-np.inf)), 1.0)
    heads[:, 2] = np.exp(np.nan_to_num(known.logs[CONVERTED], nan=-np.inf))
    heads[:, 3] = np.exp(known.logs[SPENT])


def as_of_the_day_before(frame: pd.DataFrame, keys: Keys, numbers: Floats) -> tuple[Singles, Floats]:
    """((n, len(FEATURES)) matrix, (n, N_HEADS) heads), every row by what was known before its day.

    Args:
        frame: a history (see `etl/reader.py`) in the order of its days.
        keys, numbers: of the same rows, from `Keys.of` and `measures`.
    """
    days = frame["day"].to_numpy(np.int64)
    out = np.empty((len(frame), len(FEATURES)), np.float32)
    heads = np.empty((len(frame), N_HEADS))
    known = Histories.of(days, keys, numbers, out).rows
    for start in range(0, len(frame), FILLED_TOGETHER):
        some = slice(start, start + FILLED_TOGETHER)
        fill(out[some], heads[some], known.part(some))
    for position, column in enumerate(CODED):
        out[:, CODES_FROM + position] = keys.ids[column]
    out[:, PLACEMENT] = frame["placement_score"].to_numpy(np.float64)
    out[:, DAY_OF_WEEK] = (days + 3) % 7
    out[:, HOUR] = frame["hour"].to_numpy(np.float64)
    return out, heads
