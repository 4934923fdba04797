"""What the performance rows of a brand's day should be by its events alone, beside what they are.

The ledger writes an event and what it does to its row in one transaction, so the two never differ. This counts anew,
by the ledger's own pure rules (`ledger/settlement.py`), and repairs what differs all the same, under the ledger's lock.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, extract, func, select

from db import tables as t
from db.rows import chunks, fetch_columns
from ledger.event_store import EventStore
from ledger.settlement import (
    AGGREGATE,
    CONVERSION,
    UPDATE,
    Fact,
    Figures,
    RowKey,
    effect_of_group,
    figures_of,
    row_of,
)
from ledger.types import Tuple

ONE_DAY = dt.timedelta(days=1)
_E, _P = t.events.c, t.performance_hourly.c
_GROUP = (_E.brand_id, _E.partner_id, _E.conversion_id)
_IS_CONVERSION = _E.type.in_((CONVERSION, UPDATE))
_KIND = (_E.type, _E.period, extract("hour", _E.occurred_at))
_PLACE = (_E.brand_id, _E.partner_id, _E.slot_id, _E.device_type, _E.creative_type, _E.placement_score)
_SUMS = (
    func.count(), func.sum(_E.impressions), func.sum(_E.clicks), func.sum(_E.conversions), func.sum(_E.cost_micros),
    func.sum(_E.revenue_micros),
)  # fmt: skip
_FACT = (
    *_GROUP, _E.event_id, _E.type, _E.occurred_at, _E.slot_id, _E.device_type, _E.creative_type, _E.placement_score,
    _E.day, _E.portfolio_id, _E.reservation_id, _E.status, _E.cost_micros, _E.revenue_micros,
)  # fmt: skip
_STORED = (
    _P.key_hash, _P.kind, _P.period, extract("hour", _P.hour),
    _P.brand_id, _P.partner_id, _P.slot_id, _P.device_type, _P.creative_type, _P.placement_score,
    _P.impressions, _P.clicks, _P.conversions, _P.cost_micros, _P.revenue_micros, _P.pending_revenue_micros,
)  # fmt: skip
_SUMMED = _P.kind.in_(("event", "aggregate"))
_LOCK = select(t.ledger_epochs.c.shard).order_by(t.ledger_epochs.c.shard).with_for_update()


class Difference(NamedTuple):
    key: RowKey
    stored: Figures | None  # None: there is no such row
    counted: Figures | None  # None: there should be none

    def __str__(self) -> str:
        where = "/".join(map(str, self.key.place[1:]))
        said = [f"{figures._asdict()}" if figures else "no row" for figures in (self.stored, self.counted)]
        hour = f"{self.key.hour:%Y-%m-%dT%H}"
        return f"{self.key.place.brand_id} {hour} {self.key.kind} {where}: stored {said[0]}, counted {said[1]}"


@dataclass(slots=True)
class Recount:
    """A day of some brands, counted anew."""

    rows: int = 0  # that the events add up to
    differences: list[Difference] = field(default_factory=list)
    unfounded: set[str] = field(default_factory=set)  # brands that have rows of the day, and not one event
    hashes: dict[RowKey, list[str]] = field(default_factory=dict)  # of stored rows that differ


def recount(connection: Connection, day: dt.date, brand_ids: Sequence[str]) -> Recount:
    """What differs on one UTC day of these brands. All reads should see one moment."""
    found = Recount()
    for chunk in chunks(sorted(brand_ids)):
        counted, brands = _counted(connection, day, chunk)
        found.rows += len(counted)
        _compare(connection, day, chunk, counted, brands, found)
    return found


def repair(connection: Connection, day: dt.date, brand_ids: Sequence[str]) -> list[Difference]:
    """Make the rows what the events say, in a write transaction. Returns what did differ.

    No ledger writes meanwhile: like theirs, the transaction holds the epochs' rows first.
    """
    connection.execute(_LOCK).all()
    found = recount(connection, day, brand_ids)
    wrong = [hash_ for hashes in found.hashes.values() for hash_ in hashes]
    for chunk in chunks(sorted(wrong)):
        connection.execute(delete(t.performance_hourly).where(_P.key_hash.in_(chunk)))
    right = {one.key: one.counted for one in found.differences if one.counted is not None}
    EventStore().put_figures(connection, (), right)
    return found.differences


def _counted(connection: Connection, day: dt.date, brand_ids: Sequence[str]) -> tuple[dict[RowKey, Figures], set[str]]:
    """What the events of the day add up to, by row; and the brands that have any."""
    rows: dict[RowKey, Figures] = {}
    brands: set[str] = set()
    for key, figures in (*_simple(connection, day, brand_ids), *_groups(connection, day, brand_ids, brands)):
        before = rows.get(key)
        if before is not None:
            figures = before.plus(figures)
        elif key.kind == "event" and figures.cost_micros is None:
            figures = figures._replace(cost_micros=0)
        rows[key] = figures
    brands.update(key.place.brand_id for key in rows)
    # An event row from which everything was taken back goes away.
    return {key: figures for key, figures in rows.items() if key.kind != "event" or any(figures)}, brands


def _simple(connection: Connection, day: dt.date, brand_ids: Sequence[str]) -> Iterator[tuple[RowKey, Figures]]:
    """Impressions, clicks and aggregates. Those that are alike in all but their sums come as one from the database."""
    query = select(*_KIND, *_PLACE, *_SUMS).where(_on(day, brand_ids), _E.type.not_in((CONVERSION, UPDATE)))
    shapes: dict[tuple[Any, ...], tuple[Fact, RowKey]] = {}
    for row in _rows(connection, query.group_by(*_KIND, *_PLACE)):
        shape, place, (number, impressions, clicks, conversions, cost, revenue) = row[:3], row[3:9], row[9:]
        if shape not in shapes:
            type_, period, hour = shape
            at = dt.datetime(day.year, day.month, day.day, int(hour), tzinfo=dt.UTC)
            fact = Fact("", type_, at, Tuple(*place), day, None, None, None, period=period)
            found = row_of(fact)
            assert found is not None
            shapes[shape] = fact, found
        fact, key = shapes[shape]
        figures = figures_of(Fact(*fact[:10], impressions, clicks, conversions, cost, revenue))
        if fact.type != AGGREGATE:  # each counts as one
            figures = figures._replace(impressions=number * figures.impressions, clicks=number * figures.clicks)
        yield RowKey(*key[:3], Tuple(*place)), figures


def _groups(
    connection: Connection, day: dt.date, brand_ids: Sequence[str], brands: set[str]
) -> Iterator[tuple[RowKey, Figures]]:
    """Conversions that show on the day, with their events of all days. `brands` gets those that have any event then."""
    named = select(*_GROUP).where(_on(day, brand_ids), _IS_CONVERSION).distinct().subquery()
    same = and_(*(column == named.c[column.name] for column in _GROUP))
    query = select(*_FACT).join(named, same).where(_IS_CONVERSION).order_by(*_GROUP)
    for group, rows in groupby(connection.execute(query), key=lambda row: row[:3]):
        brands.add(group[0])
        effect = effect_of_group([_fact(row) for row in rows])
        if effect.row is not None and effect.row.hour.date() == day:
            yield effect.row, effect.figures


def _fact(row: Any) -> Fact:
    """A recorded event of a conversion."""
    place = None
    if row.slot_id is not None:
        place = Tuple(
            row.brand_id, row.partner_id, row.slot_id, row.device_type, row.creative_type, row.placement_score
        )
    return Fact(
        event_id=row.event_id,
        type=row.type,
        occurred_at=row.occurred_at,
        place=place,
        day=row.day,
        portfolio_id=row.portfolio_id,
        reservation_id=row.reservation_id,
        pricing_model=None,  # decides which holds end, not what shows
        status=row.status,
        cost_micros=row.cost_micros,
        revenue_micros=row.revenue_micros,
    )


def _compare(
    connection: Connection,
    day: dt.date,
    brand_ids: Sequence[str],
    counted: dict[RowKey, Figures],
    brands: set[str],
    found: Recount,
) -> None:
    """Add what differs to `found`. `counted` is used up."""
    query = select(*_STORED).where(_P.day == day, _P.brand_id.in_(brand_ids), _SUMMED)
    hours = [dt.datetime(day.year, day.month, day.day, hour, tzinfo=dt.UTC) for hour in range(24)]
    unequal: dict[RowKey, Figures] = {}
    for row in _rows(connection, query):
        key = RowKey(row[1], row[2], hours[int(row[3])], Tuple(*row[4:10]))
        if key.place.brand_id not in brands:
            found.unfounded.add(key.place.brand_id)
        elif key not in found.hashes and row[10:] == counted.get(key):
            del counted[key]
        else:  # of two rows with one key the second is too many, whatever it says
            unequal.setdefault(key, Figures(*row[10:]))
            found.hashes.setdefault(key, []).append(row[0])
    for key, stored in unequal.items():
        found.differences.append(Difference(key, stored, counted.pop(key, None)))
    found.differences += [Difference(key, None, figures) for key, figures in counted.items()]


def _rows(connection: Connection, query: Select[Any]) -> Iterator[tuple[Any, ...]]:
    for columns in fetch_columns(connection, query):
        yield from zip(*columns, strict=True)


def _on(day: dt.date, brand_ids: Sequence[str]) -> ColumnElement[bool]:
    start = dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
    return and_(_E.brand_id.in_(brand_ids), _E.occurred_at >= start, _E.occurred_at < start + ONE_DAY)
