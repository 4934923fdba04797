"""Answers replicas' beats: one transaction records wins, takes back what replicas do not hold, and grants leases."""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from sqlalchemy import Connection

from ledger.domain.brand import Brand
from ledger.domain.messages import Beat, Grant, Reply, WinRecord
from ledger.domain.reservation import Lifetimes
from ledger.domain.reservation_ids import DecodedId, decode_all
from ledger.service.budgets import Budgets
from ledger.service.directory import Clock, Directory
from ledger.service.live_terms import LiveTerms
from ledger.service.sessions import Sessions
from ledger.service.transactions import Transactions
from ledger.storage.session_store import CLOSED, LAPSED, OPEN, LedgerSession
from ledger.storage.store import Store
from ledger.transaction.lease_granting import LeaseGranting, LeaseMismatch
from ledger.transaction.working_set import LeaseKey, Lent, WorkingSet, budget_keys

logger = logging.getLogger("paceline.ledger")
DecodedIds = Mapping[str, DecodedId | None]


class _Answered(NamedTuple):
    """The result of a transaction of beats."""

    replies: list[Reply]
    recalls: set[tuple[int, str]]  # (session id, brand id) to ask for what it does not use
    live: list[Beat]  # those that were not stale


@dataclass(slots=True)
class _InHand:
    """What a transaction of beats has read, and what it changes."""

    now: dt.datetime
    before: dict[int, LedgerSession]
    sessions: dict[int, LedgerSession]  # as the beats leave them
    live: list[Beat]
    decoded: DecodedIds  # of all wins
    working_set: WorkingSet
    leasing: LeaseGranting


class Beats:
    """
    Args:
        secrets: makes a new session's secret.
        lease_s: how long a lease may be drawn on from when its beat was sent.
    """

    def __init__(
        self,
        store: Store,
        directory: Directory,
        budgets: Budgets,
        sessions: Sessions,
        terms: LiveTerms,
        transactions: Transactions,
        lifetimes: Lifetimes,
        lease_s: float,
        clock: Clock,
        secrets: Callable[[], bytes],
    ) -> None:
        self._store, self._directory, self._budgets, self._sessions = store, directory, budgets, sessions
        self._terms, self._transactions, self._lifetimes, self._lease_s = terms, transactions, lifetimes, lease_s
        self._clock, self._secrets = clock, secrets

    async def answer(self, beats: Sequence[Beat]) -> list[Reply]:
        """See `Ledger.beat`."""

        def work(connection: Connection) -> _Answered:
            in_hand = self._read(connection, beats)
            replies = [self._answer(self._with_session(connection, beat, in_hand), in_hand) for beat in beats]
            self._write(connection, in_hand)
            return _Answered(replies, self._recalls(connection, in_hand), in_hand.live)

        replies, recalls, live = await self._transactions.move(work)
        for session_id, brand_id in recalls:
            self._sessions.recall(session_id, brand_id)
        return [
            replace(
                reply,
                # A stale beat's reply is not read.
                recalled=self._sessions.take_recalled(reply.session_id) if beat in live else (),
                terms=self._terms.since(beat.known_version),
            )
            for beat, reply in zip(beats, replies, strict=True)
        ]

    # Read

    def _read(self, connection: Connection, beats: Sequence[Beat]) -> _InHand:
        """Read everything that these beats concern."""
        now = self._clock()
        known = self._store.sessions.load(connection, {beat.session_id for beat in beats if beat.session_id})
        live = [beat for beat in beats if not _is_stale(beat, known)]
        ending = self._ending(connection, live)
        named = self._directory.read_as_of(connection, _touched(live, ending), now)
        wins = [win for beat in live for win in beat.wins]
        decoded = decode_all([win.reservation_id for win in wins])
        taken = _taken(live, decoded)
        stated = {line.brand_id for beat in live for line in beat.lines} | {win.where.brand_id for win in wins}
        brands = {id_: brand for id_, brand in named.items() if id_ in stated and self._directory.owns(brand)}
        leases = ending | self._leases_of(connection, live, taken, brands, now)
        holds = self._store.reservations.load(connection, [win.reservation_id for win in wins])
        days = [(brand.brand_id, brand.settings.portfolio_id, brand.day(now)) for brand in brands.values()]
        days += [(held.brand_id, held.portfolio_id, held.day) for held in holds.values()]
        keys = {key for day in days for key in budget_keys(*day)}
        working_set = self._budgets.working_set(connection, now, keys, leases)
        leasing = LeaseGranting(
            working_set,
            brands,
            holds,
            self._store.reservations.recorded(connection, [(win.sub, win.request_id) for win in wins]),
            self._lifetimes,
            len(self._store.sessions.all_open(connection)),
            self._adopted(connection, live, taken, leases),
            {
                win.reservation_id: details
                for beat in live
                for win, details in zip(beat.wins, beat.details, strict=False)
            },
            self._terms.slack_prices(brands.values()),
        )
        return _InHand(now, known, dict(known), live, decoded, working_set, leasing)

    def _ending(self, connection: Connection, beats: Sequence[Beat]) -> dict[LeaseKey, Lent]:
        """All leases of sessions whose last beat is among these."""
        last = [beat.session_id for beat in beats if beat.is_last and beat.session_id is not None]
        return {key: lent for id_ in last for key, lent in self._store.leases.of_session(connection, id_).items()}

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
            taken: by lease, what the beats' wins take from it.
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
        return self._store.leases.load(connection, keys)

    def _adopted(
        self,
        connection: Connection,
        beats: Sequence[Beat],
        taken: Mapping[LeaseKey, int],
        leases: Mapping[LeaseKey, Lent],
    ) -> dict[LeaseKey, int]:
        """By lease, the micros of holds made from events, for sessions that state more than is lent to them.

        A win may be drawn, and its event recorded, while a beat is under way that still states what was held before.
        """
        stated = Counter(taken)
        for beat in beats:
            if beat.session_id is not None:
                for line in beat.lines:
                    stated[LeaseKey(beat.session_id, line.brand_id, line.day)] += line.holds_micros
        more = {key.session_id for key, micros in stated.items() if micros > leases.get(key, Lent(None)).leased_micros}
        return self._store.reservations.adopted(connection, more)

    # Answer

    def _with_session(self, connection: Connection, beat: Beat, in_hand: _InHand) -> Beat:
        """The beat, with a new session if it asks for one."""
        if beat.session_id is not None:
            return beat
        session = self._store.sessions.open(connection, self._secrets(), beat.number - 1, in_hand.now)
        in_hand.sessions[session.session_id] = session
        return replace(beat, session_id=session.session_id)

    def _answer(self, beat: Beat, in_hand: _InHand) -> Reply:
        """Apply one beat to the working set, and make its reply."""
        assert beat.session_id is not None
        session, now, leasing = in_hand.sessions.get(beat.session_id), in_hand.now, in_hand.leasing
        if session is None:  # of another database
            return Reply(beat.session_id, b"", now, 0.0, is_open=False)
        reply = Reply(session.session_id, session.secret, now, self._lease_s, session.status == OPEN)
        if _is_stale(beat, in_hand.sessions):
            return reply  # a later one has been answered, so this reply is not read
        leasing.record_all(session.session_id, beat.wins, in_hand.decoded)
        status = session.status
        if beat.is_last:
            leasing.return_all([key for key in in_hand.working_set.leases if key.session_id == session.session_id])
            status = CLOSED
        elif status == OPEN:
            try:
                answers = [(line.brand_id, leasing.grant(session.session_id, line)) for line in beat.lines]
                lent = [
                    (line.brand_id, more.is_wanting, leasing.grant_slack(session.session_id, line, more))
                    for line, more in beat.slack_lines()
                ]
                slack = {brand_id: micros for brand_id, is_wanting, micros in lent if is_wanting}
                reply = replace(_with_grants(reply, answers), slack=slack)
            except LeaseMismatch as error:
                logger.error("%s; the session ends, its leases are quarantined", error)
                status = LAPSED
        renewed_at = now if status == OPEN else session.renewed_at
        after = session._replace(status=status, beat=beat.number, renewed_at=renewed_at)
        in_hand.sessions[session.session_id] = after
        return replace(reply, is_open=status == OPEN)

    # Write

    def _write(self, connection: Connection, in_hand: _InHand) -> None:
        before = {id_: one.status for id_, one in in_hand.before.items()}
        self._store.sessions.put(connection, in_hand.sessions.values())
        self._store.write(connection, in_hand.working_set, in_hand.leasing.rows)
        for session in in_hand.sessions.values():
            if session.status == LAPSED and before.get(session.session_id) == OPEN:
                self._sessions.quarantine(connection, session.session_id, in_hand.now)
        self._store.reservations.complete(connection, in_hand.leasing.completed)

    def _recalls(self, connection: Connection, in_hand: _InHand) -> set[tuple[int, str]]:
        """Sessions to recall from: they hold leases of budgets that ran short for others, and asked for no more."""
        live, short = in_hand.live, in_hand.leasing.short
        asking = {(beat.session_id, line.brand_id) for beat in live for line in beat.lines if line.want_micros}
        lenders = self._store.leases.lenders(connection, short) if short else {}
        return {(key.session_id, key.brand_id) for key in lenders} - asking


