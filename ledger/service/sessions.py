"""The replicas' sessions: ends silent ones, quarantines their leases, and takes those back when it is safe."""

from __future__ import annotations

import datetime as dt
import logging

from sqlalchemy import Connection

from ledger.domain.reservation import Lifetimes
from ledger.service.budgets import Budgets
from ledger.service.directory import Clock, Directory
from ledger.storage.session_store import CLOSED, LAPSED, LedgerSession
from ledger.storage.store import Store

logger = logging.getLogger("paceline.ledger")
LAPSE_GRACE_S = 2.0
"""A silent session lapses this long after its leases have ended by the ledger's clock; the replica's may be slower."""


class Sessions:
    """
    Args:
        lease_s: how long a replica may draw on its leases without an answer.
    """

    def __init__(
        self,
        store: Store,
        directory: Directory,
        budgets: Budgets,
        lifetimes: Lifetimes,
        lease_s: float,
        clock: Clock,
    ) -> None:
        self._store, self._directory, self._budgets, self._clock = store, directory, budgets, clock
        self._lifetimes, self._lease_s = lifetimes, lease_s
        self._opened_at = clock()
        self._recalled: dict[int, set[str]] = {}

    # Recalls

    def recall(self, session_id: int, brand_id: str) -> None:
        """Let the reply to the session's next beat ask for what it does not use of the brand's budget."""
        self._recalled.setdefault(session_id, set()).add(brand_id)

    def take_recalled(self, session_id: int) -> tuple[str, ...]:
        """Brand ids to recall from the session; each is returned once."""
        return tuple(sorted(self._recalled.pop(session_id, ())))

    # In a transaction

    def silent(self, connection: Connection, now: dt.datetime) -> list[LedgerSession]:
        """Open sessions without a beat for too long. After the ledger's start the time counts from then."""
        silent_since = now - dt.timedelta(seconds=self._lease_s + LAPSE_GRACE_S)
        if self._opened_at > silent_since:
            return []
        sessions = self._store.sessions.all_open(connection)
        return [session for session in sessions if session.renewed_at <= silent_since]

    def lapse(self, connection: Connection) -> None:
        """Lapse the silent sessions and quarantine their leases; close lapsed ones that hold nothing any more."""
        now = self._clock()
        for session in self.silent(connection, now):
            line = "shard %d: no beat of session %d for %g s, its leases are quarantined until its wins have expired"
            logger.warning(line, self._directory.shard, session.session_id, self._lease_s + LAPSE_GRACE_S)
            self._store.sessions.put(connection, [session._replace(status=LAPSED)])
            self.quarantine(connection, session.session_id, now)
            self._recalled.pop(session.session_id, None)
        self._store.sessions.close_emptied(connection)

    def quarantine(self, connection: Connection, session_id: int, now: dt.datetime) -> None:
        """Keep the session's leases debited until the last win that it may have made has expired."""
        # It may have drawn its last win until its lease ended, counted from a reply that it had just received.
        drawing = dt.timedelta(seconds=self._lease_s)
        ttl = dt.timedelta(seconds=self._lifetimes.reservation_ttl_s) + drawing
        lasting = max(ttl, dt.timedelta(days=self._lifetimes.conversion_days) + drawing)
        self._store.leases.quarantine(connection, session_id, now + ttl, now + lasting)

    def end_quarantines(self, connection: Connection, most: int) -> int:
        """Take back leases whose quarantine is over, at most so many. Returns how many it took back."""
        now = self._clock()
        leases = self._store.leases.out_of_quarantine(connection, now, most)
        if leases:
            if self._directory.shards > 1:
                self._directory.read_as_of(connection, {key.brand_id for key in leases}, now)
                leases = self._store.leases.load(connection, leases)
            self._budgets.take_back(connection, now, leases)
            self._store.sessions.close_emptied(connection)
        return len(leases)

    def end_all(self, connection: Connection, since: dt.datetime) -> int:
        """Close sessions that beat after `since` and take their leases back. Returns how many others hold leases."""
        now = self._clock()
        sessions = self._store.sessions.all_open(connection)
        heard = [session for session in sessions if session.renewed_at > since]
        leases = {
            key: lent
            for one in heard
            for key, lent in self._store.leases.of_session(connection, one.session_id).items()
        }
        self._directory.read_as_of(connection, {key.brand_id for key in leases}, now)
        self._budgets.take_back(connection, now, leases)
        self._store.sessions.put(connection, [session._replace(status=CLOSED) for session in heard])
        return sum(
            bool(self._store.leases.of_session(connection, one.session_id)) for one in sessions if one not in heard
        )
