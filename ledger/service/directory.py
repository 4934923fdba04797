"""Who there is: brands, portfolios and λ fits as a shard's ledger knows them, and the terms it makes of them.

What other processes write is picked up within a second. Balances are not remembered here: they are only in the rows.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain
from typing import Self, TypeVar
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from db.brands import BrandSettings, PortfolioSettings
from db.session import Database
from ledger.bidding.revenue_completion import DaySums
from ledger.bidding.terms import NEVER, Steered, TermsBook, night_kappa
from ledger.bidding.throttle import Throttle
from ledger.domain.brand import Brand, Fit, Portfolio
from ledger.domain.budget import Budget
from ledger.domain.budget_day import day_of, midnight
from ledger.domain.messages import Terms
from ledger.domain.reservation import DelayCurve, Lifetimes
from ledger.domain.settings import LedgerSettings
from ledger.domain.sharding import shard_of
from ledger.storage.store import Signature, Store
from ledger.transaction.working_set import BRAND, BudgetKey, LeaseKey, Lent, WorkingSet, budget_keys

T = TypeVar("T")
Clock = Callable[[], dt.datetime]
BrandDay = tuple[str, dt.date]


def utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def new_secret() -> bytes:
    return os.urandom(32)


class Directory:
    """Its methods may be called concurrently: writes wait for each other."""

    def __init__(self, store: Store, settings: LedgerSettings, clock: Clock, secrets: Callable[[], bytes]) -> None:
        self._store, self._settings, self._clock, self._secrets = store, settings, clock, secrets
        self._opened_at = clock()
        self._recalls: dict[int, set[str]] = {}
        self._lifetimes = Lifetimes(settings.reservation_ttl_s, settings.conversion_days)
        self._writing = asyncio.Lock()
        self._brands: dict[str, Brand] = {}
        self._portfolios: dict[str, Portfolio] = {}
        self._fits: dict[str, Fit] = {}
        self._curves: dict[str, DelayCurve] = {}
        self._signature: Signature | None = None
        self._terms = TermsBook()
        self._terms_end = NEVER
        self._dirty: set[BrandDay] = set()
        self.moves = 0
        """Transactions that may have moved money."""
        self.imports_seen = 0
        """How often imports have changed the performance rows under us."""

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
        ledger = cls(Store(database, shard, settings.shards, decided_at), settings, clock, secrets)
        await ledger._store.take_epoch(clock())
        await ledger.refresh()
        return ledger

    @property
    def epoch(self) -> int:
        return self._store.epoch

    @property
    def shard(self) -> int:
        return self._store.shard

    @property
    def settings(self) -> LedgerSettings:
        return self._settings

    @property
    def newest_terms(self) -> Terms:
        return self._terms.newest

    def now(self) -> dt.datetime:
        return self._clock()

    # What is ours

    def owns(self, brand: Brand) -> bool:
        """Whether the brand, as it is now, is this shard's: it goes with its portfolio."""
        return self._shard_of(brand) == self.shard

    def _shard_of(self, brand: Brand) -> int:
        return shard_of(brand.settings.portfolio_id, brand.brand_id, self._settings.shards)

    def owned(self, now: dt.datetime) -> dict[str, Brand]:
        """This shard's brands, as they are now."""
        return {id_: brand for id_, known in self._brands.items() if self.owns(brand := known.at(now))}

    def home_of(self, brand_id: str) -> int:
        """The shard of a brand; of one that is not known here, this one."""
        known = self._brands.get(brand_id)
        return self.shard if known is None else self._shard_of(known.at(self._clock()))

    async def check_epoch(self) -> None:
        """A look whether this ledger may still write, for one that has nothing to write.

        Raises:
            Fenced: another one has taken a newer epoch.
            LedgerUnavailable: the database is away.
        """
        await self._store.look(lambda _connection: None)

    # What others write

    async def refresh(self) -> bool:
        """Pick up what imports, nightly fits and other processes wrote. Cheap when they did not; True: it changed."""
        async with self._writing:
            now = self._clock()
            found = await self._store.read(self._read_settings)
            if found is not None:
                before, self._signature = self._signature, found[0]
                self._brands, self._portfolios, self._fits = found[1:]
                if before is None or before.imports != self._signature.imports:
                    self.imports_seen += 1
            if found is not None or now >= self._terms_end:
                self._make_terms()
            return found is not None

    def _read_settings(
        self, connection: Connection
    ) -> tuple[Signature, dict[str, Brand], dict[str, Portfolio], dict[str, Fit]] | None:
        signature = self._store.signature(connection)
        if signature == self._signature:
            return None
        return (
            signature,
            self._store.brands(connection),
            self._store.portfolios(connection),
            self._store.fits(connection),
        )

    async def _start_scheduled(self) -> None:
        now = self._clock()
        due = [id_ for id_, brand in self.owned(now).items() if brand is not self._brands[id_]]
        if not due:
            return

        def work(connection: Connection) -> dict[str, Brand]:
            # The old portfolio's shard may have written them since we looked.
            known = self._store.brands(connection, due, lock=True)
            started = {id_: moved for id_, brand in known.items() if (moved := brand.at(now)) is not brand}
            for brand in started.values():
                self._store.put_brand(connection, brand, False, now)
            return known | started

        async with self._writing:
            self._brands |= await self._store.transact(work)
            self._make_terms()

    # For the transactions

    def _named(self, connection: Connection, ids: set[str], now: dt.datetime) -> dict[str, Brand]:
        """These brands as they are now; one that was imported a moment ago is looked up.

        Among several shards every transaction that moves a brand's money holds the brand's row first. A brand that
        moves at midnight, a late event, the sweep: whichever shard comes second sees what the first has done.
        """
        wanted = ids if self._settings.shards > 1 else ids - self._brands.keys()
        if wanted:
            # A new dict, for the event loop may be reading the old one.
            self._brands = self._brands | self._store.brands(connection, wanted, lock=self._settings.shards > 1)
        return {id_: brand.at(now) for id_ in ids if (brand := self._brands.get(id_)) is not None}

    def _limit(self, owner: str, owner_id: str) -> int | None:
        """The budget that a day begins with."""
        if owner == BRAND:
            return self._brands[owner_id].settings.daily_budget_micros
        portfolio = self._portfolios.get(owner_id)
        return None if portfolio is None else portfolio.settings.daily_budget_micros

    def _page(
        self,
        connection: Connection,
        now: dt.datetime,
        keys: Iterable[BudgetKey],
        leases: Mapping[LeaseKey, Lent] | None = None,
    ) -> WorkingSet:
        """With these budgets, and those that the leases were lent from."""
        leases = leases or {}
        lending = (budget_keys(key.brand_id, lent.portfolio_id, key.day) for key, lent in leases.items())
        budgets = self._store.budgets(connection, {*keys, *chain.from_iterable(lending)}, lock=True)
        return WorkingSet(now, budgets, self._limit, leases)

    def _budgets_of(self, connection: Connection, brands: Iterable[Brand], now: dt.datetime) -> dict[str, Budget]:
        """Each brand's budget of its today; a day that nothing has touched yet has all of it."""
        keyed = [(brand, BudgetKey(BRAND, brand.brand_id, brand.day(now))) for brand in brands]
        rows = {budget.owner_id: budget for budget in self._store.budgets(connection, [key for _, key in keyed])}
        return {
            brand.brand_id: rows.get(brand.brand_id) or Budget.of(*key, brand.settings.daily_budget_micros)
            for brand, key in keyed
        }

    async def _move(self, work: Callable[[Connection], T]) -> T:
        async with self._writing:
            answer = await self._store.transact(work)
            self.moves += 1
            return answer

    async def read(self, work: Callable[[Connection], T]) -> T:
        """A look at the database outside the ledger's own transactions.

        Raises:
            LedgerUnavailable: the database is away.
        """
        return await self._store.read(work)

    # Terms

    def terms(self, known_version: int = -1) -> Terms | None:
        """What replicas need of every brand, or of those that have changed since the version that they know.

        None: nothing has.
        """
        return self._terms.since(known_version)

    def set_throttles(self, throttles: Mapping[str, Throttle]) -> None:
        """Shares of auctions by brand; a brand that is not named takes part in all."""
        self._terms.throttles = dict(throttles)
        self._make_terms()

    def steer(self, steered: Mapping[str, Steered]) -> None:
        """The day's κ by brand; a brand that is not named has its night's."""
        self._terms.steered = dict(steered)
        self._make_terms()

    @property
    def steered(self) -> Mapping[str, Steered]:
        return self._terms.steered

    def throttle(self, brand_id: str) -> Throttle:
        return self._terms.throttle(brand_id)

    def night_kappa(self, brand: Brand) -> float:
        """What the night's fit says of a brand's κ, as it is now; without one its target."""
        portfolio = self._portfolios.get(brand.settings.portfolio_id or "")
        return night_kappa(brand, portfolio, self._fits.get(brand.brand_id))

    def has_fit(self, brand_id: str) -> bool:
        return brand_id in self._fits

    def set_delay_curves(self, curves: Mapping[str, DelayCurve]) -> None:
        """How the holds of these brands' conversions shrink; others in a straight line."""
        self._curves = dict(curves)

    def _make_terms(self) -> None:
        now = self._clock()
        self._terms.make(now, self.epoch, self.owned(now), self._portfolios, self._fits)
        arrivals = [known.scheduled.start for known in self._brands.values() if known.scheduled is not None]
        self._terms_end = min([self._terms.end, *(start for start in arrivals if start > now)])

    # For counters and λ by day

    def take_dirty(self) -> set[BrandDay]:
        """Brand days (UTC) whose performance has changed since the last call."""
        dirty, self._dirty = self._dirty, set()
        return dirty

    def put_back_dirty(self, dirty: Iterable[BrandDay]) -> None:
        self._dirty |= set(dirty)

    def brands(self) -> dict[str, BrandSettings]:
        """This shard's."""
        return {id_: brand.settings for id_, brand in self.owned(self._clock()).items()}

    def portfolios(self) -> dict[str, PortfolioSettings]:
        """This shard's."""
        shards = self._settings.shards
        return {
            id_: portfolio.settings
            for id_, portfolio in self._portfolios.items()
            if shard_of(id_, "", shards) == self.shard
        }

    async def budgets_today(self) -> dict[str, Budget]:
        """Every brand's budget of its today; this shard's brands."""
        now = self._clock()
        brands = self.owned(now)
        return await self._store.read(lambda connection: self._budgets_of(connection, brands.values(), now))

    async def days_of(self, brand_ids: Collection[str]) -> dict[str, tuple[Budget, DaySums]]:
        """Today's budget of these brands, and what their today has brought so far."""
        now = self._clock()
        brands = {id_: brand for id_, brand in self.owned(now).items() if id_ in brand_ids}

        def work(connection: Connection) -> dict[str, tuple[Budget, DaySums]]:
            by_zone: dict[str, list[str]] = {}
            for id_, brand in brands.items():
                by_zone.setdefault(brand.settings.timezone, []).append(id_)
            sums: dict[str, DaySums] = {}
            for zone, ids in by_zone.items():
                start = midnight(zone, day_of(zone, now))
                sums |= self._store.sums_since(connection, sorted(ids), start)
            budgets = self._budgets_of(connection, brands.values(), now)
            return {id_: (budget, sums.get(id_, DaySums())) for id_, budget in budgets.items()}

        return await self._store.read(work) if brands else {}

    async def traffic(self, days: int) -> list[tuple[str, int, float]]:
        """Impressions of the last days by brand and hour of its own day. Days that came without hours say none."""
        now = self._clock()
        since = (now - dt.timedelta(days=days)).date()
        rows = await self._store.read(lambda connection: self._store.impressions_by_hour(connection, since))
        brands = self.owned(now)
        offsets: dict[str, int] = {}
        for zone in {brand.settings.timezone for brand in brands.values()}:
            offset = now.astimezone(ZoneInfo(zone)).utcoffset() or dt.timedelta(0)
            offsets[zone] = round(offset.total_seconds() / 3600)
        return [
            (id_, (hour + offsets[brands[id_].settings.timezone]) % 24, number)
            for id_, hour, number in rows
            if id_ in brands
        ]
