"""Reads the history of performance from the database, as a frame.

Columns: `day` (int, days since 1970), `hour` (0–23, −1 for daily rows), the five ids, `placement_score`
(NaN for none), `impressions`, `clicks`, `conversions`, `cost_micros` (NaN for not known), `revenue_micros`
(approved), `pending_revenue_micros`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from sqlalchemy import Connection, extract, select, text

from db import tables as t
from db.rows import fetch_columns
from db.session import Database
from training.columns import ID_COLUMNS

COLUMNS = (
    "day",
    "hour",
    *ID_COLUMNS,
    "placement_score",
    "impressions",
    "clicks",
    "conversions",
    "cost_micros",
    "revenue_micros",
    "pending_revenue_micros",
)
EPOCH = dt.date(1970, 1, 1)
DAYS_TOGETHER = 31
"""Days that are read in one transaction."""

_P = t.performance_hourly.c
_ROWS = (_P.kind, _P.precedence, _P.period, extract("hour", _P.hour), *(_P[name] for name in COLUMNS[2:]))
# Rows are always sorted the same way, those of one key (from two sources) by their figures, so that sums of doubles,
# and with them model versions, are the same every night.
_ORDER = ("hour", *ID_COLUMNS, *COLUMNS[7:])
_DAYS = select(_P.day).distinct().order_by(_P.day)


Rows = dict[str, npt.NDArray[Any]]
"""Rows of a UTC day by column, (rows,) each: `kind`, `daily` (bool), `hour` (0–23), ids as objects, `placement_score`
(NaN for none), the figures as int64, `knows_cost` (bool; if false, the cost is not known and `cost_micros` is 0)."""


class Day(NamedTuple):
    """The rows of a UTC day that count, that is, are not overridden by rows of another kind."""

    columns: dict[str, npt.NDArray[Any]]  # COLUMNS, (rows,) each, in order
    stored: int  # rows of the day in the database, including overridden ones

    @property
    def rows(self) -> int:
        """How many rows count."""
        return len(self.columns["day"])


def day_number(day: dt.date) -> int:
    """Days since 1970."""
    return (day - EPOCH).days


def day_of(number: int) -> dt.date:
    """The date of a number of days since 1970."""
    return EPOCH + dt.timedelta(days=int(number))


async def newest_day(database: Database) -> dt.date | None:
    """The last day with data; None if there is none."""
    async with database.read() as connection:
        newest = (await connection.execute(text("SELECT MAX(day) FROM performance_hourly"))).scalar_one_or_none()
    return None if newest is None else _date(newest)


async def read_history(database: Database, through: dt.date) -> pd.DataFrame:
    """Everything up to the end of day `through`, oldest first, from the database."""
    days = await database.run_read(
        lambda connection: list(connection.execute(_DAYS.where(_P.day <= through)).scalars())
    )
    read = [day_of_rows(_no_rows(), EPOCH).columns]
    for start in range(0, len(days), DAYS_TOGETHER):
        read += await database.run_read(partial(_read_days, days=days[start : start + DAYS_TOGETHER]))
    return frame({name: np.concatenate([columns[name] for columns in read]) for name in COLUMNS})


def frame(columns: Mapping[str, npt.NDArray[Any]]) -> pd.DataFrame:
    """COLUMNS as a frame; ids stay shared Python objects, which pandas would otherwise copy into its own strings."""
    return pd.DataFrame({name: pd.Series(columns[name], dtype=columns[name].dtype, copy=False) for name in COLUMNS})


def _read_days(connection: Connection, days: Sequence[dt.date]) -> list[dict[str, npt.NDArray[Any]]]:
    return [read_day(connection, day).columns for day in days]


def read_day(connection: Connection, day: dt.date) -> Day:
    """The rows of a UTC day that count."""
    return day_of_rows(read_rows(connection, day), day)


def read_rows(connection: Connection, day: dt.date) -> Rows:
    """All rows of a UTC day, of every kind, with the column `precedence`."""
    words: dict[str, str] = {}
    parts = [_arrays(fetched, words) for fetched in fetch_columns(connection, select(*_ROWS).where(_P.day == day))]
    parts = parts or [_no_rows()]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _no_rows() -> Rows:
    return _arrays([()] * len(_ROWS), {})


def day_of_rows(rows: Rows, day: dt.date) -> Day:
    """The rows that count: where several kinds have rows of a placement, those of the kind with precedence.

    The same as the view `performance`, which takes minutes for brands with thousands of placements a day, because it
    looks for a better row for each row; here it is one pass over the day.
    """
    stored, precedence = len(rows["hour"]), rows["precedence"]
    columns = {name: rows[name] for name in COLUMNS[1:8]} | {
        name: rows[name].astype(np.float64) for name in COLUMNS[8:]
    }
    columns["hour"] = np.where(rows["daily"], -1, rows["hour"])
    columns["cost_micros"][~rows["knows_cost"]] = np.nan
    codes = {name: pd.factorize(columns[name], sort=True)[0] for name in ID_COLUMNS}
    rows_that_count = np.arange(stored)
    if len(np.unique(precedence)) > 1:
        place = pd.DataFrame(codes).groupby(list(ID_COLUMNS), sort=False).ngroup().to_numpy()
        best = np.full(place.max() + 1, np.iinfo(np.int64).max)
        np.minimum.at(best, place, precedence)
        rows_that_count = np.flatnonzero(precedence == best[place])
    keys = [codes.get(name, columns[name])[rows_that_count] for name in reversed(_ORDER)]
    order = rows_that_count[np.lexsort(keys)]
    days = np.full(len(order), day_number(day), np.int64)
    return Day({"day": days} | {name: column[order] for name, column in columns.items()}, stored)


def _arrays(fetched: Sequence[Sequence[Any]], words: dict[str, str]) -> Rows:
    """Columns of _ROWS as arrays. `words`: shares one object per id among calls."""
    kind, precedence, period, hours, *ids_and_figures = fetched
    ids, (score, *figures) = ids_and_figures[: len(ID_COLUMNS)], ids_and_figures[len(ID_COLUMNS) :]
    rows: Rows = {
        "kind": np.array([words.setdefault(word, word) for word in kind], dtype=object),
        "precedence": np.array(precedence, np.int64),
        "daily": np.array([one == "day" for one in period], np.bool_),
        "hour": np.array(hours, np.int64),
    }
    for name, column in zip(ID_COLUMNS, ids, strict=True):
        rows[name] = np.array([words.setdefault(word, word) for word in column], dtype=object)
    rows["placement_score"] = np.array(score, np.float64)  # None becomes NaN
    for name, column in zip(COLUMNS[8:], figures, strict=True):
        if name == "cost_micros":
            rows["knows_cost"] = np.array([cost is not None for cost in column], np.bool_)
            column = [cost or 0 for cost in column]
        rows[name] = np.array(column, np.int64)
    return rows


def _date(value: Any) -> dt.date:
    return value if isinstance(value, dt.date) else dt.date.fromisoformat(str(value)[:10])


def from_import(frame: pd.DataFrame, *, daily: bool) -> pd.DataFrame:
    """A history from parsed rows (`csv_reader.Read.frame`), in the same order."""
    seconds = frame["hour"].astype(np.int64)
    made = frame.rename(columns={"hour": "at"}).assign(
        day=seconds // 86_400, hour=-1 if daily else seconds // 3600 % 24
    )
    return made[list(COLUMNS)].reset_index(drop=True)
