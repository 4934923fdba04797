"""Counts the events of a day again, compares the sums with the performance rows, and repairs rows that differ.

The ledger writes an event and its effect on the row in one transaction, so the two should never differ; a difference is
repaired under the ledger's lock. Impressions, clicks and aggregates are summed by the database; conversions, whose
events replace each other, are counted by the ledger's own rules (`ledger/domain/settlement.py`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from sqlalchemy import ColumnElement, Connection, and_, delete, extract, func, select

from db import tables as t
from db.rows import chunks, fetch_columns
from ledger.domain.messages import Placement
from ledger.domain.settlement import (
    AGGREGATE,
    CLICK,
    CONVERSIONS,
    IMPRESSION,
    Figures,
    RowKey,
    effect_of_group,
    fact_of_row,
)
from ledger.storage.event_store import FACT, GROUP, IS_CONVERSION, EventStore
from training.etl.reader import Rows, read_rows

ONE_DAY = dt.timedelta(days=1)
KEY = ("kind", "daily", "hour", *Placement._fields)
_E, _P = t.events.c, t.performance_hourly.c
_KIND = (_E.type, _E.period, extract("hour", _E.occurred_at))
_PLACE = tuple(_E[name] for name in Placement._fields)
_SUMS = (
    func.count(), func.sum(_E.impressions), func.sum(_E.clicks), func.sum(_E.conversions), func.sum(_E.cost_micros),
    func.sum(_E.revenue_micros),
)  # fmt: skip
_ROW_KEY = (_P.kind, _P.period, _P.hour, *(_P[name] for name in Placement._fields))
_LOCK = select(t.ledger_epochs.c.shard).order_by(t.ledger_epochs.c.shard).with_for_update()


class Difference(NamedTuple):
    """A performance row that is not what its events add up to."""

    key: RowKey
    stored: Figures | None  # None: there is no such row
    counted: Figures | None  # None: there should be none

    def __str__(self) -> str:
        where = "/".join(map(str, self.key.place[1:]))
        stored, counted = (f"{figures._asdict()}" if figures else "no row" for figures in (self.stored, self.counted))
        hour = f"{self.key.hour:%Y-%m-%dT%H}"
        return f"brand {self.key.place.brand_id} {hour} {self.key.kind} {where}: stored {stored}, counted {counted}"


@dataclass(slots=True)
class Recount:
    """A day of some brands, counted again."""

    stored: Rows  # all rows of the day, also of other brands
    brands: int = 0  # those of the brands that have events or rows on the day
    rows: int = 0  # that the events add up to
    differences: list[Difference] = field(default_factory=list)
    unfounded: int = 0  # brands that have rows on the day, but no event


def recount(connection: Connection, day: dt.date, batches: Sequence[Sequence[str]]) -> Recount:
    """Count the events of one UTC day and compare them with its rows, a batch of brands in memory at a time.

    Args:
        connection: in a snapshot, so that all reads see the same moment.
    """
    found = Recount(read_rows(connection, day))
    of_events = found.stored["kind"] != "import"
    for brand_ids in batches:
        counted, brands = _counted(connection, day, brand_ids)
        beside = _where(found.stored, of_events & _is_in(found.stored["brand_id"], brand_ids))
        with_rows = set(beside["brand_id"])
        found.brands += len(brands | with_rows)
        found.unfounded += len(with_rows - brands)
        rows, differences = compare(day, _where(beside, _is_in(beside["brand_id"], brands)), counted)
        found.rows += rows
        found.differences += differences
    return found


def repair(connection: Connection, day: dt.date, brand_ids: Sequence[str]) -> list[Difference]:
    """Make the rows equal to what the events add up to; returns what differed. Call it in a write transaction.

    Ledgers wait meanwhile: like theirs, the transaction locks the epochs' rows first.
    """
    connection.execute(_LOCK).all()
    found = recount(connection, day, list(chunks(brand_ids)))
    right = {one.key: one.counted for one in found.differences}
    for some in chunks(brand_ids):
        query = select(_P.key_hash, *_ROW_KEY).where(_P.day == day, _P.brand_id.in_(some), _P.kind != "import")
        rows = connection.execute(query).all()
        wrong = [row[0] for row in rows if RowKey(row[1], row[2], row[3], Placement._make(row[4:])) in right]
        for chunk in chunks(sorted(wrong)):
            connection.execute(delete(t.performance_hourly).where(_P.key_hash.in_(chunk)))
    there = {key: figures for key, figures in right.items() if figures is not None}
    EventStore().put_figures(connection, (), there)
    return found.differences


def compare(day: dt.date, stored: Rows, counted: Rows) -> tuple[int, list[Difference]]:
    """(number of rows there should be, those that differ).

    Args:
        stored: the rows as they are; two with the same key are a difference, whatever their figures.
        counted: parts that add up to the rows there should be; those with the same key are one row.
    """
    keys = {name: np.concatenate([stored[name], counted[name]]) for name in KEY}
    codes = pd.DataFrame({name: pd.factorize(column)[0] for name, column in keys.items()})  # −0.0 is 0.0, NaN is −1
    row = codes.groupby(list(KEY), sort=False).ngroup().to_numpy()
    of_stored, of_counted = np.split(row, [len(stored["hour"])])
    number = row.max(initial=-1) + 1
    is_stored = np.bincount(of_stored, minlength=number)
    is_counted = np.bincount(of_counted, minlength=number) > 0
    figures = _sums(stored, of_stored, number), _sums(counted, of_counted, number)
    kind = np.empty(number, object)
    kind[row] = keys["kind"]
    # An event row whose figures are all zero again is not stored.
    is_counted &= (kind != "event") | figures[1][:, :-1].any(axis=1)
    differs = (is_stored != is_counted) | (is_counted & (figures[0] != figures[1]).any(axis=1))
    first = np.full(number, len(row))
    np.minimum.at(first, row, np.arange(len(row)))
    return int(is_counted.sum()), [
        Difference(
            _row_key(day, {name: column[first[one]] for name, column in keys.items()}),
            _figures(figures[0][one]) if is_stored[one] else None,
            _figures(figures[1][one]) if is_counted[one] else None,
        )
        for one in np.flatnonzero(differs)
    ]


def _sums(rows: Rows, of: npt.NDArray[Any], number: int) -> npt.NDArray[np.int64]:
    """(number, figures + 1) sums of the figures by `of`, and in the last column whether any row's cost is known."""
    sums = np.zeros((number, len(Figures._fields) + 1), np.int64)
    for column, name in enumerate(Figures._fields):
        np.add.at(sums[:, column], of, rows[name])
    np.logical_or.at(sums[:, -1], of, rows["knows_cost"])
    return sums


