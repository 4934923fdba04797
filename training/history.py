"""What the memory knows about performance, as a frame.

Columns: `day` (int, days since 1970), `hour` (0–23, −1 for daily rows), the five ids, `placement_score`
(NaN for none), `impressions`, `clicks`, `conversions`, `cost_micros` (NaN for not known), `revenue_micros`
(approved), `pending_revenue_micros`.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import text

from db import Database
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
PARTITION_DAYS = 31
# Like the view `performance`, of which row counts where several kinds cover a (day, tuple). The view looks for a better
# row for each row: minutes where a brand has thousands of tuples a day. Here it is one pass over a partition.
READ = text(
    "SELECT precedence, day, period, hour, brand_id, partner_id, slot_id, device_type, creative_type, placement_score,"
    " impressions, clicks, conversions, cost_micros, revenue_micros, pending_revenue_micros"
    " FROM performance_hourly WHERE day >= :first AND day < :end"
)
ORDER = ["day", "hour", *ID_COLUMNS, "placement_score"]
DAYS = text("SELECT MIN(day), MAX(day) FROM performance_hourly WHERE day <= :through")


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
    """Everything up to the end of day `through`, a month at a time, oldest first."""
    async with database.read() as connection:
        first, last = (await connection.execute(DAYS, {"through": through.isoformat()})).one()
    parts: list[pd.DataFrame] = []
    if first is not None:
        start, last = _date(first), _date(last)
        while start <= last:
            end = min(start + dt.timedelta(days=PARTITION_DAYS), last + dt.timedelta(days=1))
            async with database.read() as connection:
                rows = await connection.execute(READ, {"first": start.isoformat(), "end": end.isoformat()})
                parts.append(_frame(list(rows)))
            start = end
    if not parts:
        return _frame([])
    return pd.concat(parts, ignore_index=True)


def _frame(rows: list[Any]) -> pd.DataFrame:
    raw = pd.DataFrame.from_records(
        [tuple(row) for row in rows],
        columns=["precedence", "day", "period", "at", *COLUMNS[2:]],
    )
    if raw["precedence"].nunique() > 1:
        best = raw.groupby(["day", *ID_COLUMNS], sort=False)["precedence"].transform("min")
        raw = raw[raw["precedence"] == best]
    hours = pd.to_datetime(raw["at"]).dt.hour if len(raw) else pd.Series([], dtype=np.int64)
    frame = pd.DataFrame(
        {
            "day": pd.to_datetime(raw["day"]).astype("datetime64[s]").astype(np.int64) // 86_400,
            "hour": np.where(raw["period"] == "day", -1, hours).astype(np.int64),
            **{name: raw[name].astype(object) for name in ID_COLUMNS},
            **{name: raw[name].astype(np.float64) for name in COLUMNS[7:]},
        }
    )
    # In one order whatever the database gave: sums of doubles, and so versions, are the same night after night.
    return frame[list(COLUMNS)].sort_values(ORDER, ignore_index=True)


def _date(value: Any) -> dt.date:
    return value if isinstance(value, dt.date) else dt.date.fromisoformat(str(value)[:10])


def from_import(frame: pd.DataFrame, *, daily: bool) -> pd.DataFrame:
    """A history from parsed rows (`etl.Read.frame`), one row a row, in the same order."""
    seconds = frame["hour"].astype(np.int64)
    made = frame.rename(columns={"hour": "at"}).assign(
        day=seconds // 86_400, hour=-1 if daily else seconds // 3600 % 24
    )
    return made[list(COLUMNS)].reset_index(drop=True)
