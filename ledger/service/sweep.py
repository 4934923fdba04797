"""The sweep: starts scheduled changes, ends silent sessions and quarantines, expires and shrinks holds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol, TypeVar

from sqlalchemy import Connection

from ledger.service.directory import Clock, Directory
from ledger.service.holds import Holds
from ledger.service.live_terms import LiveTerms
from ledger.service.sessions import Sessions
from ledger.service.transactions import Transactions
from ledger.storage.store import Store

T = TypeVar("T")
SWEEP_ROWS = 500
"""Most holds in one transaction, so that beats can run in between when many holds expire."""


class InTurn(Protocol):
    def __call__(self, work: Callable[[], Awaitable[T]], /) -> Awaitable[T]: ...


def at_once(work: Callable[[], Awaitable[T]], /) -> Awaitable[T]:
    return work()


class _Due(NamedTuple):
    """What is due."""

    lapses: bool
    quarantines: bool
    holds: bool


class Sweep:
    """One shard's sweep. The first shard sweeps holds and quarantined leases of all shards."""

    def __init__(
        self,
        store: Store,
        directory: Directory,
        terms: LiveTerms,
        sessions: Sessions,
        holds: Holds,
        transactions: Transactions,
        clock: Clock,
    ) -> None:
        self._store, self._directory, self._terms, self._clock = store, directory, terms, clock
        self._sessions, self._holds, self._transactions = sessions, holds, transactions

    async def run(self, in_turn: InTurn) -> int:
        """Do everything that is due; see `Ledger.sweep`."""
        await in_turn(self._start_scheduled)
        due = await self._store.epochs.read_as_writer(self._due)  # in most seconds nothing is, and no lock is taken
        if due.lapses:
            await in_turn(lambda: self._transactions.move(self._sessions.lapse))
        while due.quarantines:
            ended = await in_turn(
                lambda: self._transactions.move(
                    lambda connection: self._sessions.end_quarantines(connection, SWEEP_ROWS)
                )
            )
            due = due._replace(quarantines=ended == SWEEP_ROWS)
        looked, goes_on = 0, due.holds
        while goes_on:
            number, goes_on = await in_turn(
                lambda: self._transactions.move(lambda connection: self._holds.expire(connection, SWEEP_ROWS))
            )
            looked += number
        return looked

    async def _start_scheduled(self) -> None:
        if await self._directory.start_scheduled():
            self._terms.remake()

    def _due(self, connection: Connection) -> _Due:
        now, is_first = self._clock(), self._directory.shard == 0
        return _Due(
            bool(self._sessions.silent(connection, now)) or self._store.sessions.has_emptied(connection),
            is_first and bool(self._store.leases.out_of_quarantine(connection, now, 1)),
            is_first and bool(self._store.reservations.due(connection, now, 1)),
        )
