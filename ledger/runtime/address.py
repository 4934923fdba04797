"""Finds a shard's ledger for one replica."""

from __future__ import annotations

from typing import Any

from db.settings import DatabaseSettings
from ledger.domain.settings import LedgerSettings, RoasSettings
from ledger.runtime.deployment import connect, replace
from ledger.runtime.generations import Reached


class ShardAddress:
    """Connects to a shard's actor: starts it if there is none, replaces it if it is silent. Both calls block.

    Args:
        decided_at: when the settings were decided, in seconds since 1970; where two replicas have different settings,
            the later ones count.
    """

    def __init__(
        self,
        database: DatabaseSettings,
        redis_url: str | None,
        ledger_settings: LedgerSettings,
        roas_settings: RoasSettings,
        shard: int,
        decided_at: float,
    ) -> None:
        self._settings = database, redis_url, ledger_settings, roas_settings
        self._shard, self._decided_at = shard, decided_at
        self._reached: Reached[Any] | None = None

    def connect(self) -> Any:
        """A handle of the actor. Raises: LedgerUnavailable, it is not ready; try again."""
        self._reached = connect(*self._settings, shard=self._shard, decided_at=self._decided_at)
        return self._reached.handle

    def replace(self) -> Any:
        """A handle of the next generation. Raises: LedgerUnavailable, it is not ready; try again."""
        if self._reached is None:
            return self.connect()
        self._reached = replace(*self._settings, shard=self._shard, decided_at=self._decided_at, seen=self._reached)
        return self._reached.handle
