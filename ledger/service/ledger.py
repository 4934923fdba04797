"""The ledger without Ray: reads rows, lets the pure rules decide, writes rows, all in one fenced transaction.

The database is the truth: no balance is remembered between two transactions.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, TypeVar

from sqlalchemy import Connection

from ledger.bidding.terms import NEVER
from ledger.domain.brand import Brand
from ledger.domain.messages import Beat, Event, Grant, Placement, Reply, Result
from ledger.domain.reservation import RETURNED, Reservation, linear
from ledger.domain.reservation_ids import DecodedId, decode, decode_all, is_genuine
from ledger.service.administration import Administration
from ledger.service.directory import BrandDay
from ledger.storage.store import CLOSED, LAPSED, OPEN, LedgerSession
from ledger.transaction.event_posting import EventPosting
from ledger.transaction.lease_granting import LeaseGranting, LeaseMismatch
from ledger.transaction.working_set import BudgetKey, LeaseKey, Lent, WorkingSet, budget_keys

T = TypeVar("T")
logger = logging.getLogger("paceline.ledger")
SWEEP_ROWS = 500
"""Holds that one transaction looks at: a long queue of expiries lets reservations through in between."""

LAPSE_GRACE_S = 2.0
"""A silent session lapses this much after its leases have ended by the replica's own clock: the two may differ."""


class InTurn(Protocol):
    def __call__(self, work: Callable[[], Awaitable[T]], /) -> Awaitable[T]: ...


def at_once(work: Callable[[], Awaitable[T]], /) -> Awaitable[T]:
    return work()


class Swept(NamedTuple):
    looked: int
    goes_on: bool  # more may be due; never after a look that changed nothing


class _Due(NamedTuple):
    """What a sweep has to do."""

    lapses: bool
    quarantines: bool
    holds: bool


class _Beaten(NamedTuple):
    """What a transaction of beats has done."""

    replies: list[Reply]
    recalls: set[tuple[int, str]]  # session, brand: asked to return what it does not use
    live: list[Beat]  # those that were not stale


