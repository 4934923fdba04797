"""Tells which events are new since an earlier run, and which days they affect.

A number (`events.seq`) is assigned when a row is inserted, and becomes visible when its transaction commits: with the
ledgers of several shards a smaller number may appear after a greater one. So a watermark also keeps the unused numbers
below it: an event that appears under one of them is new, however late.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

from sqlalchemy import Column, ColumnElement, Connection, Select, Subquery, and_, func, or_, select

from db import tables as t
from db.rows import chunks
from ledger.domain.settlement import CLICK, CONVERSIONS

OVERLAP = 500_000
"""How far below the greatest number others may still appear: more than all shards insert during the longest
transaction."""

TOGETHER = 500_000
"""Numbers that one query covers."""

BrandDays = dict[dt.date, dict[str, int]]
"""UTC day → brand → number of its new events; 0 if only new events of other days affect this day."""

_E, _P = t.events.c, t.performance_hourly.c
_DAY_OF_EVENT = func.date(_E.occurred_at)
_IS_CONVERSION = _E.type.in_(CONVERSIONS)
_GROUP = (_E.brand_id, _E.partner_id, _E.conversion_id)
_CLICK = (_E.brand_id, _E.partner_id, _E.click_id)


class Watermark(NamedTuple):
    """Up to where events have been processed."""

    seq: int  # number of the newest event that was seen; 0: there was none
    content_hash: str  # of that event, to notice another database
    gaps: tuple[tuple[int, int], ...] = ()  # unused numbers up to `seq`, as (first, last)

    @classmethod
    def of(cls, connection: Connection) -> Self:
        """The watermark as of now; events of transactions that have not committed yet are not behind it."""
        newest = connection.execute(select(_E.seq, _E.content_hash).order_by(_E.seq.desc()).limit(1)).one_or_none()
        if newest is None:
            return cls(0, "")
        seq = int(newest.seq)
        first = max(seq - OVERLAP, 0)
        number, least = connection.execute(select(func.count(), func.min(_E.seq)).where(_E.seq > first)).one()
        if number == seq - first:
            return cls(seq, newest.content_hash)
        after = func.lead(_E.seq).over(order_by=_E.seq).label("after")
        pairs = select(_E.seq, after).where(_E.seq > first).subquery()
        holes = connection.execute(select(pairs).where(pairs.c.after > pairs.c.seq + 1).order_by(pairs.c.seq))
        gaps = [(int(row[0]) + 1, int(row[1]) - 1) for row in holes]
        if least > first + 1:
            gaps.insert(0, (first + 1, int(least) - 1))
        return cls(seq, newest.content_hash, tuple(gaps))

    def is_of(self, connection: Connection) -> bool:
        """Whether the database holds the event of the watermark, and so is the same one."""
        if not self.seq:
            return True
        found = connection.execute(select(_E.content_hash).where(_E.seq == self.seq)).scalar_one_or_none()
        return found == self.content_hash

    def news(self, until: Self) -> Iterator[ColumnElement[bool]]:
        """Conditions; events that fulfil any of them are between the two watermarks."""
        for start in range(self.seq, until.seq, TOGETHER):
            yield and_(_E.seq > start, _E.seq <= min(start + TOGETHER, until.seq))
        for some in chunks(self.gaps):
            yield or_(*(_E.seq.between(first, last) for first, last in some))


def touched(connection: Connection, since: Watermark, until: Watermark) -> BrandDays:
    """The days of brands that events between the two watermarks affect.

    An impression, a click or an aggregate counts on its own day. A conversion counts on the day of its first event,
    which may change when an earlier one arrives: so all days of its events are affected. A click may complete
    conversions that arrived before it.
    """
    days: BrandDays = {}
    for new in since.news(until):
        query = select(_E.brand_id, _DAY_OF_EVENT, func.count()).where(new).group_by(_E.brand_id, _DAY_OF_EVENT)
        for brand_id, day, number in connection.execute(query):
            of_day = days.setdefault(_date(day), {})
            of_day[brand_id] = of_day.get(brand_id, 0) + number
        stated = select(*_GROUP).where(new, _IS_CONVERSION).distinct().subquery()
        clicks = select(*_CLICK).where(new, _E.type == CLICK, _E.click_id.is_not(None)).distinct().subquery()
        completed = _events_of(clicks, _CLICK, _GROUP).subquery()
        for named in (stated, completed):
            for brand_id, day in connection.execute(_events_of(named, _GROUP, (_E.brand_id, _DAY_OF_EVENT))):
                days.setdefault(_date(day), {}).setdefault(brand_id, 0)
    return days


def all_days(connection: Connection) -> BrandDays:
    """All days of all brands that have events or rows, of any kind."""
    days: BrandDays = {}
    query = select(_E.brand_id, _DAY_OF_EVENT, func.count()).group_by(_E.brand_id, _DAY_OF_EVENT)
    for brand_id, day, number in connection.execute(query):
        days.setdefault(_date(day), {})[brand_id] = number
    for brand_id, of in connection.execute(select(_P.brand_id, _P.day).distinct()):
        days.setdefault(of, {}).setdefault(brand_id, 0)
    return days


def _events_of(named: Subquery, by: Sequence[Column[Any]], columns: Sequence[ColumnElement[Any]]) -> Select[Any]:
    """These columns, each combination once, of all conversion events with the keys of `named`.

    MySQL is given the join order and index, since without statistics on the keys it would read the whole table.
    """
    same = and_(*(column == named.c[column.name] for column in by))
    index = f"ix_events_brand_id_{by[-1].name}"
    query = select(*columns).select_from(named.join(t.events, same)).where(_IS_CONVERSION).distinct()
    return query.prefix_with("STRAIGHT_JOIN", dialect="mysql").with_hint(t.events, f"FORCE INDEX ({index})", "mysql")


def _date(value: Any) -> dt.date:
    """A date as the database gives it: SQLite has no dates, only text."""
    return value if isinstance(value, dt.date) else dt.date.fromisoformat(value)
