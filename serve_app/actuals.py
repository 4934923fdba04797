"""What really happened to a slot, for GET /api/roas. Reads the database; never on the hot path."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

from sqlalchemy import Date, TextClause, bindparam, text

from db import Database


class Sums(NamedTuple):
    """Totals of a window. `matched_*` leave out the rows whose cost is not known."""

    impressions: int
    clicks: int
    conversions: int
    cost_micros: int | None
    revenue_micros: int
    pending_revenue_micros: int
    matched_revenue_micros: int
    matched_pending_micros: int


class Where(NamedTuple):
    brand_id: str
    partner_id: str
    slot_id: str
    device_type: str | None
    creative_type: str | None


def _sums(names: tuple[str, ...]) -> TextClause:
    conditions = "".join(f" AND {name} = :{name}" for name in names)
    return text(
        "SELECT SUM(impressions), SUM(clicks), SUM(conversions), SUM(cost_micros), SUM(revenue_micros), SUM(pending_revenue_micros),"
        " SUM(CASE WHEN cost_micros IS NOT NULL THEN revenue_micros END),"
        " SUM(CASE WHEN cost_micros IS NOT NULL THEN pending_revenue_micros END)"
        f" FROM performance WHERE day >= :first AND day <= :last{conditions}"
    ).bindparams(bindparam("first", type_=Date), bindparam("last", type_=Date))


async def window(database: Database, where: Where, last: dt.date, days: int) -> Sums:
    """Totals of the last `days` days, `last` included. A device or creative of None counts all of them."""
    wanted = {name: value for name, value in where._asdict().items() if value is not None}
    values = {**wanted, "first": last - dt.timedelta(days=days - 1), "last": last}
    async with database.read() as connection:
        row = (await connection.execute(_sums(tuple(wanted)), values)).one()
    numbers = [None if value is None else int(value) for value in row]
    return Sums(*[value if index == 3 else value or 0 for index, value in enumerate(numbers)])  # type: ignore[arg-type]
