"""The ledger without Ray: reads rows, lets the pure rules decide, writes rows, all in one fenced transaction.

The database is the truth. No balance is remembered between two transactions; what is remembered (brands, portfolios, λ)
is what the ledger alone writes, or what `refresh` picks up within a second.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, Self, TypeVar
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from db import Database
from db.brands import BrandSettings, PortfolioSettings
from ledger.account import Budget
from ledger.brand import Brand, Fit, Portfolio, Scheduled
from ledger.days import day_ends_at, day_of, midnight
from ledger.errors import CurrencyFixed, NotFound, OtherShard, PortfolioMismatch, PortfolioUnknown
from ledger.ids import decode, is_genuine
from ledger.leasing import LeaseMismatch, Leasing
from ledger.pacing import DaySums, Throttle, lambda_
from ledger.page import BRAND, PORTFOLIO, BudgetKey, LeaseKey, Lent, Page, budget_keys
from ledger.posting import Posting
from ledger.reservation import RETURNED, DelayCurve, Lifetimes, Reservation, linear
from ledger.settings import LedgerSettings
from ledger.shards import shard_of
from ledger.store import CLOSED, LAPSED, OPEN, Session, Signature, Store
from ledger.terms import NEVER, Steered, TermsBook, night_kappa
from ledger.types import Beat, Event, Grant, Reply, Result, Terms, Tuple

T = TypeVar("T")
logger = logging.getLogger("paceline.ledger")
SWEEP_ROWS = 500
"""Holds that one transaction looks at: a long queue of expiries lets reservations through in between."""

LAPSE_GRACE_S = 2.0
"""A silent session lapses this much after its leases have ended by the replica's own clock: the two may differ."""

Clock = Callable[[], dt.datetime]
BrandDay = tuple[str, dt.date]


class InTurn(Protocol):
    def __call__(self, work: Callable[[], Awaitable[T]], /) -> Awaitable[T]: ...


def at_once(work: Callable[[], Awaitable[T]], /) -> Awaitable[T]:
    return work()


class Swept(NamedTuple):
    looked: int
    goes_on: bool  # more may be due; never after a look that changed nothing


def utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def new_secret() -> bytes:
    return os.urandom(32)


class _Beaten(NamedTuple):
    """What a transaction of beats has done."""

    replies: list[Reply]
    recalls: set[tuple[int, str]]  # session, brand: asked to return what it does not use
    live: list[Beat]  # those that were not stale