class Ledger(Administration):
    """One shard's budgets. Make it with `open`; the newest one to be opened is the only one that can write.

    Its methods may be called concurrently: writes wait for each other.
    """

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
            ending = self._ending(connection, live)
            named = self._named(connection, _touched(live, ending), now)
            wins = [win for beat in live for win in beat.wins]
            drawn = decode_all([win.reservation_id for win in wins])
            taken = _taken(live, drawn)
            said = {line.brand_id for beat in live for line in beat.lines} | {win.where.brand_id for win in wins}
            brands = {id_: brand for id_, brand in named.items() if id_ in said and self.owns(brand)}
            leases = ending | self._leases_of(connection, live, taken, brands, now)
            keys = {
                key
                for brand in brands.values()
                for key in budget_keys(brand.brand_id, brand.settings.portfolio_id, brand.day(now))
            }
            page = self._page(connection, now, keys, leases)
            leasing = LeaseGranting(
                page,
                brands,
                self._store.reservations(connection, [win.reservation_id for win in wins]),
                self._store.recorded(connection, [(win.sub, win.request_id) for win in wins]),
                self._lifetimes,
                len(self._store.open_sessions(connection)),
                self._called_to_mind(connection, live, taken, leases),
            )
            replies = []
            for beat in beats:
                if beat.session_id is None:
                    session = self._store.open_session(connection, self._secrets(), beat.number - 1, now)
                    sessions[session.session_id] = session
                    beat = replace(beat, session_id=session.session_id)
                replies.append(self._answer(beat, sessions, drawn, leasing, page, now))
            before = {id_: one.status for id_, one in known.items()}
            self._store.put_sessions(connection, sessions.values())
            self._store.write(connection, page, leasing.rows)
            for session in sessions.values():
                if session.status == LAPSED and before.get(session.session_id) == OPEN:
                    self._quarantine(connection, session.session_id, now)
            self._store.complete_reservations(connection, leasing.completed)
            asking = {(beat.session_id, line.brand_id) for beat in live for line in beat.lines if line.want_micros}
            lenders = self._store.lenders(connection, leasing.short) if leasing.short else {}
            recalls = {(key.session_id, key.brand_id) for key in lenders} - asking
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
        self,
        connection: Connection,
        beats: Sequence[Beat],
        taken: Mapping[LeaseKey, int],
        leases: Mapping[LeaseKey, Lent],
    ) -> dict[LeaseKey, int]:
        """What events have called to mind of the wins of sessions that seem to hold more than is lent to them.

        A win may be drawn, and its event may come, while a beat is under way that states what was held before.
        """
        stated = Counter(taken)
        for beat in beats:
            if beat.session_id is not None:
                for line in beat.lines:
                    stated[LeaseKey(beat.session_id, line.brand_id, line.day)] += line.holds_micros
        more = {key.session_id for key, micros in stated.items() if micros > leases.get(key, Lent(None)).leased_micros}
        return self._store.called_to_mind(connection, more)

    def _ending(self, connection: Connection, beats: Sequence[Beat]) -> dict[LeaseKey, Lent]:
        """All leases of sessions that say their last."""
        last = [beat.session_id for beat in beats if beat.is_last and beat.session_id is not None]
        return {key: lent for id_ in last for key, lent in self._store.leases_of(connection, id_).items()}

    def _leases_of(
        self,
        connection: Connection,
        beats: Sequence[Beat],
        taken: Mapping[LeaseKey, int],
        brands: Mapping[str, Brand],
        now: dt.datetime,
    ) -> dict[LeaseKey, Lent]:
        """The leases that these beats name.

        Args:
            taken: what their wins take.
        """
        keys = set(taken)
        for beat in beats:
            session_id = beat.session_id
            if session_id is None:
                continue
            for line in beat.lines:
                keys.add(LeaseKey(session_id, line.brand_id, line.day))
                if (brand := brands.get(line.brand_id)) is not None:
                    keys.add(LeaseKey(session_id, line.brand_id, brand.day(now)))
        return self._store.leases(connection, keys)

    def _answer(
        self,
        beat: Beat,
        sessions: dict[int, LedgerSession],
        drawn: Mapping[str, DecodedId | None],
        leasing: LeaseGranting,
        page: WorkingSet,
        now: dt.datetime,
    ) -> Reply:
        """What a beat does. `sessions` is brought up to date."""
        assert beat.session_id is not None
        session = sessions.get(beat.session_id)
        if session is None:  # of another database
            return Reply(beat.session_id, b"", now, 0.0, is_open=False)
        reply = Reply(session.session_id, session.secret, now, self._settings.lease_s, session.status == OPEN)
        if _is_stale(beat, sessions):
            return reply  # nobody waits for it: a later one has been answered
        leasing.record_all(session.session_id, beat.wins, drawn)
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

    # Events and releases

    async def end_sessions(self, since: dt.datetime) -> int:
        """The end of all replicas: leases of those that were heard after `since` go back. Returns how many are left.

        Args:
            since: nothing has been drawn any more from then on.
        """

        def work(connection: Connection) -> int:
            now = self._clock()
            sessions = self._store.open_sessions(connection)
            heard = [session for session in sessions if session.renewed_at > since]
            leases = {
                key: lent for one in heard for key, lent in self._store.leases_of(connection, one.session_id).items()
            }
            self._named(connection, {key.brand_id for key in leases}, now)
            self._take_back(connection, now, leases)
            self._store.put_sessions(connection, [session._replace(status=CLOSED) for session in heard])
            return sum(bool(self._store.leases_of(connection, one.session_id)) for one in sessions if one not in heard)

        return await self._move(work)

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

    def _adopted(
        self, connection: Connection, events: Sequence[Event], now: dt.datetime
    ) -> tuple[WorkingSet, LeaseGranting]:
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
        page = self._page(connection, now, (), leases)
        leasing = LeaseGranting(page, {}, {}, {}, self._lifetimes, 1)
        for id_, event in sorted(genuine.items()):
            leasing.adopt(id_, _place(event))
        return page, leasing

    def _posting(
        self, connection: Connection, events: Sequence[Event], brands: Mapping[str, Brand], page: WorkingSet
    ) -> EventPosting:
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
        return EventPosting(page.now, events, brands, hashes, clicks, groups, reservations)

    def _reservations(self, connection: Connection, ids: set[str], page: WorkingSet) -> dict[str, Reservation]:
        """By the id that was named; a request's void win stands for the one that was recorded first."""
        found = self._store.reservations(connection, ids) | page.new_reservations
        instead = {id_: held.instead_id for id_, held in found.items() if held.instead_id is not None}
        first = self._store.reservations(connection, set(instead.values()))
        return found | first | {id_: first[other] for id_, other in instead.items() if other in first}

    def _held(self, connection: Connection, found: Mapping[str, Reservation]) -> dict[str, Reservation]:
        """These reservations, once no other shard can be moving them."""
        if self._settings.shards == 1 or not found:
            return dict(found)
        self._named(connection, {held.brand_id for held in found.values()}, self._clock())
        return self._store.reservations(connection, found)

    # Time

    async def sweep(self, in_turn: InTurn = at_once) -> int:
        """End what has expired, shrink what is due, start what was scheduled. Returns how many rows it looked at.

        The first shard looks at the holds, and at the leases of lapsed sessions, of all.

        Args:
            in_turn: runs one transaction; others may have theirs between two of the sweep's.
        """
        await in_turn(self._start_scheduled)
        due = await self._store.look(self._due)  # in most seconds nothing is, and no lock is taken
        if due.lapses:
            await in_turn(lambda: self._move(self._lapse))
        while due.quarantines:
            due = due._replace(quarantines=await in_turn(lambda: self._move(self._end_quarantines)) == SWEEP_ROWS)
        looked, goes_on = 0, due.holds
        while goes_on:
            number, goes_on = await in_turn(lambda: self._move(self._sweep_some))
            looked += number
        return looked

    def _due(self, connection: Connection) -> _Due:
        now, is_first = self._clock(), self.shard == 0
        return _Due(
            bool(self._silent(connection, now)) or self._store.has_emptied(connection),
            is_first and bool(self._store.out_of_quarantine(connection, now, 1)),
            is_first and bool(self._store.due(connection, now, 1)),
        )

    def _silent(self, connection: Connection, now: dt.datetime) -> list[LedgerSession]:
        """Sessions that have been silent for too long. After a start they all have their time again."""
        silent_since = now - dt.timedelta(seconds=self._settings.lease_s + LAPSE_GRACE_S)
        if self._opened_at > silent_since:
            return []
        return [session for session in self._store.open_sessions(connection) if session.renewed_at <= silent_since]

    def _lapse(self, connection: Connection) -> None:
        now = self._clock()
        for session in self._silent(connection, now):
            logger.warning("session %d is silent: its leases wait until its wins have expired", session.session_id)
            self._store.put_sessions(connection, [session._replace(status=LAPSED)])
            self._quarantine(connection, session.session_id, now)
            self._recalls.pop(session.session_id, None)
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
            self._take_back(connection, now, leases)
            self._store.close_emptied(connection)
        return len(leases)

    def _take_back(self, connection: Connection, now: dt.datetime, leases: Mapping[LeaseKey, Lent]) -> None:
        """All of these leases."""
        page = self._page(connection, now, (), leases)
        for key, lent in sorted(leases.items()):
            page.take_back(key, lent.leased_micros)
        self._store.write(connection, page)

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


