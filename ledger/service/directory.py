"""The brands, portfolios and λ fits that a shard's ledger keeps in memory, and which of them belong to the shard.

Changes by other processes are read within a second. Balances are not kept here, only in the database.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import NamedTuple

from sqlalchemy import Connection

from db.brands import BrandSettings, PortfolioSettings
from ledger.bidding.terms import night_kappa
from ledger.domain.brand import Brand, Fit, Portfolio
from ledger.domain.sharding import shard_of
from ledger.service.transactions import Transactions
from ledger.storage.directory_store import DirectoryStore, Signature
from ledger.transaction.working_set import BRAND

Clock = Callable[[], dt.datetime]


class _Found(NamedTuple):
    """What a refresh has read."""

    signature: Signature
    brands: dict[str, Brand]
    portfolios: dict[str, Portfolio]
    fits: dict[str, Fit]


class Directory:
    """
    Args:
        shard, shards: this ledger's shard, and how many there are.
    """

    def __init__(self, rows: DirectoryStore, transactions: Transactions, shard: int, shards: int, clock: Clock) -> None:
        self._rows, self._transactions, self._clock = rows, transactions, clock
        self.shard, self.shards = shard, shards
        self._brands: dict[str, Brand] = {}
        self._portfolios: dict[str, Portfolio] = {}
        self._fits: dict[str, Fit] = {}
        self._signature: Signature | None = None
        self.imports_seen = 0
        """How often imports have changed the performance rows."""

    # Which shard's

    def owns(self, brand: Brand) -> bool:
        """Whether the brand, as it is now, belongs to this shard: the shard of its portfolio."""
        return self.home_of(brand) == self.shard

    def home_of(self, brand: Brand) -> int:
        """The shard of a brand, as it is now."""
        return self.home_of_new(brand.settings.portfolio_id, brand.brand_id)

    def home_of_new(self, portfolio_id: str | None, brand_id: str) -> int:
        """The shard of a brand that is made in this portfolio."""
        return shard_of(portfolio_id, brand_id, self.shards)

    def home_of_id(self, brand_id: str) -> int:
        """The shard of a brand; this one if the brand is not known."""
        known = self._brands.get(brand_id)
        return self.shard if known is None else self.home_of(known.at(self._clock()))

    def home_of_portfolio(self, portfolio_id: str) -> int:
        return shard_of(portfolio_id, "", self.shards)

    # Brands and portfolios

    def brand(self, brand_id: str) -> Brand | None:
        """A brand of any shard, with the change that is scheduled for it."""
        return self._brands.get(brand_id)

    def portfolio(self, portfolio_id: str | None) -> Portfolio | None:
        """A portfolio of any shard."""
        return self._portfolios.get(portfolio_id or "")

    def owned(self, now: dt.datetime) -> dict[str, Brand]:
        """This shard's brands, as they are now."""
        return {id_: brand for id_, known in self._brands.items() if self.owns(brand := known.at(now))}

    def brands(self) -> dict[str, BrandSettings]:
        """Settings of this shard's brands, as they are now."""
        return {id_: brand.settings for id_, brand in self.owned(self._clock()).items()}

    def portfolios(self) -> dict[str, PortfolioSettings]:
        """Settings of this shard's portfolios."""
        return {
            id_: portfolio.settings
            for id_, portfolio in self._portfolios.items()
            if self.home_of_portfolio(id_) == self.shard
        }

    def all_portfolios(self) -> Mapping[str, Portfolio]:
        """Portfolios of all shards: until midnight a brand's portfolio may belong to another shard."""
        return self._portfolios

    def fits(self) -> Mapping[str, Fit]:
        """λ fits by brand id, of all shards' brands that have one."""
        return self._fits

    def has_fit(self, brand_id: str) -> bool:
        return brand_id in self._fits

    def night_kappa(self, brand: Brand) -> float:
        """A brand's κ by the night's fit and its limits of now; its ROAS target if there is no fit."""
        return night_kappa(brand, self.portfolio(brand.settings.portfolio_id), self._fits.get(brand.brand_id))

    def limit(self, owner: str, owner_id: str) -> int | None:
        """The budget that a day of a brand or a portfolio begins with, in micros; None: unlimited."""
        if owner == BRAND:
            return self._brands[owner_id].settings.daily_budget_micros
        portfolio = self._portfolios.get(owner_id)
        return None if portfolio is None else portfolio.settings.daily_budget_micros

    # Keeping up with the database

    def put_brand(self, brand: Brand) -> None:
        """Remember a brand that was just written."""
        self._brands[brand.brand_id] = brand

    def put_portfolio(self, portfolio: Portfolio) -> None:
        """Remember a portfolio that was just written."""
        self._portfolios[portfolio.portfolio_id] = portfolio

    async def refresh(self) -> bool:
        """Read what imports, nightly fits and other processes wrote; cheap if nothing. Returns whether it changed."""
        return await self._transactions.read(self._read, self._keep) is not None

    def _read(self, connection: Connection) -> _Found | None:
        signature = self._rows.signature(connection)
        if signature == self._signature:
            return None
        return _Found(
            signature, self._rows.brands(connection), self._rows.portfolios(connection), self._rows.fits(connection)
        )

    def _keep(self, found: _Found | None) -> None:
        if found is None:
            return
        before, self._signature = self._signature, found.signature
        self._brands, self._portfolios, self._fits = found.brands, found.portfolios, found.fits
        if before is None or before.imports != found.signature.imports:
            self.imports_seen += 1

    def read_as_of(self, connection: Connection, brand_ids: set[str], now: dt.datetime) -> dict[str, Brand]:
        """These brands as they are now, read in a transaction; unknown brands, just imported, are looked up.

        With several shards, every transaction that moves a brand's money locks the brand's row first. So when two
        shards write the same brand (it moves at midnight, an event is late, the sweep), the second sees the first's.
        """
        wanted = brand_ids if self.shards > 1 else brand_ids - self._brands.keys()
        if wanted:
            # A new dict, because the event loop may be reading the old one.
            self._brands = self._brands | self._rows.brands(connection, wanted, lock=self.shards > 1)
        return {id_: brand.at(now) for id_ in brand_ids if (brand := self._brands.get(id_)) is not None}

    # Scheduled changes

    def next_arrival(self, now: dt.datetime) -> dt.datetime | None:
        """When a brand changes its portfolio or time zone next; None: no change is scheduled."""
        starts = (known.scheduled.start for known in self._brands.values() if known.scheduled is not None)
        return min((start for start in starts if start > now), default=None)

    async def start_scheduled(self) -> bool:
        """Store the scheduled changes of this shard's brands that have begun. Returns whether there were any."""
        now = self._clock()
        due = [id_ for id_, brand in self.owned(now).items() if brand is not self._brands[id_]]
        if not due:
            return False

        def work(connection: Connection) -> dict[str, Brand]:
            # The old portfolio's shard may have written them since we looked.
            known = self._rows.brands(connection, due, lock=True)
            started = {id_: moved for id_, brand in known.items() if (moved := brand.at(now)) is not brand}
            for brand in started.values():
                self._rows.put_brand(connection, brand, False, now)
            return known | started

        def keep(brands: dict[str, Brand]) -> None:
            self._brands |= brands

        await self._transactions.write(work, keep)
        return True
