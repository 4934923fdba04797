"""Rows of `reservations`: the holds of wins, and what the wins' records add to them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from db import tables as t
from db.rows import by_column, chunks, insert_columns, one_of
from ledger.domain.reservation import Reservation
from ledger.transaction.lease_granting import NOBODY, Recorded
from ledger.transaction.working_set import LeaseKey, WorkingSet

_R = t.reservations.c
_RESERVATION = (
    _R.reservation_id, _R.brand_id, _R.portfolio_id, _R.partner_id, _R.pricing_model, _R.day, _R.amount_micros,
    _R.held_micros, _R.settled_micros, _R.status, _R.created_at, _R.expires_at, _R.due_at, _R.ended_at,
    _R.session_id, _R.award_id, _R.instead_id, _R.price_micros, _R.revenue_share, _R.revenue_micros, _R.lack_micros,
    _R.portfolio_lack_micros, _R.confirmed,
)  # fmt: skip
_COLUMNS = tuple(Reservation.__dataclass_fields__)
_VALUES_OF, _ID_OF = attrgetter(*_COLUMNS), attrgetter("reservation_id")
_CHANGING = (
    "held_micros", "settled_micros", "status", "due_at", "ended_at", "award_id", "price_micros", "revenue_share",
    "revenue_micros", "lack_micros", "portfolio_lack_micros", "confirmed",
)  # fmt: skip
_UPDATE_RESERVATION = (
    update(t.reservations)
    .where(_R.reservation_id == bindparam("k_reservation_id"))
    .values({name: bindparam(name) for name in _CHANGING})
)
_COMPLETE_RESERVATION = (
    update(t.reservations)
    .where(_R.reservation_id == bindparam("k_reservation_id"))
    .values(
        {
            name: bindparam(name)
            for name in (
                "award_id", "sub", "request_id", "request_hash", "bid_id", "slot_id", "device_type", "creative_type",
                "placement_score",
            )
        }
    )
)  # fmt: skip


class ReservationStore:
    """Rows of `reservations`."""

    def load(self, connection: Connection, ids: Iterable[str]) -> dict[str, Reservation]:
        found: dict[str, Reservation] = {}
        row: Any
        for chunk in chunks(sorted(set(ids))):
            for row in connection.execute(select(*_RESERVATION).where(_R.reservation_id.in_(chunk))):
                found[row[0]] = Reservation(*row)
        return found

    def due(self, connection: Connection, now: dt.datetime, limit: int) -> list[Reservation]:
        query = select(*_RESERVATION).where(_R.due_at <= now).order_by(_R.due_at, _R.reservation_id).limit(limit)
        rows: Iterable[Any] = connection.execute(query)
        return [Reservation(*row) for row in rows]

    def recorded(
        self, connection: Connection, requests: Iterable[tuple[str, str]]
    ) -> dict[tuple[str, str], list[Recorded]]:
        """The wins of requests that were recorded before, by (sub, request_id)."""
        found: dict[tuple[str, str], list[Recorded]] = {}
        query = select(_R.sub, _R.request_id, _R.award_id, _R.reservation_id, _R.brand_id, _R.status)
        for chunk in chunks(sorted(set(requests))):
            for row in connection.execute(query.where(one_of((_R.sub, _R.request_id), chunk))):
                found.setdefault((row[0], row[1]), []).append(Recorded(*row[2:]))
        return found

    def adopted(self, connection: Connection, sessions: Collection[int]) -> dict[LeaseKey, int]:
        """By lease, the micros of holds made from events for these sessions' wins that no beat has recorded yet."""
        found: dict[LeaseKey, int] = {}
        for chunk in chunks(sorted(sessions)):
            query = select(_R.session_id, _R.brand_id, _R.day, func.sum(_R.amount_micros))
            query = query.where(_R.sub == NOBODY, _R.session_id.in_(chunk))
            for row in connection.execute(query.group_by(_R.session_id, _R.brand_id, _R.day)):
                found[LeaseKey(*row[:3])] = int(row[3])
        return found

    def complete(self, connection: Connection, completed: Mapping[str, Mapping[str, Any]]) -> None:
        """Add a win's record to a hold that an event has made before."""
        if completed:
            rows = [{"k_reservation_id": id_, **columns} for id_, columns in sorted(completed.items())]
            connection.execute(_COMPLETE_RESERVATION, rows)

    def write(self, connection: Connection, working_set: WorkingSet, recorded: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the reservations that are new or have changed.

        Args:
            recorded: for each new one, the columns that only its win's record knows.
        """
        if working_set.new_reservations:
            columns = _columns(list(working_set.new_reservations.values()), recorded)
            insert_columns(connection, t.reservations, columns)
        for batch in working_set.batches:
            insert_columns(connection, t.reservations, batch.reservations())
        if working_set.changed_reservations:
            rows = [
                {"k_reservation_id": id_, **{name: getattr(reservation, name) for name in _CHANGING}}
                for id_, reservation in sorted(working_set.changed_reservations.items())
            ]
            connection.execute(_UPDATE_RESERVATION, rows)


def _columns(new: list[Reservation], recorded: Mapping[str, Mapping[str, Any]]) -> dict[str, Sequence[Any]]:
    """New reservations as columns, in the order of their ids, so that new rows are next to each other on disk."""
    new.sort(key=_ID_OF)
    recorded_rows = [recorded[one.reservation_id] for one in new]
    columns: dict[str, Sequence[Any]] = dict(zip(_COLUMNS, zip(*map(_VALUES_OF, new), strict=True), strict=True))
    return columns | by_column(recorded_rows)
