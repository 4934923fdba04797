"""Results of this shard's brands from events: sums of a day, traffic by hour, and which days have changed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from ledger.bidding.revenue_completion import DaySums
from ledger.domain.budget import Budget
from ledger.domain.budget_day import budget_day
from ledger.service.budgets import Budgets
from ledger.service.directory import Clock, Directory
from ledger.storage.event_store import NewConversions
from ledger.storage.store import Store

BrandDay = tuple[str, dt.date]
"""A brand and a day in UTC."""


class Performance:
    def __init__(self, store: Store, directory: Directory, budgets: Budgets, clock: Clock) -> None:
        self._store, self._directory, self._budgets, self._clock = store, directory, budgets, clock
        self._changed: set[BrandDay] = set()

    # Days that have changed, for the counters

    def note_changed(self, days: Iterable[BrandDay]) -> None:
        self._changed |= set(days)

    def take_changed(self) -> set[BrandDay]:
        """Brand days whose performance has changed since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    async def sums(self, days: Collection[BrandDay]) -> dict[BrandDay, DaySums]:
        """Sums of these brand days; days without rows are left out.

        Raises:
            LedgerUnavailable: the database does not answer.
        """
        return await self._store.epochs.read(lambda connection: self._store.events.sums_of(connection, days))

    async def sums_since(self, first: dt.date) -> dict[BrandDay, DaySums]:
        """Sums of all brands' days from this one on. Raises as `sums`."""
        return await self._store.epochs.read(lambda connection: self._store.events.sums_from(connection, first))

    async def conversions_after(self, seq: int | None, most: int) -> NewConversions:
        """See `EventStore.conversions_after`."""
        return await self._store.epochs.read(
            lambda connection: self._store.events.conversions_after(connection, seq, most)
        )

    # The brands' days, for the controller

    async def days_of(self, brand_ids: Collection[str]) -> dict[str, tuple[Budget, DaySums]]:
        """By brand id: today's budget and today's sums so far.

        Raises:
            LedgerUnavailable: the database does not answer.
        """
        now = self._clock()
        brands = {id_: brand for id_, brand in self._directory.owned(now).items() if id_ in brand_ids}

        def work(connection: Connection) -> dict[str, tuple[Budget, DaySums]]:
            by_zone: dict[str, list[str]] = {}
            for id_, brand in brands.items():
                by_zone.setdefault(brand.settings.timezone, []).append(id_)
            sums: dict[str, DaySums] = {}
            for zone, ids in by_zone.items():
                sums |= self._store.events.sums_since(connection, sorted(ids), budget_day(zone, now).starts_at)
            budgets = self._budgets.of_brands(connection, now, brands.values())
            return {id_: (budget, sums.get(id_, DaySums())) for id_, budget in budgets.items()}

        return await self._store.epochs.read(work) if brands else {}

    async def traffic(self, days: int) -> list[tuple[str, int, float]]:
        """(brand id, hour of the brand's local day, impressions) over the last days; daily rows have no hour.

        Raises:
            LedgerUnavailable: the database does not answer.
        """
        now = self._clock()
        since = (now - dt.timedelta(days=days)).date()
        rows = await self._store.epochs.read(
            lambda connection: self._store.events.impressions_by_hour(connection, since)
        )
        brands = self._directory.owned(now)
        offsets: dict[str, int] = {}
        for zone in {brand.settings.timezone for brand in brands.values()}:
            offset = now.astimezone(ZoneInfo(zone)).utcoffset() or dt.timedelta(0)
            offsets[zone] = round(offset.total_seconds() / 3600)
        return [
            (id_, (hour + offsets[brands[id_].settings.timezone]) % 24, number)
            for id_, hour, number in rows
            if id_ in brands
        ]
