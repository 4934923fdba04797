"""The SQL of events and of the performance rows that they are summed into, inside the transactions of `Epochs`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Date,
    Double,
    and_,
    bindparam,
    case,
    column,
    delete,
    extract,
    func,
    insert,
    literal_column,
    or_,
    select,
    table,
    update,
)

from db import tables as t
from db.performance import PRECEDENCE, key_hash
from db.rows import chunks, one_of
from ledger.bidding.revenue_completion import DaySums
from ledger.domain.budget import MONEY_MOST
from ledger.domain.settlement import APPROVED, CLICK, CONVERSION, CONVERSIONS, REJECTED, UPDATE, Fact, Figures, RowKey
from ledger.transaction.event_reading import EventKey

_E = t.events.c
GROUP = (_E.brand_id, _E.partner_id, _E.conversion_id)
"""The columns that the events of one conversion share."""

FACT = (
    *GROUP, _E.event_id, _E.type, _E.occurred_at, _E.slot_id, _E.device_type, _E.creative_type, _E.placement_score,
    _E.day, _E.portfolio_id, _E.reservation_id, _E.click_id, _E.status, _E.cost_micros, _E.revenue_micros,
)  # fmt: skip
"""The columns that `settlement.fact_of_row` reads."""

IS_CONVERSION = _E.type.in_(CONVERSIONS)
_P = t.performance_hourly.c
_FIGURES = (
    _P.key_hash, _P.impressions, _P.clicks, _P.conversions, _P.cost_micros, _P.revenue_micros,
    _P.pending_revenue_micros,
)  # fmt: skip

PERFORMANCE = table(
    "performance",
    column("brand_id", t.ID),
    column("day", Date),
    column("hour", t.UtcDateTime),
    *(column(name, BigInteger) for name in Figures._fields),
)
"""The view of `performance_hourly` that has, for each day and placement, only the kind of rows that counts."""

_UPDATE_FIGURES = (
    update(t.performance_hourly)
    .where(_P.key_hash == bindparam("k_key_hash"))
    .values({name: bindparam(name) for name in Figures._fields})
)
_COMPLETE_EVENT = (
    update(t.events)
    .where(
        _E.brand_id == bindparam("k_brand_id"),
        _E.partner_id == bindparam("k_partner_id"),
        _E.event_id == bindparam("k_event_id"),
    )
    .values(
        {
            name: bindparam(name)
            for name in (
                "day", "portfolio_id", "reservation_id", "slot_id", "device_type", "creative_type", "placement_score"
            )
        }
    )
)  # fmt: skip


def total(micros: ColumnElement[int | None]) -> ColumnElement[float]:
    """A sum as a double, exact up to 2^53. SQLite's sum of integers would fail where it overflows."""
    return func.coalesce(func.sum(micros + literal_column("0e0", Double)), 0.0)


_COSTED = PERFORMANCE.c.cost_micros.is_not(None)
DAY_SUMS = (
    total(PERFORMANCE.c.impressions),
    total(PERFORMANCE.c.clicks),
    total(PERFORMANCE.c.conversions),
    total(PERFORMANCE.c.cost_micros),
    total(case((_COSTED, PERFORMANCE.c.revenue_micros), else_=0)),
    total(case((_COSTED, PERFORMANCE.c.pending_revenue_micros), else_=0)),
)
"""The fields of `DaySums`, in order: revenue only where its cost is known."""


class NewConversions(NamedTuple):
    newest: int  # number of the newest event
    decided: list[tuple[str, str, int]]  # brand, approved | rejected, how many
    delays: list[tuple[str, dt.datetime, dt.datetime]]  # brand, when converted, when clicked


