"""Rows of `leases`: what a session has been lent of a brand's budget of a day."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, insert, select, update

from db import tables as t
from db.rows import chunks, one_of, replace_rows
from ledger.transaction.working_set import LeaseKey, Lent, WorkingSet

_L = t.leases.c
_LENT = (_L.leased_micros, _L.lasting, _L.slack_micros, _L.portfolio_slack_micros)
_DELETE_LEASE = delete(t.leases).where(
    _L.session_id == bindparam("k_session_id"), _L.brand_id == bindparam("k_brand_id"), _L.day == bindparam("k_day")
)


class LeaseStore:
    """Rows of `leases`."""

    def load(self, connection: Connection, keys: Iterable[LeaseKey]) -> dict[LeaseKey, Lent]:
        found: dict[LeaseKey, Lent] = {}
        for chunk in chunks(sorted(set(keys))):
            found |= self._where(connection, one_of((_L.session_id, _L.brand_id, _L.day), chunk, inner=1))
        return found

    def of_session(self, connection: Connection, session_id: int) -> dict[LeaseKey, Lent]:
        return self._where(connection, _L.session_id == session_id)

    def lenders(self, connection: Connection, short: Iterable[tuple[str, str | None, dt.date]]) -> dict[LeaseKey, Lent]:
        """Leases of open sessions from the budgets of these (brand id, portfolio id, day)."""
        found: dict[LeaseKey, Lent] = {}
        for brand_id, portfolio_id, day in sorted(short, key=repr):
            owned = _L.brand_id == brand_id if portfolio_id is None else _L.portfolio_id == portfolio_id
            found |= self._where(connection, and_(owned, _L.day == day, _L.quarantined_until.is_(None)))
        return found

    def _where(
        self, connection: Connection, condition: ColumnElement[bool], limit: int | None = None
    ) -> dict[LeaseKey, Lent]:
        query = select(_L.session_id, _L.brand_id, _L.day, _L.portfolio_id, *_LENT).limit(limit)
        return {LeaseKey(*row[:3]): Lent(*row[3:]) for row in connection.execute(query.where(condition))}

    def quarantine(
        self, connection: Connection, session_id: int, until: dt.datetime, lasting_until: dt.datetime
    ) -> None:
        """Keep this session's leases debited until these times.

        Args:
            until: for leases of cpm and cpc wins.
            lasting_until: for leases that are good for cpa and revshare, too.
        """
        for lasting, end in ((False, until), (True, lasting_until)):
            connection.execute(
                update(t.leases)
                .where(_L.session_id == session_id, _L.lasting.is_(lasting))
                .values(quarantined_until=end)
            )

    def out_of_quarantine(self, connection: Connection, now: dt.datetime, limit: int) -> dict[LeaseKey, Lent]:
        return self._where(connection, _L.quarantined_until <= now, limit)

    def write(self, connection: Connection, working_set: WorkingSet) -> None:
        """Write the leases that have changed; delete those of which nothing is lent any more."""
        new, old, gone = [], [], []
        for key, lent in sorted(working_set.changed_leases.items()):
            if lent.is_empty:
                if key in working_set.existing_leases:
                    gone.append({"k_session_id": key.session_id, "k_brand_id": key.brand_id, "k_day": key.day})
            elif key in working_set.existing_leases:
                changed = lent._asdict()
                del changed["portfolio_id"]
                old.append({**key._asdict(), **changed})
            else:
                new.append({**key._asdict(), **lent._asdict(), "quarantined_until": None})
        if new:
            connection.execute(insert(t.leases), new)
        replace_rows(connection, t.leases, old)
        if gone:
            connection.execute(_DELETE_LEASE, gone)
