"""A shard's own transactions: one at a time, each fenced by the shard's epoch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection

from ledger.storage.epochs import Epochs

T = TypeVar("T")


def _forget(_answer: Any) -> None:
    """Nothing is remembered of the transaction."""


class Transactions:
    """Whoever writes in the ledger does it here: writes wait for each other.

    Each method may be told to `keep` what its transaction has found: that happens before another one begins.
    """

    def __init__(self, epochs: Epochs) -> None:
        self._epochs, self._lock = epochs, asyncio.Lock()
        self.moves = 0
        """Transactions that may have moved money."""

    async def write(self, work: Callable[[Connection], T], keep: Callable[[T], None] = _forget) -> T:
        """
        Raises:
            Fenced: another ledger has taken a newer epoch.
            LedgerUnavailable: the database is away; after a lost COMMIT the outcome is unknown.
        """
        async with self._lock:
            answer = await self._epochs.transact(work)
            keep(answer)
            return answer

    async def move(self, work: Callable[[Connection], T], keep: Callable[[T], None] = _forget) -> T:
        """`write`, of what may move money."""

        def count_and_keep(answer: T) -> None:
            self.moves += 1
            keep(answer)

        return await self.write(work, count_and_keep)

    async def read(self, work: Callable[[Connection], T], keep: Callable[[T], None]) -> T:
        """A look at what others have written, while no transaction of our own is under way.

        Raises:
            LedgerUnavailable: the database is away.
        """
        async with self._lock:
            answer = await self._epochs.read(work)
            keep(answer)
            return answer
