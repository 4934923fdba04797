"""One shard's ledger without Ray: its parts, and the calls of replicas and background tasks.

No balance is kept in memory between two transactions. Each call reads rows, applies the pure rules and writes rows, all
in one transaction that also checks the epoch.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Collection, Sequence
from typing import Self, TypeVar

from sqlalchemy import Connection

from db.session import Database
from ledger.domain.messages import Beat, Event, Release, Reply, Result
from ledger.domain.reservation import Lifetimes
from ledger.domain.settings import LedgerSettings
from ledger.service.administration import Administration
from ledger.service.beats import Beats
from ledger.service.budgets import Budgets
from ledger.service.directory import Clock, Directory
from ledger.service.event_recording import EventRecording
from ledger.service.holds import Holds
from ledger.service.live_terms import LiveTerms
from ledger.service.performance import Performance
from ledger.service.sessions import Sessions
from ledger.service.sweep import InTurn, Sweep, at_once
from ledger.service.transactions import Transactions
from ledger.storage.store import Store

T = TypeVar("T")


def utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def new_secret() -> bytes:
    return os.urandom(32)


class Ledger:
    """One shard's budgets. Make it with `open`; of several, only the one that was opened last can write.

    Its methods may be called concurrently: writes wait for each other.

    Attributes:
        directory: brands, portfolios and λ fits.
        administration: creates, changes and shows brands and portfolios.
        terms: λ, share, budget day and limits of every brand, as replicas get them.
        budgets: every owner's budget of a day.
        holds: the holds of wins.
        performance: the results that events reported.
    """

    def __init__(self, store: Store, settings: LedgerSettings, clock: Clock, secrets: Callable[[], bytes]) -> None:
        self.settings = settings
        self._store, self._clock = store, clock
        lifetimes = Lifetimes(settings.reservation_ttl_s, settings.conversion_days)
        transactions = self._transactions = Transactions(store.epochs)
        directory = Directory(store.directory, transactions, store.epochs.shard, settings.shards, clock)
        terms, budgets = LiveTerms(directory, store.epochs, clock), Budgets(store, directory, clock)
        performance, holds = Performance(store, directory, budgets, clock), Holds(store, directory, budgets, clock)
        sessions = self._sessions = Sessions(store, directory, budgets, lifetimes, settings.lease_s, clock)
        self.directory, self.terms, self.budgets = directory, terms, budgets
        self.performance, self.holds = performance, holds
        self.administration = Administration(store, directory, budgets, terms, transactions, clock)
        self._beats = Beats(
            store, directory, budgets, sessions, terms, transactions, lifetimes, settings.lease_s, clock, secrets
        )
        self._events = EventRecording(store, directory, budgets, performance, transactions, lifetimes, clock)
        self._sweep = Sweep(store, directory, terms, sessions, holds, transactions, clock)

    @classmethod
    async def open(
        cls,
        database: Database,
        settings: LedgerSettings | None = None,
        *,
        clock: Clock = utc_now,
        secrets: Callable[[], bytes] = new_secret,
        shard: int = 0,
        decided_at: float = 0.0,
    ) -> Self:
        """Take the next epoch and read what other processes have written.

        Args:
            decided_at: when the number of shards was decided, in seconds since 1970.

        Raises:
            LayoutReplaced: another number of shards was decided later.
            LedgerUnavailable: the database does not answer.
        """
        settings = settings or LedgerSettings()
        store = Store(database, shard, settings.shards, decided_at)
        ledger = cls(store, settings, clock, secrets)
        await store.epochs.take(clock())
        await ledger.refresh()
        return ledger

    @property
    def shard(self) -> int:
        return self._store.epochs.shard

    @property
    def epoch(self) -> int:
        return self._store.epochs.epoch

    @property
    def moves(self) -> int:
        """Transactions that may have moved money."""
        return self._transactions.moves

    def now(self) -> dt.datetime:
        return self._clock()

    # The replicas' calls

    async def beat(self, beats: Sequence[Beat]) -> list[Reply]:
        """Record wins, take leases back and grant them, for several replicas in one transaction, in order.

        Raises:
            Fenced, LedgerUnavailable: the outcome is unknown; the replica's next beat states everything again.
        """
        return await self._beats.answer(beats)

    async def record(self, events: Sequence[Event]) -> list[Result]:
        """Record a batch of events in one transaction. A bad event gets a result that says so; it raises nothing.

        Raises:
            Fenced, LedgerUnavailable: repeat the batch; events that were recorded are answered as duplicates.
        """
        return await self._events.record(events)

    async def release(self, reservation_ids: Collection[str]) -> int:
        """Give back holds that nobody will use. Returns how many went back; one that has ended stays as it is."""
        return await self._transactions.move(lambda connection: self.holds.release(connection, reservation_ids))

    async def give_back(self, release: Release) -> dict[str, str]:
        """Release what a caller will not show. Returns what became of each: released | ended | shown | not_found."""
        return await self._transactions.move(lambda connection: self.holds.give_back(connection, release))

    async def end_sessions(self, since: dt.datetime) -> int:
        """Take back the leases of all sessions that beat after `since`. Returns how many other sessions hold leases.

        Args:
            since: no replica has drawn on a lease since then.
        """
        return await self._transactions.move(lambda connection: self._sessions.end_all(connection, since))

    # Background tasks

    async def sweep(self, in_turn: InTurn = at_once) -> int:
        """End expired holds and quarantines, shrink holds, end silent sessions, start scheduled changes.

        Args:
            in_turn: runs one transaction, so that other writes can run between two of the sweep's.

        Returns:
            How many holds it looked at.
        """
        return await self._sweep.run(in_turn)

    async def refresh(self) -> bool:
        """Read what imports, nightly fits and other processes wrote; cheap if nothing. Returns whether it changed."""
        return await self.terms.refresh()

    async def check_epoch(self) -> None:
        """Check that this ledger may still write, even while it has nothing to write.

        Raises:
            Fenced: another ledger has taken a newer epoch.
            LedgerUnavailable: the database does not answer.
        """
        await self._store.epochs.read_as_writer(lambda _connection: None)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a read transaction, beside the ledger's own transactions.

        Raises:
            LedgerUnavailable: the database does not answer.
        """
        return await self._store.epochs.read(work)