class Ledger:
    """One shard's budgets. Make it with `open`; the newest one to be opened is the only one that can write.

    Its methods may be called concurrently: writes wait for each other.
    """

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

    def owns(self, brand: Brand) -> bool:
        """Whether the brand, as it is now, is this shard's: it goes with its portfolio."""
        return self._shard_of(brand) == self.shard

    def _shard_of(self, brand: Brand) -> int:
        return shard_of(brand.settings.portfolio_id, brand.brand_id, self._settings.shards)

    def _owned(self, now: dt.datetime) -> dict[str, Brand]:
        """This shard's brands, as they are now."""
        return {id_: brand for id_, known in self._brands.items() if self.owns(brand := known.at(now))}

    async def check_epoch(self) -> None:
        """A look whether this ledger may still write, for one that has nothing to write.

        Raises:
            Fenced: another one has taken a newer epoch.
            LedgerUnavailable: the database is away.
        """
        await self._store.check_epoch()

    # The replicas' way

    async def beat(self, beats: Sequence[Beat]) -> list[Reply]:
        """Record wins, take back and lend, for several replicas in one transaction, in order.

        Raises:
            Fenced, LedgerUnavailable: whether it happened is not known; the replica's next beat states everything anew.
        """

        def work(connection: Connection) -> _Beaten:
            now = self._clock()
            known = self._store.sessions(connection, {beat.session_id for beat in beats if beat.session_id})
            sessions = dict(known)
            live = [beat for beat in beats if not _is_stale(beat, sessions)]
            named = self._named(connection, self._touched(connection, live), now)
            wins = [win for beat in live for win in beat.wins]
            said = {line.brand_id for beat in live for line in beat.lines} | {win.where.brand_id for win in wins}
            brands = {id_: brand for id_, brand in named.items() if id_ in said and self.owns(brand)}
            leases = self._leases_of(connection, live, brands, now)
            keys = {key for lease, lent in leases.items() for key in _budget_keys_of(lease, lent)}
            for brand in brands.values():
                keys.update(budget_keys(brand.brand_id, brand.settings.portfolio_id, brand.day(now)))
            page = self._page(connection, now, keys, leases)
            leasing = Leasing(
                page,
                brands,
                self._store.reservations(connection, [win.reservation_id for win in wins]),
                self._store.recorded(connection, [(win.sub, win.request_id) for win in wins]),
                self._lifetimes,
                len(self._store.open_sessions(connection)),
                self._called_to_mind(connection, live, leases),
            )
            replies = []
            for beat in beats:
                if beat.session_id is None:
                    session = self._store.open_session(connection, self._secrets(), beat.number - 1, now)
                    sessions[session.session_id] = session
                    beat = replace(beat, session_id=session.session_id)
                replies.append(self._answer(beat, sessions, leasing, page, now))
            before = {id_: one.status for id_, one in known.items()}
            self._store.put_sessions(connection, sessions.values())
            self._store.write(connection, page, leasing.rows)
            for session in sessions.values():
                if session.status == LAPSED and before.get(session.session_id) == OPEN:
                    self._quarantine(connection, session.session_id, now)
            self._store.complete_reservations(connection, leasing.completed)
            asking = {beat.session_id for beat in live}
            lenders = self._store.lenders(connection, leasing.short) if leasing.short else {}
            recalls = {(key.session_id, key.brand_id) for key in lenders if key.session_id not in asking}
            return _Beaten(replies, recalls, live)

        replies, recalls, live = await self._move(work)
        for session_id, brand_id in recalls:
            self._recalls.setdefault(session_id, set()).add(brand_id)
        return [
            replace(
                reply,
                # Nobody hears the answer to a stale beat.
                recalled=tuple(sorted(self._recalls.pop(reply.session_id, ()))) if beat in live else (),
                terms=self.terms(beat.known_version),
            )
            for beat, reply in zip(beats, replies, strict=True)
        ]

    def _called_to_mind(
        self, connection: Connection, beats: Sequence[Beat], leases: Mapping[LeaseKey, Lent]
    ) -> dict[LeaseKey, int]:
        """What events have called to mind of the wins of sessions that seem to hold more than is lent to them.

        A win may be drawn, and its event may come, while a beat is under way that states what was held before.
        """
        stated: Counter[LeaseKey] = Counter()
        for beat in beats:
            if beat.session_id is not None:
                for win in beat.wins:
                    if (drawn := decode(win.reservation_id)) is not None:
                        stated[LeaseKey(beat.session_id, win.where.brand_id, drawn.day)] += drawn.amount_micros
                for line in beat.lines:
                    stated[LeaseKey(beat.session_id, line.brand_id, line.day)] += line.holds_micros
        more = {key.session_id for key, micros in stated.items() if micros > leases.get(key, Lent(None)).leased_micros}
        return self._store.called_to_mind(connection, more)

    def _touched(self, connection: Connection, beats: Sequence[Beat]) -> set[str]:
        """The brands that these beats bear on."""
        ids = {line.brand_id for beat in beats for line in beat.lines}
        ids |= {win.where.brand_id for beat in beats for win in beat.wins}
        for beat in beats:
            if beat.is_last and beat.session_id is not None:
                ids |= {key.brand_id for key in self._store.leases_of(connection, beat.session_id)}
        return ids

    def _leases_of(
        self, connection: Connection, beats: Sequence[Beat], brands: Mapping[str, Brand], now: dt.datetime
    ) -> dict[LeaseKey, Lent]:
        """The leases that these beats bear on."""
        keys: set[LeaseKey] = set()
        found: dict[LeaseKey, Lent] = {}
        for beat in beats:
            session_id = beat.session_id
            if session_id is None:
                continue
            if beat.is_last:
                found |= self._store.leases_of(connection, session_id)
            for win in beat.wins:
                if (drawn := decode(win.reservation_id)) is not None:
                    keys.add(LeaseKey(session_id, win.where.brand_id, drawn.day))
            for line in beat.lines:
                keys.add(LeaseKey(session_id, line.brand_id, line.day))
                if (brand := brands.get(line.brand_id)) is not None:
                    keys.add(LeaseKey(session_id, line.brand_id, brand.day(now)))
        return found | self._store.leases(connection, keys - found.keys())

    def _answer(
        self, beat: Beat, sessions: dict[int, Session], leasing: Leasing, page: Page, now: dt.datetime
    ) -> Reply:
        """What a beat does. `sessions` is brought up to date."""
        assert beat.session_id is not None
        session = sessions.get(beat.session_id)
        if session is None:  # of another database
            return Reply(beat.session_id, b"", now, 0.0, is_open=False)
        reply = Reply(session.session_id, session.secret, now, self._settings.lease_s, session.status == OPEN)
        if _is_stale(beat, sessions):
            return reply  # nobody waits for it: a later one has been answered
        for win in beat.wins:
            leasing.record(session.session_id, win)
        status = session.status
        if beat.is_last:
            leasing.give_up([key for key in page.leases if key.session_id == session.session_id])
            status = CLOSED
        elif status == OPEN:
            try:
                reply = _with_grants(
                    reply, [(line.brand_id, leasing.state(session.session_id, line)) for line in beat.lines]
                )
            except LeaseMismatch as error:
                logger.error("%s: the session ends", error)
                status = LAPSED
        renewed_at = now if status == OPEN else session.renewed_at
        sessions[session.session_id] = session._replace(status=status, beat=beat.number, renewed_at=renewed_at)
        return replace(reply, is_open=status == OPEN)

    async def release(self, reservation_ids: Collection[str]) -> int:
        """Give back holds that nobody will use. Returns how many went back; one that has ended stays as it is."""

        def work(connection: Connection) -> int:
            now = self._clock()
            held = self._held(connection, self._store.reservations(connection, reservation_ids))
            page = self._page(connection, now, _keys_of(held.values()))
            returned = sum(page.end(held[id_], RETURNED) for id_ in sorted(held))
            self._store.write(connection, page)
            return returned

        return await self._move(work)

    async def record(self, events: Sequence[Event]) -> list[Result]:
        """Take in a batch of results, all in one transaction. A bad item is answered, never raised.

        Raises:
            Fenced, LedgerUnavailable: repeat the batch; what was recorded counts as duplicate.
        """

        def work(connection: Connection) -> tuple[list[Result], set[BrandDay]]:
            now = self._clock()
            brands = self._named(connection, {event.brand_id for event in events}, now)
            page, leasing = self._adopted(connection, events, now)
            posting = self._posting(connection, events, brands, page)
            page.add(self._store.budgets(connection, posting.budget_keys - page.existing, lock=True))
            figures = self._store.figures(connection, posting.row_keys)
            results = posting.post(page, figures)
            self._store.insert_events(connection, posting.event_rows)
            self._store.complete_events(connection, posting.completed)
            self._store.put_figures(connection, figures, posting.changed_figures)
            self._store.write(connection, page, leasing.rows)
            return results, {(key.place.brand_id, key.hour.date()) for key in posting.changed_figures}

        results, dirty = await self._move(work)
        self._dirty |= dirty
        return results

    async def _move(self, work: Callable[[Connection], T]) -> T:
        async with self._writing:
            answer = await self._store.transact(work)
            self.moves += 1
            return answer

    def _adopted(self, connection: Connection, events: Sequence[Event], now: dt.datetime) -> tuple[Page, Leasing]:
        """A page with the holds of wins that these events name and no replica has recorded yet.

        The replica may have died, or its next beat be on its way: the money was drawn from its lease all the same.
        """
        named = [(event.reservation_id, event) for event in events if event.reservation_id is not None]
        drawn = {id_: one for id_, _ in named if (one := decode(id_)) is not None}
        known = self._store.reservations(connection, drawn)
        sessions = self._store.sessions(connection, {drawn[id_].session_id for id_ in drawn.keys() - known.keys()})
        # Of several events that name the same win, only those of its own brand and partner are true.
        genuine = {
            id_: event
            for id_, event in named
            if id_ in drawn.keys() - known.keys()
            and (session := sessions.get(drawn[id_].session_id)) is not None
            and is_genuine(id_, event.brand_id, event.partner_id, session.secret)
        }
        leases = self._store.leases(
            connection,
            [LeaseKey(drawn[id_].session_id, event.brand_id, drawn[id_].day) for id_, event in genuine.items()],
        )
        keys = {key for lease, lent in leases.items() for key in _budget_keys_of(lease, lent)}
        page = self._page(connection, now, keys, leases)
        leasing = Leasing(page, {}, {}, {}, self._lifetimes, 1)
        for id_, event in sorted(genuine.items()):
            leasing.adopt(id_, _place(event))
        return page, leasing

    def _posting(
        self, connection: Connection, events: Sequence[Event], brands: Mapping[str, Brand], page: Page
    ) -> Posting:
        """The events with everything recorded that bears on them."""
        known = [event for event in events if event.brand_id in brands]
        hashes = self._store.event_hashes(
            connection, [(event.brand_id, event.partner_id, event.event_id) for event in known]
        )
        conversions = [event for event in known if event.type in ("conversion", "conversion_update")]
        clicks = self._store.clicks(
            connection,
            [
                (event.brand_id, event.click_id)
                for event in conversions
                if event.click_id is not None and (event.slot_id is None or event.reservation_id is None)
            ],
        )
        waiting = self._store.waiting(
            connection,
            [(event.brand_id, event.click_id) for event in known if event.type == "click" and event.click_id],
        )
        groups = self._store.conversions(
            connection,
            [(event.brand_id, event.conversion_id) for event in conversions if event.conversion_id] + waiting,
        )
        named = [event.reservation_id for event in known] + [row.reservation_id for row in (*clicks, *groups)]
        reservations = self._reservations(connection, {id_ for id_ in named if id_ is not None}, page)
        return Posting(page.now, events, brands, hashes, clicks, groups, reservations)

    def _reservations(self, connection: Connection, ids: set[str], page: Page) -> dict[str, Reservation]:
        """By the id that was named; a request's void win stands for the one that was recorded first."""
        found = self._store.reservations(connection, ids) | page.new_reservations
        instead = {id_: held.instead_id for id_, held in found.items() if held.instead_id is not None}
        first = self._store.reservations(connection, set(instead.values()))
        return found | first | {id_: first[other] for id_, other in instead.items() if other in first}

    def _page(
        self,
        connection: Connection,
        now: dt.datetime,
        keys: Iterable[BudgetKey],
        leases: Mapping[LeaseKey, Lent] | None = None,
    ) -> Page:
        return Page(now, self._store.budgets(connection, keys, lock=True), self._limit, leases or {})

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

    def _held(self, connection: Connection, found: Mapping[str, Reservation]) -> dict[str, Reservation]:
        """These reservations, once no other shard can be moving them."""
        if self._settings.shards == 1 or not found:
            return dict(found)
        self._named(connection, {held.brand_id for held in found.values()}, self._clock())
        return self._store.reservations(connection, found)

    def _limit(self, owner: str, owner_id: str) -> int | None:
        """The budget that a day begins with."""
        if owner == BRAND:
            return self._brands[owner_id].settings.daily_budget_micros
        portfolio = self._portfolios.get(owner_id)
        return None if portfolio is None else portfolio.settings.daily_budget_micros

    # Time

    async def sweep(self, in_turn: InTurn = at_once) -> int:
        """End what has expired, shrink what is due, start what was scheduled. Returns how many rows it looked at.

        The first shard looks at the holds, and at the leases of lapsed sessions, of all.

        Args:
            in_turn: runs one transaction; others may have theirs between two of the sweep's.
        """
        await in_turn(self._start_scheduled)
        await in_turn(lambda: self._move(self._lapse))
        if self.shard != 0:
            return 0
        while await in_turn(lambda: self._move(self._end_quarantines)) == SWEEP_ROWS:
            pass
        looked, goes_on = 0, True
        while goes_on:
            number, goes_on = await in_turn(lambda: self._move(self._sweep_some))
            looked += number
        return looked

    def _lapse(self, connection: Connection) -> None:
        """Sessions that have been silent for too long. After a start they all have their time again."""
        now = self._clock()
        silent_since = now - dt.timedelta(seconds=self._settings.lease_s + LAPSE_GRACE_S)
        if self._opened_at > silent_since:
            return
        for session in self._store.open_sessions(connection):
            if session.renewed_at <= silent_since:
                logger.warning("session %d is silent: its leases wait until its wins have expired", session.session_id)
                self._store.put_sessions(connection, [session._replace(status=LAPSED)])
                self._quarantine(connection, session.session_id, now)
        self._store.close_emptied(connection)

    def _quarantine(self, connection: Connection, session_id: int, now: dt.datetime) -> None:
        """What a session has not returned stays debited until the last win that it may have made has expired."""
        # Its last win may have been drawn until its lease ended, from an answer that it had just heard.
        drawing = dt.timedelta(seconds=self._settings.lease_s)
        ttl = dt.timedelta(seconds=self._lifetimes.reservation_ttl_s) + drawing
        lasting = max(ttl, dt.timedelta(days=self._lifetimes.conversion_days) + drawing)
        self._store.quarantine(connection, session_id, now + ttl, now + lasting)

    def _end_quarantines(self, connection: Connection) -> int:
        now = self._clock()
        leases = self._store.out_of_quarantine(connection, now, SWEEP_ROWS)
        if leases:
            if self._settings.shards > 1:
                self._named(connection, {key.brand_id for key in leases}, now)
                leases = self._store.leases(connection, leases)
            keys = {key for lease, lent in leases.items() for key in _budget_keys_of(lease, lent)}
            page = self._page(connection, now, keys, leases)
            for key, lent in sorted(leases.items()):
                page.take_back(key, lent.leased_micros)
            self._store.write(connection, page)
            self._store.close_emptied(connection)
        return len(leases)

    def _sweep_some(self, connection: Connection) -> Swept:
        now, moved = self._clock(), 0
        found = self._store.due(connection, now, SWEEP_ROWS)
        held = self._held(connection, {one.reservation_id: one for one in found})
        due = [held[one.reservation_id] for one in found if (held[one.reservation_id].due_at or NEVER) <= now]
        if due:
            page = self._page(connection, now, _keys_of(due))
            for reservation in due:
                page.look(reservation, self._curves.get(reservation.brand_id, linear))
            self._store.write(connection, page)
            moved = sum((page.current(held).due_at or NEVER) > now for held in due)
        return Swept(len(due), len(found) == SWEEP_ROWS and (moved > 0 or len(due) < len(found)))

    async def _start_scheduled(self) -> None:
        now = self._clock()
        due = [id_ for id_, brand in self._owned(now).items() if brand is not self._brands[id_]]
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

    def night_kappa(self, brand_id: str) -> float:
        """What the night's fit says of a brand's κ; without one its target."""
        brand = self._brands[brand_id].at(self._clock())
        portfolio = self._portfolios.get(brand.settings.portfolio_id or "")
        return night_kappa(brand, portfolio, self._fits.get(brand_id))

    def set_delay_curves(self, curves: Mapping[str, DelayCurve]) -> None:
        """How the holds of these brands' conversions shrink; others in a straight line."""
        self._curves = dict(curves)

    def throttle(self, brand_id: str) -> Throttle:
        return self._terms.throttle(brand_id)

    def take_dirty(self) -> set[BrandDay]:
        """Brand days (UTC) whose performance has changed since the last call."""
        dirty, self._dirty = self._dirty, set()
        return dirty

    def put_back_dirty(self, dirty: Iterable[BrandDay]) -> None:
        self._dirty |= set(dirty)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """A look at the database outside the ledger's own transactions.

        Raises:
            LedgerUnavailable: the database is away.
        """
        return await self._store.read(work)

    def brands(self) -> dict[str, BrandSettings]:
        """This shard's."""
        return {id_: brand.settings for id_, brand in self._owned(self._clock()).items()}

    def portfolios(self) -> dict[str, PortfolioSettings]:
        """This shard's."""
        shards = self._settings.shards
        return {
            id_: portfolio.settings
            for id_, portfolio in self._portfolios.items()
            if shard_of(id_, "", shards) == self.shard
        }

    def home_of(self, brand_id: str) -> int:
        """The shard of a brand; of one that is not known here, this one."""
        known = self._brands.get(brand_id)
        return self.shard if known is None else self._shard_of(known.at(self._clock()))

    async def budgets_today(self) -> dict[str, Budget]:
        """Every brand's budget of its today; this shard's brands."""
        now = self._clock()
        brands = self._owned(now)
        keys = {id_: BudgetKey(BRAND, id_, brand.day(now)) for id_, brand in brands.items()}
        rows = await self._store.read(lambda connection: self._store.budgets(connection, keys.values()))
        found = {budget.owner_id: budget for budget in rows}
        return {
            id_: found.get(id_) or Budget.of(*keys[id_], brand.settings.daily_budget_micros)
            for id_, brand in brands.items()
        }

    async def days_of(self, brand_ids: Collection[str]) -> dict[str, tuple[Budget, DaySums]]:
        """Today's budget of these brands, and what their today has brought so far."""
        now = self._clock()
        brands = {id_: brand for id_, brand in self._owned(now).items() if id_ in brand_ids}

        def work(connection: Connection) -> dict[str, tuple[Budget, DaySums]]:
            keys = {id_: BudgetKey(BRAND, id_, brand.day(now)) for id_, brand in brands.items()}
            budgets = {budget.owner_id: budget for budget in self._store.budgets(connection, keys.values())}
            by_zone: dict[str, list[str]] = {}
            for id_, brand in brands.items():
                by_zone.setdefault(brand.settings.timezone, []).append(id_)
            sums: dict[str, DaySums] = {}
            for zone, ids in by_zone.items():
                start = midnight(zone, day_of(zone, now))
                sums |= self._store.sums_since(connection, sorted(ids), start)
            return {
                id_: (
                    budgets.get(id_) or Budget.of(*keys[id_], brand.settings.daily_budget_micros),
                    sums.get(id_, DaySums()),
                )
                for id_, brand in brands.items()
            }

        return await self._store.read(work) if brands else {}

    async def traffic(self, days: int) -> list[tuple[str, int, float]]:
        """Impressions of the last days by brand and hour of its own day. Days that came without hours say none."""
        now = self._clock()
        since = (now - dt.timedelta(days=days)).date()
        rows = await self._store.read(lambda connection: self._store.impressions_by_hour(connection, since))
        brands = self._owned(now)
        offsets: dict[str, int] = {}
        for zone in {brand.settings.timezone for brand in brands.values()}:
            offset = now.astimezone(ZoneInfo(zone)).utcoffset() or dt.timedelta(0)
            offsets[zone] = round(offset.total_seconds() / 3600)
        return [
            (id_, (hour + offsets[brands[id_].settings.timezone]) % 24, number)
            for id_, hour, number in rows
            if id_ in brands
        ]

    def has_fit(self, brand_id: str) -> bool:
        return brand_id in self._fits

    def _make_terms(self) -> None:
        now = self._clock()
        self._terms.make(now, self.epoch, self._owned(now), self._portfolios, self._fits)
        arrivals = [known.scheduled.start for known in self._brands.values() if known.scheduled is not None]
        self._terms_end = min([self._terms.end, *(start for start in arrivals if start > now)])

    # Administration

    async def put_brand(self, brand_id: str, settings: BrandSettings) -> dict[str, Any]:
        """Create or replace. Budgets move at once; a change of portfolio or time zone starts at the next midnight.

        Raises:
            PortfolioUnknown, PortfolioMismatch, CurrencyFixed, OtherShard: nothing was changed.
        """

        def work(connection: Connection) -> Brand:
            now = self._clock()
            stored = (self._store.brands(connection, [brand_id], lock=True)).get(brand_id)
            known = stored.at(now) if stored is not None else None
            brand = Brand(brand_id, settings, now)
            if not self.owns(known or brand):
                raise OtherShard("brand", brand_id, self._shard_of(known or brand))
            self._check_portfolio(brand_id, settings)
            if known is not None:
                if known.settings.currency == settings.currency:
                    brand = _scheduled(known, settings, now)
                elif self._store.brand_money_moved(connection, brand_id):
                    raise CurrencyFixed("brand", brand_id, known.settings.currency)
                # Where no money has ever moved, no day needs to be finished: portfolio and time zone change at once.
                self._move_limit(connection, BRAND, brand_id, brand.day(now), settings.daily_budget_micros, now)
            self._store.put_brand(connection, brand, stored is None, now)
            return brand

        async with self._writing:
            brand = await self._store.transact(work)
            self._brands[brand_id] = brand
            self.moves += 1
            self._make_terms()
        return (await self._describe([brand]))[0]

    def _check_portfolio(self, brand_id: str, settings: BrandSettings) -> None:
        if settings.portfolio_id is None:
            return
        portfolio = self._portfolios.get(settings.portfolio_id)
        if portfolio is None:
            raise PortfolioUnknown(settings.portfolio_id)
        for field in ("currency", "timezone"):
            wanted, has = getattr(portfolio.settings, field), getattr(settings, field)
            if wanted != has:
                raise PortfolioMismatch(portfolio.portfolio_id, brand_id, field, wanted, has)

    async def put_portfolio(self, portfolio_id: str, settings: PortfolioSettings) -> dict[str, Any]:
        """Create or replace. Currency and time zone can change only while it has no members.

        Raises:
            PortfolioMismatch, CurrencyFixed, OtherShard: nothing was changed.
        """
        self._check_own_portfolio(portfolio_id)

        def work(connection: Connection) -> Portfolio:
            now = self._clock()
            known = (self._store.portfolios(connection)).get(portfolio_id)
            portfolio = Portfolio(portfolio_id, settings, now)
            for brand in self._brands.values():
                if _is_member(brand.at(now), portfolio_id):
                    for field in ("currency", "timezone"):
                        wanted = getattr(settings, field)
                        has = getattr(known.settings if known else settings, field)
                        if wanted != has:
                            raise PortfolioMismatch(portfolio_id, brand.brand_id, field, wanted, has)
            if known is not None:
                if known.settings.currency != settings.currency and self._store.portfolio_money_moved(
                    connection, portfolio_id
                ):
                    raise CurrencyFixed("portfolio", portfolio_id, known.settings.currency)
                day = day_of(settings.timezone, now)
                self._move_limit(connection, PORTFOLIO, portfolio_id, day, settings.daily_budget_micros, now)
            self._store.put_portfolio(connection, portfolio, known is None, now)
            return portfolio

        async with self._writing:
            self._portfolios[portfolio_id] = await self._store.transact(work)
            self._make_terms()
        return await self.get_portfolio(portfolio_id)

    def _check_own_portfolio(self, portfolio_id: str) -> None:
        home = shard_of(portfolio_id, "", self._settings.shards)
        if home != self.shard:
            raise OtherShard("portfolio", portfolio_id, home)

    def _move_limit(
        self, connection: Connection, owner: str, owner_id: str, day: dt.date, limit: int | None, now: dt.datetime
    ) -> None:
        """Top up or cut a day that has begun; one that has not begins with the new budget."""
        key = BudgetKey(owner, owner_id, day)
        page = self._page(connection, now, [key])
        if key in page.existing:
            page.set_limit(key, limit)
            self._store.write(connection, page)

    async def get_brand(self, brand_id: str) -> dict[str, Any]:
        """Settings, today's budget and results, λ and throttle, as GET /api/brands/{brand_id} shows them.

        Raises:
            NotFound: no such brand.
            OtherShard: it is another shard's.
        """
        if brand_id not in self._brands:
            await self.refresh()
        if brand_id not in self._brands:
            raise NotFound("brand", brand_id)
        if (home := self.home_of(brand_id)) != self.shard:
            raise OtherShard("brand", brand_id, home)
        return (await self._describe([self._brands[brand_id]]))[0]

    async def list_brands(self, cursor: str | None = None, limit: int = 100) -> tuple[list[dict[str, Any]], str | None]:
        """A page of this shard's brands by their ids, and the cursor of the next page (None: that was the last)."""
        ids = sorted(id_ for id_ in self._owned(self._clock()) if cursor is None or id_ > cursor)
        page = ids[: max(1, limit)]
        brands = await self._describe([self._brands[id_] for id_ in page])
        return brands, page[-1] if len(page) < len(ids) else None

    async def _describe(self, brands: Sequence[Brand]) -> list[dict[str, Any]]:
        now = self._clock()
        current = [brand.at(now) for brand in brands]

        def work(connection: Connection) -> list[dict[str, Any]]:
            keys = [BudgetKey(BRAND, brand.brand_id, brand.day(now)) for brand in current]
            rows = {budget.owner_id: budget for budget in self._store.budgets(connection, keys)}
            shown = []
            for brand, key in zip(current, keys, strict=True):
                budget = rows.get(brand.brand_id) or Budget.of(*key, brand.settings.daily_budget_micros)
                cost, revenue = self._results(connection, brand, key.day)
                shown.append(self._shown(brand, budget, cost, revenue))
            return shown

        return await self._store.read(work)

    def _lambda(self, brand_id: str) -> float:
        """As replicas have it; of another shard's brand, its night's."""
        terms = self._terms.newest.brands.get(brand_id)
        if terms is not None:
            return terms.lambda_
        return lambda_(self._brands[brand_id].settings.strategy_multiplier, self.night_kappa(brand_id))

    def _results(self, connection: Connection, brand: Brand, day: dt.date) -> tuple[int, int]:
        start = midnight(brand.settings.timezone, day)
        end = midnight(brand.settings.timezone, day + dt.timedelta(days=1))
        return self._store.results(connection, brand.brand_id, start, end)

    def _shown(self, brand: Brand, budget: Budget, cost: int, revenue: int) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "brand_id": brand.brand_id,
            **brand.settings.model_dump(),
            "today": {**_states(budget), "cost": cost, "revenue": revenue, "roas": revenue / cost if cost else None},
            "lambda": self._lambda(brand.brand_id),
            "throttled": self.throttle(brand.brand_id).throttled,
        }
        if notes := _notes(budget):
            shown["notes"] = notes
        if brand.scheduled is not None:
            shown["scheduled"] = {
                "portfolio_id": brand.scheduled.portfolio_id,
                "timezone": brand.scheduled.timezone,
                "from": brand.scheduled.start,
            }
        return shown

    async def get_portfolio(self, portfolio_id: str) -> dict[str, Any]:
        """Settings, members and today's budget.

        Raises:
            NotFound: no such portfolio.
            OtherShard: it is another shard's.
        """
        self._check_own_portfolio(portfolio_id)
        if portfolio_id not in self._portfolios:
            await self.refresh()
        portfolio = self._portfolios.get(portfolio_id)
        if portfolio is None:
            raise NotFound("portfolio", portfolio_id)
        now = self._clock()
        key = BudgetKey(PORTFOLIO, portfolio_id, day_of(portfolio.settings.timezone, now))
        rows = await self._store.read(lambda connection: self._store.budgets(connection, [key]))
        budget = rows[0] if rows else Budget.of(*key, portfolio.settings.daily_budget_micros)
        members = sorted(id_ for id_, brand in self.brands().items() if brand.portfolio_id == portfolio_id)
        return {
            "portfolio_id": portfolio_id,
            **portfolio.settings.model_dump(),
            "brand_ids": members,
            "today": _states(budget),
            **({"notes": notes} if (notes := _notes(budget)) else {}),
        }