def _row_key(day: dt.date, key: dict[str, Any]) -> RowKey:
    score = float(key["placement_score"])
    place = Placement._make([*(key[name] for name in Placement._fields[:-1]), None if np.isnan(score) else score])
    at = dt.datetime(day.year, day.month, day.day, int(key["hour"]), tzinfo=dt.UTC)
    return RowKey(key["kind"], "day" if key["daily"] else "hour", at, place)


def _figures(sums: npt.NDArray[np.int64]) -> Figures:
    *figures, knows_cost = sums.tolist()
    made = Figures(*figures)
    return made if knows_cost else made._replace(cost_micros=None)


def _counted(connection: Connection, day: dt.date, brand_ids: Sequence[str]) -> tuple[Rows, set[str]]:
    """(what the events of the day add up to, rows that may share a key; the brands that have events)."""
    groups, brands = _groups(connection, day, brand_ids)
    parts = [groups, *_simple(connection, day, brand_ids)]
    rows = {name: np.concatenate([part[name] for part in parts]) for name in groups}
    return rows, brands.union(rows["brand_id"])


def _simple(connection: Connection, day: dt.date, brand_ids: Sequence[str]) -> Iterator[Rows]:
    """Impressions, clicks and aggregates, summed by the database where type, hour and placement are equal."""
    query = select(*_KIND, *_PLACE, *_SUMS).where(_on(day, brand_ids), _E.type.not_in(CONVERSIONS))
    for types, periods, hours, *columns in fetch_columns(connection, query.group_by(*_KIND, *_PLACE)):
        place, (number, impressions, clicks, conversions, cost, revenue) = columns[:6], columns[6:]
        type_ = np.array(types, object)
        is_aggregate = type_ == AGGREGATE
        daily = is_aggregate & (np.array(periods, object) == "day")

        def of_aggregates(given: Sequence[Any], is_aggregate: npt.NDArray[np.bool_] = is_aggregate) -> Any:
            return np.where(is_aggregate, _whole(given), 0)

        yield {
            "kind": np.where(is_aggregate, "aggregate", "event").astype(object),
            "daily": daily,
            "hour": np.where(daily, 0, _whole(hours)),
            **{name: np.array(ids, object) for name, ids in zip(Placement._fields[:-1], place[:-1], strict=True)},
            Placement._fields[-1]: np.array(place[-1], np.float64),
            "impressions": of_aggregates(impressions) + np.where(type_ == IMPRESSION, _whole(number), 0),
            "clicks": of_aggregates(clicks) + np.where(type_ == CLICK, _whole(number), 0),
            "conversions": of_aggregates(conversions),
            "cost_micros": _whole(cost),
            "revenue_micros": of_aggregates(revenue),
            "pending_revenue_micros": np.zeros(len(types), np.int64),
            "knows_cost": ~is_aggregate | np.array([one is not None for one in cost], np.bool_),
        }