def _is_stale(beat: Beat, sessions: Mapping[int, LedgerSession]) -> bool:
    """Whether a later beat of its session has been answered."""
    session = sessions.get(beat.session_id or 0)
    return session is not None and beat.number <= session.beat


def _touched(beats: Sequence[Beat], ending: Iterable[LeaseKey]) -> set[str]:
    """The brands that these beats concern."""
    ids = {line.brand_id for beat in beats for line in beat.lines}
    ids |= {win.where.brand_id for beat in beats for win in beat.wins}
    return ids | {key.brand_id for key in ending}


def _taken(beats: Sequence[Beat], decoded: DecodedIds) -> dict[LeaseKey, int]:
    """What these beats' wins take from each lease."""
    found: dict[LeaseKey, int] = {}
    for beat in beats:
        if beat.session_id is None:
            continue
        for (brand_id, day), micros in _amounts(beat.wins, decoded).items():
            lease = LeaseKey(beat.session_id, brand_id, day)
            found[lease] = found.get(lease, 0) + micros
    return found


def _amounts(wins: Sequence[WinRecord], decoded: DecodedIds) -> dict[tuple[str, dt.date], int]:
    """What these wins hold in micros, by (brand id, day)."""
    micros_of: dict[tuple[str, dt.date], int] = {}
    for win in wins:
        if (one := decoded[win.reservation_id]) is not None:
            key = win.where.brand_id, one.day
            micros_of[key] = micros_of.get(key, 0) + one.amount_micros
    return micros_of


def _with_grants(reply: Reply, answers: Iterable[tuple[str, Grant | str | None]]) -> Reply:
    answers = list(answers)
    return replace(
        reply,
        grants=tuple(answer for _, answer in answers if isinstance(answer, Grant)),
        refused={brand_id: answer for brand_id, answer in answers if isinstance(answer, str)},
    )
