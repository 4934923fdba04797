"""A shard's transactions: one at a time, each checks the shard's epoch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection

from ledger.storage.epochs import Epochs

T = TypeVar("T")


def _forget(_answer: Any) -> None:
    """Keep nothing of the transaction."""


class Transactions:
    """Runs the ledger's transactions, one after the other.

    `keep` is called with what `work` returned, after the commit and before another transaction begins.
    """

    def __init__(self, epochs: Epochs) -> None:
        self._epochs, self._lock = epochs, asyncio.Lock()
        self.moves = 0
        """Transactions that may have moved money."""

    async def write(self, work: Callable[[Connection], T], keep: Callable[[T], None] = _forget) -> T:
        """Run `work` in a transaction, and return what it returns.

        Raises:
            Fenced: another ledger has taken a newer epoch.
            LedgerUnavailable: the database does not answer; after a lost COMMIT the outcome is unknown.
        """
        async with self._lock:
            answer = await self._epochs.transact(work)
            keep(answer)
            return answer

    async def move(self, work: Callable[[Connection], T], keep: Callable[[T], None] = _forget) -> T:
        """`write`, for a transaction that may move money."""

        def count_and_keep(answer: T) -> None:
            self.moves += 1
            keep(answer)

        return await self.write(work, count_and_keep)

    async def read(self, work: Callable[[Connection], T], keep: Callable[[T], None]) -> T:
        """Run `work` in a read transaction, while no write is under way.

        Raises:
            LedgerUnavailable: the database does not answer.
        """
        async with self._lock:
            answer = await self._epochs.read(work)
            keep(answer)
            return answer