class EventStore:
    """Rows of `events` and `performance_hourly`."""

    def event_hashes(self, connection: Connection, keys: Iterable[EventKey]) -> dict[EventKey, str]:
        found: dict[EventKey, str] = {}
        query = select(_E.brand_id, _E.partner_id, _E.event_id, _E.content_hash)
        for chunk in chunks(sorted(set(keys))):
            for row in connection.execute(query.where(one_of((_E.brand_id, _E.partner_id, _E.event_id), chunk))):
                found[(row[0], row[1], row[2])] = row[3]
        return found

    def clicks(self, connection: Connection, keys: Iterable[tuple[str, str]]) -> list[Any]:
        """Click events by (brand_id, click_id)."""
        return self._facts(connection, (_E.brand_id, _E.click_id), keys, _E.type == CLICK)

    def conversions(self, connection: Connection, keys: Iterable[tuple[str, str]]) -> list[Any]:
        """Conversions and their updates by (brand_id, conversion_id)."""
        return self._facts(connection, (_E.brand_id, _E.conversion_id), keys, IS_CONVERSION)

    def waiting(self, connection: Connection, clicks: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Conversions that came before their click: (brand_id, conversion_id) by (brand_id, click_id)."""
        lacks = or_(_E.reservation_id.is_(None), _E.slot_id.is_(None))
        query = select(_E.brand_id, _E.conversion_id).where(IS_CONVERSION, lacks)
        found: list[tuple[str, str]] = []
        for chunk in chunks(sorted(set(clicks))):
            rows = connection.execute(query.where(one_of((_E.brand_id, _E.click_id), chunk)))
            found += [(row[0], row[1]) for row in rows]
        return found

    def _facts(
        self, connection: Connection, columns: Sequence[Any], keys: Iterable[tuple[str, str]], condition: Any
    ) -> list[Any]:
        """Rows for `settlement.fact_of_row`."""
        rows: list[Any] = []
        for chunk in chunks(sorted(set(keys))):
            rows += (connection.execute(select(*FACT).where(one_of(columns, chunk), condition))).all()
        return rows

    def conversions_after(self, connection: Connection, seq: int | None, most: int) -> NewConversions:
        """Decisions and delays of conversions, from events after `seq`.

        Args:
            seq: number of an event; None: take the newest `most` events.
        """
        newest = int(connection.execute(select(func.max(_E.seq))).scalar_one() or 0)
        after = seq if seq is not None else newest - most
        if newest <= after:
            return NewConversions(newest, [], [])
        recent = and_(_E.seq > after, _E.seq <= newest)
        decided = (
            select(_E.brand_id, _E.status, func.count())
            .where(recent, or_(_E.type == CONVERSION, _E.type == UPDATE), _E.status.in_((APPROVED, REJECTED)))
            .group_by(_E.brand_id, _E.status)
        )
        click = t.events.alias("click")
        delays = (
            select(_E.brand_id, _E.occurred_at, click.c.occurred_at)
            .join(click, and_(click.c.brand_id == _E.brand_id, click.c.click_id == _E.click_id))
            .where(recent, _E.type == CONVERSION, click.c.type == CLICK, click.c.partner_id == _E.partner_id)
        )
        return NewConversions(
            newest,
            [(row[0], row[1], int(row[2])) for row in connection.execute(decided)],
            [(row[0], row[1], row[2]) for row in connection.execute(delays)],
        )

    def insert_events(self, connection: Connection, rows: list[dict[str, Any]]) -> None:
        if rows:
            connection.execute(insert(t.events), rows)

    def complete_events(self, connection: Connection, completed: Mapping[EventKey, Fact]) -> None:
        """Fill in what recorded conversions inherit from a click that came after them."""
        rows = []
        for key in sorted(completed):
            fact = completed[key]
            names = ("slot_id", "device_type", "creative_type", "placement_score")
            place = {name: getattr(fact.place, name, None) for name in names}
            inherited = {"day": fact.day, "portfolio_id": fact.portfolio_id, "reservation_id": fact.reservation_id}
            rows.append(
                {**place, **inherited, **dict(zip(("k_brand_id", "k_partner_id", "k_event_id"), key, strict=True))}
            )
        if rows:
            connection.execute(_COMPLETE_EVENT, rows)

    def figures(self, connection: Connection, keys: Iterable[RowKey]) -> dict[RowKey, Figures]:
        by_hash = {hash_of(key): key for key in keys}
        found: dict[RowKey, Figures] = {}
        for chunk in chunks(sorted(by_hash)):
            for row in connection.execute(select(*_FIGURES).where(_P.key_hash.in_(chunk))):
                found[by_hash[row[0]]] = Figures(*row[1:])
        return found

    def results(self, connection: Connection, brand_id: str, start: dt.datetime, end: dt.datetime) -> tuple[int, int]:
        """(cost, approved revenue) in micros of the hours in [start, end), each cut off at ±`MONEY_MOST`."""
        p = PERFORMANCE.c
        query = select(total(p.cost_micros), total(p.revenue_micros)).where(
            p.brand_id == brand_id, p.day.between(start.date(), end.date()), p.hour >= start, p.hour < end
        )
        cost, revenue = (max(-MONEY_MOST, min(int(value), MONEY_MOST)) for value in connection.execute(query).one())
        return cost, revenue

    def sums_since(self, connection: Connection, brand_ids: Sequence[str], start: dt.datetime) -> dict[str, DaySums]:
        """By brand id, the sums of the hours from `start` on."""
        p = PERFORMANCE.c
        query = select(p.brand_id, *DAY_SUMS).where(p.day >= start.date(), p.hour >= start).group_by(p.brand_id)
        found: dict[str, DaySums] = {}
        for chunk in chunks(brand_ids):
            for row in connection.execute(query.where(p.brand_id.in_(chunk))):
                found[row[0]] = DaySums(*map(int, row[1:]))
        return found

    def sums_of(
        self, connection: Connection, brand_days: Iterable[tuple[str, dt.date]]
    ) -> dict[tuple[str, dt.date], DaySums]:
        """Sums by (brand id, UTC day)."""
        by_day: dict[dt.date, list[str]] = {}
        for brand_id, day in sorted(brand_days):
            by_day.setdefault(day, []).append(brand_id)
        p = PERFORMANCE.c
        found: dict[tuple[str, dt.date], DaySums] = {}
        for day, ids in by_day.items():
            for chunk in chunks(ids):
                found |= self._sums(connection, and_(p.day == day, p.brand_id.in_(chunk)))
        return found

    def sums_from(self, connection: Connection, first: dt.date) -> dict[tuple[str, dt.date], DaySums]:
        """Sums of all brands' UTC days from this one on, by (brand id, day)."""
        return self._sums(connection, PERFORMANCE.c.day >= first)

    def _sums(self, connection: Connection, condition: ColumnElement[bool]) -> dict[tuple[str, dt.date], DaySums]:
        p = PERFORMANCE.c
        query = select(p.brand_id, p.day, *DAY_SUMS).where(condition).group_by(p.brand_id, p.day)
        return {(row[0], row[1]): DaySums(*map(int, row[2:])) for row in connection.execute(query)}

    def impressions_by_hour(self, connection: Connection, since: dt.date) -> list[tuple[str, int, float]]:
        """(brand id, hour of the day in UTC, impressions); daily rows are left out."""
        hour = extract("hour", _P.hour)
        query = (
            select(_P.brand_id, hour, total(_P.impressions))
            .where(_P.period == "hour", _P.day >= since)
            .group_by(_P.brand_id, hour)
        )
        return [(row[0], int(row[1]), float(row[2])) for row in connection.execute(query)]

    def put_figures(
        self, connection: Connection, existing: Collection[RowKey], changed: Mapping[RowKey, Figures]
    ) -> None:
        """Write these rows' new values. Event rows whose values are all 0 are deleted."""
        new, old, gone = [], [], []
        for key_hash_, key in sorted((hash_of(key), key) for key in changed):
            figures = changed[key]
            if key.kind == "event" and not any(figures):
                if key in existing:
                    gone.append(key_hash_)
            elif key in existing:
                old.append({**figures._asdict(), "k_key_hash": key_hash_})
            else:
                new.append(
                    {
                        **figures._asdict(),
                        **key.place._asdict(),
                        "key_hash": key_hash_,
                        "kind": key.kind,
                        "precedence": PRECEDENCE[key.kind],
                        "source": "",
                        "period": key.period,
                        "hour": key.hour,
                        "day": key.hour.date(),
                    }
                )
        if new:
            connection.execute(insert(t.performance_hourly), new)
        if old:
            connection.execute(_UPDATE_FIGURES, old)
        for chunk in chunks(gone):
            connection.execute(delete(t.performance_hourly).where(_P.key_hash.in_(chunk)))


def hash_of(key: RowKey) -> str:
    return key_hash(key.kind, "", key.period, key.hour, *key.place)