def _scheduled(known: Brand, settings: BrandSettings, now: dt.datetime) -> Brand:
    """The new settings; portfolio and time zone stay what they are until the brand's next midnight."""
    here = {"portfolio_id": known.settings.portfolio_id, "timezone": known.settings.timezone}
    if here == {"portfolio_id": settings.portfolio_id, "timezone": settings.timezone}:
        return Brand(known.brand_id, settings, now)
    start = known.scheduled.start if known.scheduled else day_ends_at(known.settings.timezone, now)
    scheduled = Scheduled(settings.portfolio_id, settings.timezone, start)
    return Brand(known.brand_id, settings.model_copy(update=here), now, scheduled)


def _is_member(brand: Brand, portfolio_id: str) -> bool:
    coming = brand.scheduled.portfolio_id if brand.scheduled else None
    return portfolio_id in (brand.settings.portfolio_id, coming)


def _keys_of(reservations: Iterable[Any]) -> set[BudgetKey]:
    return {key for held in reservations for key in budget_keys(held.brand_id, held.portfolio_id, held.day)}


def _is_stale(beat: Beat, sessions: Mapping[int, Session]) -> bool:
    """A later beat of its session has been answered."""
    session = sessions.get(beat.session_id or 0)
    return session is not None and beat.number <= session.beat


