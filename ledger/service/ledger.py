"""One shard's ledger without Ray: its parts, and the calls that replicas and loops make of it.

The database is the truth: no balance is remembered between two transactions. Each call reads rows, lets the pure rules
decide and writes rows, all in one fenced transaction.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Collection, Sequence
from typing import Self, TypeVar

from sqlalchemy import Connection

from db.session import Database
from ledger.domain.messages import Beat, Event, Reply, Result
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
    """One shard's budgets. Make it with `open`; the newest one to be opened is the only one that can write.

    Its methods may be called concurrently: writes wait for each other.

    Attributes:
        directory: who there is: brands, portfolios, λ fits.
        administration: puts and shows brands and portfolios.
        terms: what replicas are told of every brand.
        budgets: each owner's, of a day.
        holds: what wins hold.
        performance: what events have brought.
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
            LedgerUnavailable: the database is away.
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
        """Record wins, take back and lend, for several replicas in one transaction, in order.

        Raises:
            Fenced, LedgerUnavailable: whether it happened is not known; the replica's next beat states everything anew.
        """
        return await self._beats.answer(beats)

    async def record(self, events: Sequence[Event]) -> list[Result]:
        """Take in a batch of results, all in one transaction. A bad item is answered, never raised.

        Raises:
            Fenced, LedgerUnavailable: repeat the batch; what was recorded counts as duplicate.
        """
        return await self._events.record(events)

    async def release(self, reservation_ids: Collection[str]) -> int:
        """Give back holds that nobody will use. Returns how many went back; one that has ended stays as it is."""
        return await self._transactions.move(lambda connection: self.holds.release(connection, reservation_ids))

    async def end_sessions(self, since: dt.datetime) -> int:
        """The end of all replicas: leases of those that were heard after `since` go back. Returns how many are left.

        Args:
            since: nothing has been drawn any more from then on.
        """
        return await self._transactions.move(lambda connection: self._sessions.end_all(connection, since))

    # Time, and other processes

    async def sweep(self, in_turn: InTurn = at_once) -> int:
        """End what has expired, shrink what is due, start what was scheduled. Returns how many rows it looked at.

        Args:
            in_turn: runs one transaction; others may have theirs between two of the sweep's.
        """
        return await self._sweep.run(in_turn)

    async def refresh(self) -> bool:
        """Pick up what imports, nightly fits and other processes wrote. Cheap when they did not; True: it changed."""
        return await self.terms.refresh()

    async def check_epoch(self) -> None:
        """A look whether this ledger may still write, for one that has nothing to write.

        Raises:
            Fenced: another one has taken a newer epoch.
            LedgerUnavailable: the database is away.
        """
        await self._store.epochs.read_as_writer(lambda _connection: None)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """A look at the database outside the ledger's own transactions.

        Raises:
            LedgerUnavailable: the database is away.
        """
        return await self._store.epochs.read(work)
