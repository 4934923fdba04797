"""What must be true of a simulated history, kept in dicts apart from the code, and compared with the tables.

The model is told what replicas answered and heard, what the ledger said of each event, and what the clocks showed. It
knows no lease, no page and no statement of the code that moves the money.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import select, text

from db import tables as t
from db.times import AHEAD, IN_THE_FUTURE
from ledger.domain.messages import Beat, Event, Grant, Offer, Result, Win
from ledger.domain.reservation_ids import decode
from ledger.domain.settings import LedgerSettings
from ledger.invariants import CHECKS
from tests.faults.books import Books

SLACK = dt.timedelta(milliseconds=50)
"""Two clocks that differ by 0.1 % drift apart by so much while a lease lasts."""

AROUND_MIDNIGHT = dt.timedelta(seconds=2)
"""… and by so much while it is renewed: what is idle for a minute goes back."""

DRIFT = 1.0011
_R, _E, _B, _L, _J = t.reservations.c, t.events.c, t.budget_days.c, t.leases.c, t.ledger_journal.c
_AUDIT = [(check.promise, text(f"{check.query} LIMIT 1")) for check in CHECKS]

LONG_AGO = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

EventKey = tuple[str, str, str]
Owner = tuple[str, str]
"""brand | portfolio, id"""


class Broken(AssertionError):
    """A promise is broken."""


@dataclass(slots=True)
class Answered:
    """A win that a caller has heard of."""

    win: Win
    offer: Offer
    day: dt.date
    session_id: int
    request: tuple[str, str]
    award_id: str
    expires_at: dt.datetime  # the earlier of what was promised and what the ledger's clock says
    era: int  # how often the ledger's clock had gone back
    by: str  # the replica
    may_have_ended: bool = False  # released, or an event ended it, or either is not known
    is_recorded: bool = False


@dataclass(slots=True)
class Model:
    books: Books
    settings: LedgerSettings
    wins: dict[str, Answered] = field(default_factory=dict)
    awards: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    """The answers that each request has got: of several, one is paid."""
    granted: Counter[tuple[int, str, dt.date]] = field(default_factory=Counter)
    drawn: Counter[tuple[int, str, dt.date]] = field(default_factory=Counter)
    events: dict[EventKey, tuple[Event, dt.date, str | None]] = field(default_factory=dict)
    """Accepted: with the budget day and portfolio that its cost belongs to."""
    unsure: set[EventKey] = field(default_factory=set)
    """Sent, and not answered."""
    loose: set[tuple[str, str, dt.date]] = field(default_factory=set)
    """Budget days that may be overspent: they were cut, or had a cost that no hold stood behind."""
    portfolios: dict[str, set[str | None]] = field(default_factory=lambda: defaultdict(set))
    """Those that each brand was ever in, or meant to be."""
    latest: dt.datetime = LONG_AGO
    """The furthest that the ledger's clock has ever been."""
    era: int = 0

    # What replicas do

    def hears(self, grants: Iterable[Grant], session_id: int) -> None:
        for grant in grants:
            self.granted[session_id, grant.brand_id, grant.day] += grant.micros

    def answers(
        self,
        by: str,
        win: Win,
        offer: Offer,
        request: tuple[str, str],
        award_id: str,
        wall: dt.datetime,
        days: set[dt.date],
    ) -> None:
        """A replica has answered a win.

        Args:
            days: the brand's today, give or take what clocks may be wrong by; empty: it cannot know.
        """
        drawn = decode(win.reservation_id)
        assert drawn is not None
        key = drawn.session_id, offer.where.brand_id, drawn.day
        self.drawn[key] += offer.amount_micros
        if self.drawn[key] > self.granted[key]:
            raise Broken(f"more was answered than was lent: {key} {self.drawn[key]} > {self.granted[key]}")
        if days and drawn.day not in days:
            raise Broken(f"a win of {offer.where.brand_id} is on {drawn.day}, its today is {sorted(days)}")
        if win.reservation_id in self.wins:
            raise Broken(f"the reservation id has been used before: {win.reservation_id}")
        lifetime = dt.timedelta(seconds=self.settings.reservation_ttl_s)
        if offer.pricing_model in ("cpa", "revshare"):
            lifetime = dt.timedelta(days=self.settings.conversion_days)
        if win.expires_at != drawn.created_at + lifetime:
            raise Broken(f"the wrong lifetime was promised: {win}")
        self.awards[request].add(award_id)
        self.wins[win.reservation_id] = Answered(
            win, offer, drawn.day, drawn.session_id, request, award_id,
            min(win.expires_at, wall + lifetime), self.era, by,
        )  # fmt: skip

    def has_money(self, one: Answered, now: dt.datetime) -> bool:
        """Whether a hold must stand behind this win now, or be made from its lease."""
        return (
            one.era == self.era
            and max(now, self.latest) < one.expires_at - SLACK
            and len(self.awards[one.request]) == 1
            and not one.may_have_ended
        )

    def was_beaten(self, beat: Beat, now: dt.datetime) -> None:
        """The ledger has answered this beat: all its wins are recorded."""
        if not beat.wins:
            return
        ids = [win.reservation_id for win in beat.wins]
        query = select(_R.reservation_id, _R.status, _R.award_id, _R.sub, _R.request_id).where(
            _R.reservation_id.in_(ids)
        )
        rows = {row.reservation_id: row for row in self.books.connection.execute(query)}
        for id_ in ids:
            row, one = rows.get(id_), self.wins[id_]
            if row is None:
                raise Broken(f"a win of an answered beat is not recorded: {id_}")
            if row.status == "void" and self.has_money(one, now) and not one.is_recorded:
                raise Broken(f"the money of an answered win is gone: {id_}, {one}")
            if len(self.awards[one.request]) == 1 and (row.award_id, row.sub, row.request_id) != (
                one.award_id, *one.request,
            ):  # fmt: skip
                raise Broken(f"the record is not what was answered: {row}")
            one.is_recorded = True

    # What events do

    def may_end(self, reservation_ids: Iterable[str]) -> None:
        for id_ in reservation_ids:
            if id_ in self.wins:
                self.wins[id_].may_have_ended = True

    def were_sent(self, events: Sequence[Event]) -> None:
        """… and nothing is known."""
        self.unsure |= {event_key(event) for event in events} - self.events.keys()
        self.may_end(event.reservation_id for event in events if event.reservation_id is not None)

    def were_answered(self, events: Sequence[Event], results: Sequence[Result], now: dt.datetime) -> None:
        rows = self._event_rows({event_key(event) for event in events})
        for event, result in zip(events, results, strict=True):
            key = event_key(event)
            known = self.events.get(key)
            if known is not None:
                expected = {"duplicate" if known[0] == event else "conflict"}
            else:
                # A clock that was set back sees what has just happened in the future.
                new = "rejected" if event.occurred_at > now + AHEAD else "accepted"
                expected = {new, "duplicate"} if key in self.unsure else {new}
            if result.status not in expected or result.code not in (None, IN_THE_FUTURE):
                raise Broken(f"{event}: expected {expected}, got {result}")
            if result.status == "rejected":
                if key in rows:
                    raise Broken(f"a rejected event is there: {event}")
            elif known is None:
                if key not in rows:
                    raise Broken(f"an accepted event is not there: {event}")
                self._accept(event, *rows[key], now)
        self.unsure -= {event_key(event) for event in events}

    def _accept(
        self, event: Event, day: dt.date, portfolio_id: str | None, held_id: str | None, now: dt.datetime
    ) -> None:
        key = event_key(event)
        self.events[key] = event, day, portfolio_id
        if portfolio_id not in self.portfolios[event.brand_id]:
            raise Broken(f"a cost of {event.brand_id} was charged to portfolio {portfolio_id}: {event}")
        one = self.wins.get(event.reservation_id or "")
        if one is None or (one.offer.where.brand_id, one.offer.where.partner_id) != (event.brand_id, event.partner_id):
            one = None
        covered = False
        if one is not None and key not in self.unsure and self.has_money(one, now):
            self._finds_its_hold(event, one, held_id)
            age = now - (one.expires_at - dt.timedelta(days=self.settings.conversion_days))
            shrinks = one.offer.pricing_model in ("cpa", "revshare")
            covered = (event.cost_micros or 0) <= one.offer.amount_micros and (
                not shrinks or age < dt.timedelta(hours=23)
            )
        if one is not None and ends(event, one.offer.pricing_model):
            one.may_have_ended = True
        if event.cost_micros and not covered:
            self.loose.add(("brand", event.brand_id, day))
            if portfolio_id is not None:
                self.loose.add(("portfolio", portfolio_id, day))

    def _finds_its_hold(self, event: Event, one: Answered, held_id: str | None) -> None:
        """An event that comes in time is paid from what was held for it, recorded or not."""
        id_ = one.win.reservation_id
        status = self.books.connection.execute(select(_R.status).where(_R.reservation_id == id_)).scalar_one_or_none()
        late = select(_J.seq).where(_J.reservation_id == id_, _J.kind == "late_settle").limit(1)
        is_late = self.books.connection.execute(late).scalar_one_or_none() is not None
        if held_id != id_ or status not in ("open", "settled") or is_late:
            raise Broken(f"an event in time finds no hold: {event}, {one}, it is {status}, late: {is_late}")
        if ends(event, one.offer.pricing_model) and status == "open":
            raise Broken(f"an event has not ended its hold: {event}, {one}")

    def _event_rows(self, keys: set[EventKey]) -> dict[EventKey, tuple[dt.date, str | None, str | None]]:
        query = select(_E.brand_id, _E.partner_id, _E.event_id, _E.day, _E.portfolio_id, _E.reservation_id)
        rows = self.books.connection.execute(query.where(_E.event_id.in_({key[2] for key in keys})))
        return {(row[0], row[1], row[2]): (row[3], row[4], row[5]) for row in rows}

    # What is compared

    def check(self, now: dt.datetime) -> None:
        """Everything that holds at any moment."""
        for promise, query in _AUDIT:
            if (row := self.books.connection.execute(query).mappings().first()) is not None:
                raise Broken(f"audit: {promise}: {dict(row)}")
        self._check_reservations(now)
        self._check_budgets()
        self._check_events()

    def _check_reservations(self, now: dt.datetime) -> None:
        latest = max(now, self.latest)
        query = select(
            _R.reservation_id, _R.brand_id, _R.partner_id, _R.amount_micros, _R.day, _R.status, _R.pricing_model,
            _R.held_micros, _R.created_at, _R.expires_at,
        )  # fmt: skip
        for row in self.books.connection.execute(query):
            one = self.wins.get(row.reservation_id)
            if one is None:
                raise Broken(f"nobody has answered this reservation: {row}")
            where = one.offer.where
            expected = where.brand_id, where.partner_id, one.offer.amount_micros, one.day
            if (row.brand_id, row.partner_id, row.amount_micros, row.day) != expected:
                raise Broken(f"a reservation is not what was answered: {row}, {one}")
            if row.status == "open":
                # At least the share of its life that is left; whole days only.
                days, age = (row.expires_at - row.created_at).days, max((latest - row.created_at).days, 0)
                left = days - age if row.pricing_model in ("cpa", "revshare") else days
                if row.held_micros * days < row.amount_micros * left:
                    raise Broken(f"less is held than the delay curve leaves: {row}")

    def _check_budgets(self) -> None:
        settled = None if self.unsure else self._settled()
        for row in self.books.connection.execute(select(t.budget_days)):
            owner = row.owner, row.owner_id, row.day
            out = row.leased_micros + row.reserved_micros + row.settled_micros
            is_tight = settled is not None and owner not in self.loose and row.budget_micros is not None
            if is_tight and out > row.budget_micros:
                raise Broken(f"more is out than there is: {row}")
            if settled is not None and row.settled_micros != settled.pop(owner, 0):
                raise Broken(f"settled is not what the accepted events cost: {row}, {self._settled()[owner]}")
        if settled and any(settled.values()):
            raise Broken(f"accepted events cost what no budget knows: {settled}")

    def _settled(self) -> Counter[tuple[str, str, dt.date]]:
        sums: Counter[tuple[str, str, dt.date]] = Counter()
        groups: dict[tuple[str, str, str], list[tuple[Event, dt.date, str | None]]] = defaultdict(list)
        costs: list[tuple[int, str, dt.date, str | None]] = []
        for event, day, portfolio_id in self.events.values():
            if event.conversion_id is not None:
                groups[event.brand_id, event.partner_id, event.conversion_id].append((event, day, portfolio_id))
            else:
                costs.append((event.cost_micros or 0, event.brand_id, day, portfolio_id))
        for (brand_id, _, _), facts in groups.items():
            facts.sort(key=lambda fact: (fact[0].occurred_at, fact[0].event_id))
            firsts = [fact for fact in facts if fact[0].type == "conversion"] or facts
            status = next((event.status for event, _, _ in reversed(facts) if event.status is not None), None)
            cost = next((event.cost_micros for event, _, _ in reversed(facts) if event.cost_micros is not None), 0)
            costs.append((0 if status == "rejected" else cost, brand_id, firsts[0][1], firsts[0][2]))
        for cost, brand_id, day, portfolio_id in costs:
            sums["brand", brand_id, day] += cost
            if portfolio_id is not None:
                sums["portfolio", portfolio_id, day] += cost
        return sums

    def _check_events(self) -> None:
        found = {tuple(row) for row in self.books.connection.execute(select(_E.brand_id, _E.partner_id, _E.event_id))}
        if lost := self.events.keys() - found:
            raise Broken(f"accepted events are lost: {lost}")
        if more := found - self.events.keys() - self.unsure:
            raise Broken(f"nobody has sent these events: {more}")

    def all_recorded(self, by: str) -> None:
        """This replica has told the ledger everything."""
        if untold := [id_ for id_, one in self.wins.items() if one.by == by and not one.is_recorded]:
            raise Broken(f"{by} has never told of wins that it answered: {untold}")

    def both_agree(self, session_id: int, left: Mapping[str, int]) -> None:
        """After a few beats without a fault the ledger has lent exactly what the replica holds."""
        query = select(_L.brand_id, _L.leased_micros, _L.day).where(_L.session_id == session_id)
        lent: Counter[str] = Counter()
        for row in self.books.connection.execute(query):
            lent[row.brand_id] += row.leased_micros
        held = Counter({brand_id: micros for brand_id, micros in left.items() if micros})
        if lent != held:
            raise Broken(f"session {session_id} holds {dict(held)}, the ledger has lent {dict(lent)}")

    def check_end(self) -> None:
        """Every replica is gone, and all time has passed: nothing is lent, nothing is held."""
        if row := self.books.connection.execute(select(t.leases)).first():
            raise Broken(f"something is still lent: {row}")
        if row := self.books.connection.execute(select(t.reservations).where(_R.status == "open")).first():
            raise Broken(f"a reservation is still open: {row}")
        for row in self.books.connection.execute(select(t.budget_days)):
            left = None if row.budget_micros is None else max(0, row.budget_micros - row.settled_micros)
            if row.leased_micros or row.reserved_micros or row.available_micros != left:
                raise Broken(f"money is missing: {row}")


def event_key(event: Event) -> EventKey:
    return event.brand_id, event.partner_id, event.event_id


def ends(event: Event, pricing_model: str) -> bool:
    """Whether this event ends the hold that it names."""
    if event.cost_micros:
        return True
    if event.type == "impression":
        return pricing_model == "cpm"
    if event.type == "click":
        return pricing_model == "cpc"
    return event.status in ("approved", "rejected")


def days_around(rows: Mapping[str, Any], brand_id: str, wall: dt.datetime) -> set[dt.date]:
    """The brand's today, by the time zone that it has or is about to have."""
    row, found = rows[brand_id], set()
    for at in (wall - AROUND_MIDNIGHT, wall, wall + AROUND_MIDNIGHT):
        moved = row.next_from is not None and at >= row.next_from
        found.add(at.astimezone(ZoneInfo(row.next_timezone if moved else row.timezone)).date())
    return found
