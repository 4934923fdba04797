"""A shard's budgets: loads them for a transaction, changes their limits, and reads them to be shown."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from itertools import chain

from sqlalchemy import Connection

from ledger.domain.brand import Brand
from ledger.domain.budget import Budget
from ledger.service.directory import Clock, Directory
from ledger.storage.store import Store
from ledger.transaction.working_set import (
    BRAND,
    BudgetKey,
    LeaseKey,
    Lent,
    SlackMicros,
    WorkingSet,
    budget_keys,
)


class Budgets:
    def __init__(self, store: Store, directory: Directory, clock: Clock) -> None:
        self._store, self._directory, self._clock = store, directory, clock

    # In a transaction

    def working_set(
        self,
        connection: Connection,
        now: dt.datetime,
        keys: Iterable[BudgetKey],
        leases: Mapping[LeaseKey, Lent] | None = None,
    ) -> WorkingSet:
        """A working set with these days' budgets and slacks, and with those that the leases were debited from."""
        leases = leases or {}
        lending = (budget_keys(key.brand_id, lent.portfolio_id, key.day) for key, lent in leases.items())
        wanted = {*keys, *chain.from_iterable(lending)}
        budgets = self._store.budgets.load(connection, wanted, lock=True)
        slacks = self._store.slacks.load(connection, wanted, lock=True)
        return WorkingSet(now, budgets, self._directory.limit, leases, slacks, wanted)

    def add(self, connection: Connection, working_set: WorkingSet, keys: Iterable[BudgetKey]) -> None:
        """Add these days to a working set, as far as it does not have them."""
        missing = set(keys) - working_set.loaded
        working_set.add(
            self._store.budgets.load(connection, missing, lock=True),
            self._store.slacks.load(connection, missing, lock=True),
            missing,
        )

    def take_back(self, connection: Connection, now: dt.datetime, leases: Mapping[LeaseKey, Lent]) -> None:
        """Take back all of these leases."""
        working_set = self.working_set(connection, now, (), leases)
        for key, lent in sorted(leases.items()):
            working_set.take_back(key, lent.leased_micros)
            working_set.lend_slack(key, None, -SlackMicros(lent.slack_micros, lent.portfolio_slack_micros))
        self._store.write(connection, working_set)

    def set_limit(self, connection: Connection, now: dt.datetime, key: BudgetKey, limit_micros: int | None) -> None:
        """Change the limit of a day that has begun; a later day begins with the new limit by itself."""
        working_set = self.working_set(connection, now, [key])
        if key in working_set.existing:
            working_set.set_limit(key, limit_micros)
            self._store.write(connection, working_set)

    # To show

    def of_brands(self, connection: Connection, now: dt.datetime, brands: Iterable[Brand]) -> dict[str, Budget]:
        """Each brand's budget of its today; all is available on a day without a row."""
        keyed = [(brand, BudgetKey(BRAND, brand.brand_id, brand.day(now))) for brand in brands]
        rows = {budget.owner_id: budget for budget in self._store.budgets.load(connection, [key for _, key in keyed])}
        return {
            brand.brand_id: rows.get(brand.brand_id) or Budget.of(*key, brand.settings.daily_budget_micros)
            for brand, key in keyed
        }

    async def one(self, key: BudgetKey, limit_micros: int | None) -> Budget:
        """The budget of one day; `limit_micros` counts on a day without a row."""
        rows = await self._store.epochs.read(lambda connection: self._store.budgets.load(connection, [key]))
        return rows[0] if rows else Budget.of(*key, limit_micros)

    async def today(self) -> dict[str, Budget]:
        """Today's budget of every brand of this shard, by brand id.

        Raises:
            LedgerUnavailable: the database does not answer.
        """
        now = self._clock()
        brands = self._directory.owned(now)
        return await self._store.epochs.read(lambda connection: self.of_brands(connection, now, brands.values()))