def _keys_of(reservations: Iterable[Any]) -> set[BudgetKey]:
    return {key for held in reservations for key in budget_keys(held.brand_id, held.portfolio_id, held.day)}


def _is_stale(beat: Beat, sessions: Mapping[int, LedgerSession]) -> bool:
    """A later beat of its session has been answered."""
    session = sessions.get(beat.session_id or 0)
    return session is not None and beat.number <= session.beat


def _touched(beats: Sequence[Beat], ending: Iterable[LeaseKey]) -> set[str]:
    """The brands that these beats bear on."""
    ids = {line.brand_id for beat in beats for line in beat.lines}
    ids |= {win.where.brand_id for beat in beats for win in beat.wins}
    return ids | {key.brand_id for key in ending}


def _taken(beats: Sequence[Beat], drawn: Mapping[str, DecodedId | None]) -> dict[LeaseKey, int]:
    """What these beats' wins take from each lease."""
    found: dict[LeaseKey, int] = {}
    for beat in beats:
        if beat.session_id is None:
            continue
        micros_of: dict[tuple[str, dt.date], int] = {}
        for win in beat.wins:
            if (one := drawn[win.reservation_id]) is not None:
                key = win.where.brand_id, one.day
                micros_of[key] = micros_of.get(key, 0) + one.amount_micros
        for (brand_id, day), micros in micros_of.items():
            lease = LeaseKey(beat.session_id, brand_id, day)
            found[lease] = found.get(lease, 0) + micros
    return found


def _with_grants(reply: Reply, answers: Iterable[tuple[str, Grant | str | None]]) -> Reply:
    answers = list(answers)
    return replace(
        reply,
        grants=tuple(answer for _, answer in answers if isinstance(answer, Grant)),
        refused={brand_id: answer for brand_id, answer in answers if isinstance(answer, str)},
    )


def _place(event: Event) -> Placement:
    """Where the event says that the win was; an event need not say it."""
    unknown = event.slot_id or "", event.device_type or "", event.creative_type or ""
    return Placement(event.brand_id, event.partner_id, *unknown, event.placement_score)