def _groups(connection: Connection, day: dt.date, brand_ids: Sequence[str]) -> tuple[Rows, set[str]]:
    """(conversions that count on the day, from their events of all days; the brands that have such events)."""
    named = select(*GROUP).where(_on(day, brand_ids), IS_CONVERSION).distinct().subquery()
    same = and_(*(column == named.c[column.name] for column in GROUP))
    query = select(*FACT).join(named, same).where(IS_CONVERSION).order_by(*GROUP)
    brands: set[str] = set()
    keys: list[RowKey] = []
    figures: list[Figures] = []
    for group, events in groupby(connection.execute(query), key=lambda row: row[:3]):
        brands.add(group[0])
        effect = effect_of_group([fact_of_row(row, None) for row in events])
        if effect.row is not None and effect.row.hour.date() == day:
            keys.append(effect.row)
            figures.append(effect.figures)
    rows = {
        "kind": np.array([key.kind for key in keys], object),
        "daily": np.array([key.period == "day" for key in keys], np.bool_),
        "hour": np.array([key.hour.hour for key in keys], np.int64),
        "knows_cost": np.ones(len(keys), np.bool_),
    }
    for name in Placement._fields:
        kind: Any = np.float64 if name == "placement_score" else object
        rows[name] = np.array([getattr(key.place, name) for key in keys], kind)
    for name in Figures._fields:
        rows[name] = _whole([getattr(one, name) for one in figures])
    return rows, brands


def _whole(numbers: Sequence[int | None]) -> npt.NDArray[np.int64]:
    return np.array([one or 0 for one in numbers], np.int64)


def _where(rows: Rows, these: npt.NDArray[np.bool_]) -> Rows:
    return {name: column[these] for name, column in rows.items()}


def _is_in(column: npt.NDArray[Any], words: Collection[str]) -> npt.NDArray[np.bool_]:
    codes, known = pd.factorize(column)
    return np.array([word in words for word in known], np.bool_)[codes]


def _on(day: dt.date, brand_ids: Sequence[str]) -> ColumnElement[bool]:
    start = dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
    return and_(_E.brand_id.in_(brand_ids), _E.occurred_at >= start, _E.occurred_at < start + ONE_DAY)
