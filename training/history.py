"""What the memory knows about performance, as a frame.

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

from db import Database
from db import tables as t
from db.rows import fetch_columns
from training.features import ID_COLUMNS

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
"""In one look at the database."""

_P = t.performance_hourly.c
_ROWS = (_P.precedence, _P.period, extract("hour", _P.hour), *(_P[name] for name in COLUMNS[2:]))
# In one order whatever the database gave, rows with one key (of two sources) by what they say: sums of doubles, and so
# versions, are the same night after night.
_ORDER = ("hour", *ID_COLUMNS, *COLUMNS[7:])
_DAYS = select(_P.day).distinct().order_by(_P.day)


class Day(NamedTuple):
    """The rows of a UTC day."""

    columns: dict[str, npt.NDArray[Any]]  # COLUMNS, (rows,) each: those that count, in order
    stored: int  # rows of the day in the database, those that do not count included

    @property
    def rows(self) -> int:
        return len(self.columns["day"])


def day_number(day: dt.date) -> int:
    return (day - EPOCH).days


def day_of(number: int) -> dt.date:
    return EPOCH + dt.timedelta(days=int(number))


async def newest_day(database: Database) -> dt.date | None:
    """The last day with data, None without any."""
    async with database.read() as connection:
        newest = (await connection.execute(text("SELECT MAX(day) FROM performance_hourly"))).scalar_one_or_none()
    return None if newest is None else _date(newest)


async def read_history(database: Database, through: dt.date) -> pd.DataFrame:
    """Everything up to the end of day `through`, oldest first, from the database."""
    days = await database.run_read(
        lambda connection: list(connection.execute(_DAYS.where(_P.day <= through)).scalars())
    )
    read = [_columns([], 0)]
    for start in range(0, len(days), DAYS_TOGETHER):
        read += await database.run_read(partial(_read_days, days=days[start : start + DAYS_TOGETHER]))
    return frame({name: np.concatenate([columns[name] for columns in read]) for name in COLUMNS})


def frame(columns: Mapping[str, npt.NDArray[Any]]) -> pd.DataFrame:
    """COLUMNS as a frame; ids stay the objects that they are, which pandas would copy into its own strings."""
    return pd.DataFrame({name: pd.Series(columns[name], dtype=columns[name].dtype, copy=False) for name in COLUMNS})


def _read_days(connection: Connection, days: Sequence[dt.date]) -> list[dict[str, npt.NDArray[Any]]]:
    return [read_day(connection, day).columns for day in days]


def read_day(connection: Connection, day: dt.date) -> Day:
    """Where several kinds cover a tuple of the day, the one that counts: like the view `performance`.

    The view looks for a better row for each row: minutes where a brand has thousands of tuples a day. Here it is one
    pass over the day.
    """
    words: dict[str, str] = {}
    parts: list[list[npt.NDArray[Any]]] = []
    stored = 0
    for fetched in fetch_columns(connection, select(*_ROWS).where(_P.day == day)):
        stored += len(fetched[0])
        parts.append(_arrays(fetched, words))
    if not parts:
        return Day(_columns([], 0), 0)
    precedence, daily, hours, *rest = (np.concatenate(column) for column in zip(*parts, strict=True))
    columns = _columns([np.where(daily, -1, hours), *rest], day_number(day))
    codes = {name: pd.factorize(columns[name], sort=True)[0] for name in ID_COLUMNS}
    rows_that_count = np.arange(stored)
    if len(np.unique(precedence)) > 1:
        place = pd.DataFrame(codes).groupby(list(ID_COLUMNS), sort=False).ngroup().to_numpy()
        best = np.full(place.max() + 1, np.iinfo(np.int64).max)
        np.minimum.at(best, place, precedence)
        rows_that_count = np.flatnonzero(precedence == best[place])
    keys = [codes.get(name, columns[name])[rows_that_count] for name in reversed(_ORDER)]
    order = rows_that_count[np.lexsort(keys)]
    return Day({name: column[order] for name, column in columns.items()}, stored)


def _arrays(fetched: Sequence[Sequence[Any]], words: dict[str, str]) -> list[npt.NDArray[Any]]:
    """precedence, whether it is a day's row, hour, then COLUMNS from the ids on. `words`: one object for each id."""
    precedence, period, hours, *rest = fetched
    arrays: list[npt.NDArray[Any]] = [
        np.array(precedence, np.int64),
        np.array([one == "day" for one in period], np.bool_),
        np.array(hours, np.int64),
    ]
    for column in rest[: len(ID_COLUMNS)]:
        arrays += [np.array([words.setdefault(word, word) for word in column], dtype=object)]
    # None, a cost or a score that is not known, becomes NaN.
    arrays += [np.array(column, dtype=np.float64) for column in rest[len(ID_COLUMNS) :]]
    return arrays


def _columns(arrays: list[npt.NDArray[Any]], day: int) -> dict[str, npt.NDArray[Any]]:
    """COLUMNS from the hours on, and the day before them."""
    if not arrays:
        arrays = [np.empty(0, np.int64), *[np.empty(0, object)] * len(ID_COLUMNS), *[np.empty(0)] * len(COLUMNS[7:])]
    days = np.full(len(arrays[0]), day, np.int64)
    return dict(zip(COLUMNS, [days, *arrays], strict=True))


def _date(value: Any) -> dt.date:
    return value if isinstance(value, dt.date) else dt.date.fromisoformat(str(value)[:10])


def from_import(frame: pd.DataFrame, *, daily: bool) -> pd.DataFrame:
    """A history from parsed rows (`etl.Read.frame`), one row a row, in the same order."""
    seconds = frame["hour"].astype(np.int64)
    made = frame.rename(columns={"hour": "at"}).assign(
        day=seconds // 86_400, hour=-1 if daily else seconds // 3600 % 24
    )
    return made[list(COLUMNS)].reset_index(drop=True)
