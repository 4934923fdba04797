"""Sums a slot's recorded impressions, clicks, conversions, cost and revenue for GET /api/roas."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

from sqlalchemy import Date, TextualSelect, bindparam, text

from db.session import Database
from ledger.bidding.revenue_completion import DaySums


class Actuals(NamedTuple):
    """Totals of a window, money in micros, and its days by age in days (0: the last)."""

    impressions: int
    clicks: int
    conversions: int
    cost_micros: int | None  # None: no row's cost is known
    revenue_micros: int  # approved
    pending_revenue_micros: int
    days: dict[int, DaySums]  # revenue of rows whose cost is known


class SlotFilter(NamedTuple):
    """Which rows are summed. A device or creative of None takes all of them."""

    brand_id: str
    partner_id: str
    slot_id: str
    device_type: str | None
    creative_type: str | None


def _sums(names: tuple[str, ...]) -> TextualSelect:
    conditions = "".join(f" AND {name} = :{name}" for name in names)
    return (
        text(
            # As doubles: SQLite raises an error for sums beyond 2^63, and these figures are only shown, never booked.
            "SELECT day, SUM(impressions + 0e0), SUM(clicks + 0e0), SUM(conversions + 0e0), SUM(cost_micros + 0e0),"
            " SUM(revenue_micros + 0e0), SUM(pending_revenue_micros + 0e0),"
            " SUM(CASE WHEN cost_micros IS NOT NULL THEN revenue_micros + 0e0 END),"
            " SUM(CASE WHEN cost_micros IS NOT NULL THEN pending_revenue_micros + 0e0 END)"
            f" FROM performance WHERE day >= :first AND day <= :last{conditions} GROUP BY day"
        )
        .bindparams(bindparam("first", type_=Date), bindparam("last", type_=Date))
        .columns(day=Date)
    )


async def actuals(database: Database, where: SlotFilter, last: dt.date, days: int) -> Actuals:
    """Totals of the last `days` days, `last` included. Raises: SQLAlchemyError, OSError."""
    conditions = {name: value for name, value in where._asdict().items() if value is not None}
    values = {**conditions, "first": last - dt.timedelta(days=days - 1), "last": last}
    async with database.read() as connection:
        rows = (await connection.execute(_sums(tuple(conditions)), values)).all()
    costs = [int(row[4]) for row in rows if row[4] is not None]
    by_day = {
        (last - row[0]).days: DaySums(*(int(value or 0) for value in (*row[1:5], row[7], row[8]))) for row in rows
    }
    impressions, clicks, conversions, revenue, pending = (
        sum(int(row[column]) for row in rows) for column in (1, 2, 3, 5, 6)
    )
    return Actuals(impressions, clicks, conversions, sum(costs) if costs else None, revenue, pending, by_day)
