"""Replicas, a ledger, and a network that loses and delays: against a list of what was answered and what it cost."""

import datetime as dt
import random
from dataclasses import dataclass, field, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from db.brands import BrandSettings
from ledger.client.lease_cache import LeaseCache
from ledger.domain import reservation_ids
from ledger.domain.brand import Brand
from ledger.domain.messages import Beat, Grant, Offer, Reply, Win
from ledger.service.sessions import LAPSE_GRACE_S
from ledger.storage.session_store import CLOSED, LAPSED, OPEN, LedgerSession
from ledger.transaction.working_set import BudgetKey, LeaseKey
from tests.unit.ledger.books import LIVES, Books, claim, event, is_genuine, offer

START = dt.datetime(2024, 5, 1, 9, tzinfo=dt.UTC)
LEASE_S = 5.0
BRANDS = ("a", "b", "c")
MODELS = ("cpm", "cpc", "cpa")
TTL, LASTING = dt.timedelta(seconds=LIVES.reservation_ttl_s), dt.timedelta(days=LIVES.conversion_days)


class Ledger:
    """`ledger.service.ledger.Ledger` over dicts: one transaction a call."""

    def __init__(self) -> None:
        members = {id_: BrandSettings(daily_budget_micros=1000, portfolio_id="f") for id_ in "ab"}
        self.books = Books(**members, c=BrandSettings(daily_budget_micros=300))
        self.books.limits["portfolio", "f"] = 1500
        self.books.now = START
        self.sessions: dict[int, LedgerSession] = {}
        self.quarantined: dict[LeaseKey, dt.datetime] = {}
        self.recalls: set[tuple[int, str]] = set()
        self.terms = self.books.terms(0)

    @property
    def now(self) -> dt.datetime:
        return self.books.now

    def refresh(self) -> None:
        self.terms = self.books.terms(self.terms.version + 1)

    def beat(self, beat: Beat) -> Reply:
        open_sessions = sum(session.status == OPEN for session in self.sessions.values())
        working_set, leasing = self.books.leasing(open_sessions)
        if beat.session_id is None:
            secret = random.Random(len(self.sessions)).randbytes(16)
            session = LedgerSession(len(self.sessions) + 1, secret, OPEN, 0, self.now)
        else:
            session = self.sessions[beat.session_id]
            if beat.number <= session.beat:
                return self._reply(session, beat)
        for win in beat.wins:
            leasing.record(session.session_id, win, reservation_ids.decode(win.reservation_id))
        status, answers = session.status, []
        if beat.is_last:
            leasing.return_all([key for key in working_set.leases if key.session_id == session.session_id])
            status = CLOSED
        elif status == OPEN:
            # LeaseMismatch is never raised: whatever gets lost, a replica's books are never above the ledger's.
            answers = [(line.brand_id, leasing.grant(session.session_id, line)) for line in beat.lines]
        session = session._replace(status=status, beat=beat.number, renewed_at=self.now)
        self.sessions[session.session_id] = session
        self.books.write_beats(working_set, leasing)
        short = {brand_id for brand_id, _, _ in leasing.short}
        self.recalls |= {(key.session_id, key.brand_id) for key in self.books.leases if key.brand_id in short}
        return replace(
            self._reply(session, beat),
            grants=tuple(answer for _, answer in answers if isinstance(answer, Grant)),
            refused={brand_id: answer for brand_id, answer in answers if isinstance(answer, str)},
        )

    def _reply(self, session: LedgerSession, beat: Beat) -> Reply:
        recalled = tuple(sorted(brand for id_, brand in self.recalls if id_ == session.session_id))
        self.recalls = {one for one in self.recalls if one[0] != session.session_id}
        terms = None if beat.known_version == self.terms.version else self.terms
        is_open = session.status == OPEN
        return Reply(
            session.session_id, session.secret, self.now, LEASE_S, is_open, recalled=recalled, terms=terms
        )  # fmt: skip

    def sweep(self) -> None:
        silent_since = self.now - dt.timedelta(seconds=LEASE_S + LAPSE_GRACE_S)
        for session in self.sessions.values():
            if session.status == OPEN and session.renewed_at <= silent_since:
                self.sessions[session.session_id] = session._replace(status=LAPSED)
                for key, lent in self.books.leases.items():
                    if key.session_id == session.session_id:
                        self.quarantined[key] = self.now + (LASTING if lent.lasting else TTL)
        working_set = self.books.working_set(self.books.budgets)
        for key in working_set.leases:
            if self.quarantined.get(key, self.now) < self.now:
                working_set.take_back(key, self.books.leases[key].leased_micros)
        self.books.write(working_set)
        working_set = self.books.working_set(self.books.budgets)
        for held in self.books.reservations.values():
            if held.due_at is not None and held.due_at <= self.now:
                working_set.age(held)
        self.books.write(working_set)

    def pay(self, number: int, brand_id: str, reservation_id: str, cost_micros: int) -> None:
        """An impression, that may name a win that nobody has recorded."""
        one = event(f"i{number}", "impression", at=self.now, brand_id=brand_id, cost_micros=cost_micros)
        one = replace(one, reservation_id=reservation_id)
        drawn = reservation_ids.decode(reservation_id)
        if reservation_id not in self.books.reservations:
            assert drawn is not None
            assert is_genuine(reservation_id, brand_id, "p", self.sessions[drawn.session_id].secret)
            working_set, leasing = self.books.leasing()
            leasing.adopt(reservation_id, drawn, offer(brand_id=brand_id).where)
            self.books.write_beats(working_set, leasing)
        assert self.books.reservations[reservation_id].is_open, "in time: its money is there"
        (result,) = self.books.record(one)
        assert result.status == "accepted"

    def release(self, reservation_id: str) -> None:
        self.books.end(reservation_id, "returned")

    def put(self, brand_id: str, changes: dict) -> None:
        brand = self.books.brands[brand_id]
        new = brand.settings.model_copy(update=changes)
        self.books.brands[brand_id] = Brand(brand_id, new, self.now)
        self._move_limit(BudgetKey("brand", brand_id, brand.day(self.now)), new.daily_budget_micros)
        self.refresh()

    def put_portfolio(self, budget: int) -> None:
        self._move_limit(BudgetKey("portfolio", "f", self.now.date()), budget)
        self.refresh()

    def _move_limit(self, key: BudgetKey, limit: int | None) -> None:
        self.books.limits[key.owner, key.owner_id] = limit
        if key in self.books.budgets:
            working_set = self.books.working_set([key])
            working_set.set_limit(key, limit)
            self.books.write(working_set)


