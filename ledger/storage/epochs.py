"""Who may write a shard: only the ledger with its newest epoch. Every write transaction locks the epoch's row first,
and is rolled back if there is a newer epoch.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError, InterfaceError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from db import tables as t
from db.session import Database
from ledger.domain.errors import Fenced, LayoutReplaced, LedgerUnavailable, StatementRefused

T = TypeVar("T")
_EP = t.ledger_epochs.c
_LAYOUT = select(_EP.shard, _EP.epoch, _EP.shards, _EP.decided_at).order_by(_EP.shard).with_for_update()
_SEEN_EPOCH = select(_EP.epoch, _EP.shards).where(_EP.shard == bindparam("shard"))
_EPOCH = _SEEN_EPOCH.with_for_update()


class Epochs:
    """A shard's epochs, and the transactions that they guard.

    Args:
        shards, decided_at: the layout: how many ledgers there are, and when that was decided (seconds since 1970).
    """

    def __init__(self, database: Database, shard: int = 0, shards: int = 1, decided_at: float = 0.0) -> None:
        if not 0 <= shard < shards:
            raise ValueError(f"there is no shard {shard} of {shards}: shards are numbered from 0")
        self._database, self._decided_at = database, decided_at
        self.shard, self.shards = shard, shards
        self.epoch = 0

    async def take(self, now: dt.datetime) -> int:
        """Take the next epoch of the shard, and return it: writes of older epochs fail from now on.

        With a new number of shards, the epochs of all shards end, so that two layouts never write at the same time.

        Raises:
            LayoutReplaced: another number of shards was decided later.
            LedgerUnavailable: the database does not answer.
        """

        def work(connection: Connection) -> int:
            rows = connection.execute(_LAYOUT).all()
            epochs = {int(row.shard): int(row.epoch) for row in rows}
            newest = max(rows, key=lambda row: float(row.decided_at), default=None)
            decided_at = self._decided_at
            if newest is not None and newest.shards != self.shards:
                if newest.decided_at >= self._decided_at:
                    raise LayoutReplaced(self.shard, self.epoch, epochs.get(self.shard, 0), newest.shards)
                connection.execute(update(t.ledger_epochs).values(epoch=_EP.epoch + 1, taken_at=now))
            elif newest is not None:
                decided_at = max(decided_at, newest.decided_at)
            connection.execute(update(t.ledger_epochs).values(shards=self.shards, decided_at=decided_at))
            epoch = epochs.get(self.shard, 0) + 1
            values = {"shard": self.shard, "epoch": epoch, "taken_at": now}
            if self.shard not in epochs:
                connection.execute(insert(t.ledger_epochs), {**values, "shards": self.shards, "decided_at": decided_at})
            else:
                connection.execute(update(t.ledger_epochs).where(_EP.shard == self.shard).values(values))
            return epoch

        try:
            self.epoch = await available(self._database.run_write(work))
        except StatementRefused:  # another one made the shard's first epoch a moment ago
            self.epoch = await available(self._database.run_write(work))
        return self.epoch

    async def transact(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a write transaction. It may run more than once; earlier runs are rolled back.

        Raises:
            Fenced: another ledger has taken a newer epoch.
            StatementRefused: the database refused a statement of `work`.
            LedgerUnavailable: the database does not answer; after a lost COMMIT the outcome is unknown.
        """

        def fenced(connection: Connection) -> T:
            self._confirm(connection, _EPOCH)
            return work(connection)

        try:
            return await available(self._database.run_write(fenced))
        except StatementRefused as error:
            # After a brand has moved, two shards may insert the same day of a portfolio; the second run finds it.
            if self.shards == 1 or not isinstance(error.__cause__, IntegrityError):
                raise
            return await available(self._database.run_write(fenced))

    async def read_as_writer(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a read transaction, after checking that this ledger may write.

        Raises:
            Fenced: another ledger has taken a newer epoch.
            LedgerUnavailable: the database does not answer.
        """

        def confirmed(connection: Connection) -> T:
            self._confirm(connection, _SEEN_EPOCH)
            return work(connection)

        return await self.read(confirmed)

    def _confirm(self, connection: Connection, query: Any) -> None:
        found = connection.execute(query, {"shard": self.shard}).one_or_none()
        if found is None or found.epoch != self.epoch:
            newest = found.epoch if found is not None else 0
            if found is not None and found.shards != self.shards:
                raise LayoutReplaced(self.shard, self.epoch, newest, found.shards)
            raise Fenced(self.shard, self.epoch, newest)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a read transaction.

        Raises:
            LedgerUnavailable: the database does not answer.
        """
        return await available(self._database.run_read(work))


async def available(work: Awaitable[T]) -> T:
    """Await `work`, and turn errors of the database into the ledger's own.

    Raises:
        StatementRefused: the database refused one of the statements.
        LedgerUnavailable: the database does not answer, or is full, locked or too slow.
    """
    try:
        return await work
    except (OperationalError, InterfaceError, InternalError, PoolTimeout, OSError) as error:  # TimeoutError: an OSError
        raise LedgerUnavailable(_reason(error)) from error
    except SQLAlchemyError as error:
        if getattr(error, "connection_invalidated", False):
            raise LedgerUnavailable(_reason(error)) from error
        raise StatementRefused(_reason(error)) from error


def _reason(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return (str(cause).splitlines() or [type(cause).__name__])[0]
