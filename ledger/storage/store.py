"""The ledger's SQL: one part for each kind of rows, used inside the transactions of `Epochs`.

Statements work on SQLite and MySQL alike. What a transaction under the epoch's lock has read cannot change before it
commits, so an upsert is a SELECT and then an INSERT or an UPDATE. Keys are sorted, so that two writers lock rows in the
same order and do not deadlock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from db.session import Database
from ledger.storage.budget_store import BudgetStore, JournalStore
from ledger.storage.directory_store import DirectoryStore
from ledger.storage.epochs import Epochs
from ledger.storage.event_store import EventStore
from ledger.storage.lease_store import LeaseStore
from ledger.storage.reservation_store import ReservationStore
from ledger.storage.session_store import SessionStore
from ledger.storage.slack_store import SlackStore
from ledger.transaction.working_set import WorkingSet


class Store:
    """The parts of the ledger's SQL for one shard."""

    def __init__(self, database: Database, shard: int = 0, shards: int = 1, decided_at: float = 0.0) -> None:
        self.epochs = Epochs(database, shard, shards, decided_at)
        self.directory = DirectoryStore()
        self.budgets, self._journal = BudgetStore(), JournalStore(self.epochs)
        self.slacks = SlackStore()
        self.reservations = ReservationStore()
        self.sessions, self.leases = SessionStore(self.epochs), LeaseStore()
        self.events = EventStore()

    def write(
        self,
        connection: Connection,
        working_set: WorkingSet,
        recorded: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Write everything that the working set has changed.

        Args:
            recorded: for each new reservation, the columns that only its win's record knows.
        """
        self.budgets.write(connection, working_set)
        self.slacks.write(connection, working_set)
        self.reservations.write(connection, working_set, recorded or {})
        self.leases.write(connection, working_set)
        self._journal.write(connection, working_set)