@dataclass
class Replica:
    began: dt.datetime
    leases: LeaseCache = field(default_factory=lambda: LeaseCache(LIVES))
    flying: Beat | None = None
    asked_s: float = 0.0
    reply: Reply | None = None


@dataclass
class Answered:
    """A win that a caller has been told of."""

    win: Win
    brand_id: str
    day: dt.date
    cost_micros: int | None = None  # None: not known yet
    is_returned: bool = False

    def out_micros(self, now: dt.datetime) -> int:
        """What it may still cost, or has."""
        if self.cost_micros is not None:
            return self.cost_micros
        return 0 if self.is_returned or now >= self.win.expires_at else self.win.reserved_micros


def members(key: BudgetKey) -> str:
    return "ab" if key.owner == "portfolio" else key.owner_id


WHO, WHICH, AMOUNTS = st.integers(0, 2), st.sampled_from(BRANDS), st.integers(0, 120)


class Money(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.ledger = Ledger()
        self.replicas = [Replica(START - dt.timedelta(seconds=1000 * n)) for n in range(3)]
        self.delayed: list[Beat] = []
        self.answered: list[Answered] = []
        self.most: dict[tuple[str, dt.date], int] = {}
        """The highest budget that each owner has had on a day."""
        self.grow()

    def grow(self) -> None:
        """What the budgets of today were at the most."""
        for (_, owner_id), limit in self.ledger.books.limits.items():
            day = owner_id, self.ledger.now.date()
            self.most[day] = max(self.most.get(day, 0), limit or 0)

    def now_s(self, replica: Replica) -> float:
        return (self.ledger.now - replica.began).total_seconds()

    # A replica's beat, in its parts

    @rule(who=WHO, is_last=st.sampled_from([False] * 9 + [True]))
    def a_beat_leaves(self, who, is_last):
        replica = self.replicas[who]
        if replica.flying is None:
            replica.asked_s = self.now_s(replica)
            replica.flying, replica.reply = replica.leases.beat(replica.asked_s, is_last=is_last), None

    @rule(who=WHO)
    def it_arrives(self, who):
        replica = self.replicas[who]
        if replica.flying is not None and replica.reply is None:
            replica.reply = self.ledger.beat(replica.flying)

    @rule(who=WHO)
    def its_answer_arrives(self, who):
        replica = self.replicas[who]
        if replica.flying is not None and replica.reply is not None:
            replica.leases.heard(replica.flying, replica.reply, replica.asked_s, self.now_s(replica))
            replica.flying = None

    @rule(who=WHO)
    def it_is_given_up(self, who):
        """The beat may be on its way still, or be on its way twice, or its answer may be lost."""
        replica = self.replicas[who]
        if replica.flying is not None:
            self.delayed.append(replica.flying)
            replica.leases.failed(replica.flying)
            replica.flying = None

    @precondition(lambda self: self.delayed)
    @rule(data=st.data())
    def a_delayed_beat_arrives(self, data):
        number = data.draw(st.integers(0, len(self.delayed) - 1))
        self.ledger.beat(self.delayed.pop(number))

    # A replica's work

    @rule(who=WHO, brand=WHICH, amount=AMOUNTS, model=st.sampled_from(MODELS))
    def an_offer_waits(self, who, brand, amount, model):
        self.replicas[who].leases.want(offer(brand_id=brand, amount=amount, model=model))

    @rule(who=WHO, brand=WHICH, amounts=st.lists(AMOUNTS, min_size=1, max_size=4), model=st.sampled_from(MODELS))
    def wins_are_drawn(self, who, brand, amounts, model):
        for amount in amounts:
            self.draw(self.replicas[who], offer(brand_id=brand, amount=amount, model=model))

    @rule(who=WHO, brand=WHICH, amount=AMOUNTS, model=st.sampled_from(MODELS))
    def a_request_is_answered(self, who, brand, amount, model):
        """Open, ask, draw, with nothing lost."""
        replica, one = self.replicas[who], offer(brand_id=brand, amount=amount, model=model)
        for _ in range(3):
            if replica.flying is None:
                replica.leases.want(one)
            self.a_beat_leaves(who, False)
            self.it_arrives(who)
            self.its_answer_arrives(who)
        self.draw(replica, one)

    def draw(self, replica: Replica, one: Offer) -> None:
        now_s = self.now_s(replica)
        if replica.leases.refusal(one, now_s) is None:
            number = len(self.answered)
            request = claim(one, request_id=f"r{number}")
            win = replica.leases.draw(request, f"a{number}", one, now_s)
            drawn = reservation_ids.decode(win.reservation_id)
            assert drawn is not None
            assert drawn.day == self.ledger.now.date(), "no lease outlives its day"
            self.answered.append(Answered(win, one.where.brand_id, drawn.day))

    @rule(who=WHO)
    def a_replica_dies(self, who):
        if (flying := self.replicas[who].flying) is not None:
            self.delayed.append(flying)
        self.replicas[who] = Replica(self.ledger.now - dt.timedelta(seconds=77))

    # Time and events

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.0, 4.0, 5.0, 7.0, 61.0, 600.0, 1801.0, 6 * 3600.0]))
    def time_passes(self, seconds):
        self.ledger.books.now += dt.timedelta(seconds=seconds)
        self.grow()

    @rule()
    def the_ledger_sweeps(self):
        self.ledger.sweep()

    @rule()
    def the_ledger_refreshes(self):
        self.ledger.refresh()

    def in_time(self) -> list[Answered]:
        return [
            one
            for one in self.answered
            if one.cost_micros is None and not one.is_returned and self.ledger.now < one.win.expires_at - TTL / 100
        ]

    @precondition(lambda self: self.in_time())
    @rule(data=st.data(), share=st.floats(0, 1))
    def an_event_comes_in_time(self, data, share):
        one = data.draw(st.sampled_from(self.in_time()))
        cost = int(share * one.win.reserved_micros)
        known = self.ledger.books.reservations.get(one.win.reservation_id)
        if known is not None:  # a conversion's hold shrinks
            cost = min(cost, known.held_micros)
        self.ledger.pay(self.answered.index(one), one.brand_id, one.win.reservation_id, cost)
        one.cost_micros = cost

    @precondition(lambda self: self.recorded())
    @rule(data=st.data())
    def a_win_is_given_back(self, data):
        one = data.draw(st.sampled_from(self.recorded()))
        self.ledger.release(one.win.reservation_id)
        one.is_returned = True

    def recorded(self) -> list[Answered]:
        known = self.ledger.books.reservations
        return [one for one in self.in_time() if one.win.reservation_id in known]

    @rule(brand=WHICH, budget=st.integers(0, 2000), active=st.booleans())
    def a_brand_is_changed(self, brand, budget, active):
        self.ledger.put(brand, {"daily_budget_micros": budget, "active": active})
        self.grow()

    @rule(budget=st.integers(0, 3000))
    def the_portfolio_is_changed(self, budget):
        self.ledger.put_portfolio(budget)
        self.grow()

    # What always holds

    @invariant()
    def every_budget_adds_up(self):
        books = self.ledger.books
        for key, budget in books.budgets.items():
            owned, limit = members(key), budget.budget_micros or 0
            leased = sum(
                lent.leased_micros for one, lent in books.leases.items() if one.brand_id in owned and one.day == key.day
            )
            reserved = sum(
                held.held_micros
                for held in books.reservations.values()
                if held.brand_id in owned and held.day == key.day
            )
            settled = self.spent(key)
            assert (budget.leased_micros, budget.reserved_micros, budget.settled_micros) == (leased, reserved, settled)
            out = leased + reserved + settled
            assert budget.available_micros == max(0, limit - out)
            assert budget.excess_micros == max(0, out - limit)

    def spent(self, key: BudgetKey) -> int:
        owned = members(key)
        return sum(one.cost_micros or 0 for one in self.answered if one.brand_id in owned and one.day == key.day)

    @invariant()
    def nobody_has_promised_more_than_there_was(self):
        """Answered wins, recorded or not, of live replicas and dead ones: within the highest budget of the day."""
        promised: dict[tuple[str, dt.date], int] = {}
        for one in self.answered:
            for owner in (one.brand_id, *(["f"] if one.brand_id in "ab" else [])):
                key = owner, one.day
                promised[key] = promised.get(key, 0) + one.out_micros(self.ledger.now)
        assert all(micros <= self.most[key] for key, micros in promised.items())

    @invariant()
    def no_win_is_void_in_its_time(self):
        """A replica that was away until its wins had expired, and the money was taken back, tells of them late."""
        held = self.ledger.books.reservations.values()
        assert all(one.ended_at and one.ended_at >= one.expires_at for one in held if one.status == "void")

    @invariant()
    def what_can_be_drawn_is_lent(self):
        for replica in self.replicas:
            for brand in BRANDS:
                left = replica.leases.left(brand)
                one = offer(brand_id=brand, amount=left)
                if left and replica.leases.refusal(one, self.now_s(replica)) is None:
                    lent = sum(
                        lent.leased_micros for key, lent in self.ledger.books.leases.items() if key.brand_id == brand
                    )
                    assert left <= lent

    def teardown(self) -> None:
        """Everybody dies, and all time passes: what has not been spent is back, brand for brand and day for day."""
        if not hasattr(self, "ledger"):
            return
        for _ in range(3):
            self.ledger.books.now += LASTING + TTL
            self.ledger.sweep()
        assert self.ledger.books.leases == {}
        for key, budget in self.ledger.books.budgets.items():
            spent = self.spent(key)
            assert (budget.leased_micros, budget.reserved_micros, budget.settled_micros) == (0, 0, spent)
            assert budget.available_micros == max(0, (budget.budget_micros or 0) - spent)


Money.TestCase.settings = settings(max_examples=60, stateful_step_count=60)
TestMoney = Money.TestCase