def _with_grants(reply: Reply, answers: Iterable[tuple[str, Grant | str | None]]) -> Reply:
    answers = list(answers)
    return replace(
        reply,
        grants=tuple(answer for _, answer in answers if isinstance(answer, Grant)),
        refused={brand_id: answer for brand_id, answer in answers if isinstance(answer, str)},
    )


def _budget_keys_of(lease: LeaseKey, lent: Lent) -> list[BudgetKey]:
    return budget_keys(lease.brand_id, lent.portfolio_id, lease.day)


def _place(event: Event) -> Tuple:
    """Where the event says that the win was; an event need not say it."""
    unknown = event.slot_id or "", event.device_type or "", event.creative_type or ""
    return Tuple(event.brand_id, event.partner_id, *unknown, event.placement_score)


def _notes(budget: Budget) -> list[str]:
    """What somebody who has just cut a budget should know."""
    if not budget.excess_micros:
        return []
    return [
        f"today's budget of {budget.budget_micros} µ is less than what is out already: "
        f"{budget.leased_micros} µ leased, {budget.reserved_micros} µ reserved, {budget.settled_micros} µ settled. "
        f"Nothing new is lent today until {budget.excess_micros} µ have come back."
    ]


def _states(budget: Budget) -> dict[str, int | None]:
    return {
        "budget": budget.budget_micros,
        "available": budget.available_micros,
        "leased": budget.leased_micros,
        "reserved": budget.reserved_micros,
        "settled": budget.settled_micros,
        "excess": budget.excess_micros,
        "overspend": budget.overspend_micros,
    }
