"""Replicas, a ledger, and a network that loses and delays: against a list of what was answered and what it cost."""

import datetime as dt
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ledger.domain import reservation_ids
from ledger.domain.messages import Beat, Offer, Win
from ledger.transaction.working_set import BudgetKey
from tests.unit.ledger.books import claim, offer
from tests.unit.ledger.memory_ledger import LASTING, START, TTL, Ledger, Replica

BRANDS = ("a", "b", "c")
MODELS = ("cpm", "cpc", "cpa")


@dataclass
class Answered:
    """A win that a caller has been told of."""

    win: Win
    brand_id: str
    day: dt.date
    revenue_micros: float  # predicted
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
ROAS = st.sampled_from([0.0, 0.5, 0.95, 1.0, 1.3, 4.0])


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

    @rule(who=WHO, brand=WHICH, amount=AMOUNTS, model=st.sampled_from(MODELS), roas=ROAS)
    def an_offer_waits(self, who, brand, amount, model, roas):
        self.replicas[who].leases.want(offer(brand_id=brand, amount=amount, model=model, roas=roas))

    @rule(
        who=WHO,
        brand=WHICH,
        amounts=st.lists(AMOUNTS, min_size=1, max_size=4),
        model=st.sampled_from(MODELS),
        roas=ROAS,
    )
    def wins_are_drawn(self, who, brand, amounts, model, roas):
        for amount in amounts:
            self.draw(self.replicas[who], offer(brand_id=brand, amount=amount, model=model, roas=roas))

    @rule(who=WHO, brand=WHICH, amount=AMOUNTS, model=st.sampled_from(MODELS), roas=ROAS)
    def a_request_is_answered(self, who, brand, amount, model, roas):
        """Open, ask, draw, with nothing lost."""
        replica, one = self.replicas[who], offer(brand_id=brand, amount=amount, model=model, roas=roas)
        for _ in range(3):
            if replica.flying is None:
                replica.leases.want(one)
            self.a_beat_leaves(who, False)
            self.it_arrives(who)
            self.its_answer_arrives(who)
        self.draw(replica, one)

    @rule(who=WHO, brand=WHICH, amount=st.integers(1, 40), roas=st.sampled_from([0.5, 0.9, 1.3, 4.0]))
    def a_request_is_answered_and_shown(self, who, brand, amount, roas):
        number = len(self.answered)
        self.a_request_is_answered(who, brand, amount, "cpm", roas)
        for one in self.answered[number:]:
            if one in self.in_time():
                self.ledger.pay(number, one.brand_id, one.win.reservation_id, one.win.reserved_micros)
                one.cost_micros = one.win.reserved_micros

    def draw(self, replica: Replica, one: Offer) -> None:
        now_s = self.now_s(replica)
        if replica.leases.refusal(one, now_s) is None:
            number = len(self.answered)
            request = claim(one, request_id=f"r{number}")
            win = replica.leases.draw(request, f"a{number}", one, now_s)
            drawn = reservation_ids.decode(win.reservation_id)
            assert drawn is not None
            assert drawn.day == self.ledger.now.date(), "no lease outlives its day"
            self.answered.append(Answered(win, one.where.brand_id, drawn.day, one.revenue_micros))

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
    def what_was_shown_is_worth_its_target(self):
        """The ROAS that confirmed wins were predicted to have is at least the target, whoever asks for what."""
        surplus: dict[tuple[str, dt.date], int] = {}
        for one in self.answered:
            if one.cost_micros is not None:
                for owner in (one.brand_id, *(["f"] if one.brand_id in "ab" else [])):
                    key, worth = (owner, one.day), int(one.revenue_micros) - one.win.reserved_micros
                    surplus[key] = surplus.get(key, 0) + worth
        assert all(micros >= 0 for micros in surplus.values()), surplus

    @invariant()
    def every_slack_adds_up(self):
        books = self.ledger.books
        for key, slack in books.slacks.items():
            owned, is_brand = members(key), key.owner == "brand"
            wins = [held for held in books.reservations.values() if held.brand_id in owned and held.day == key.day]
            shown = [held for held in wins if held.confirmed]
            lent = [one for at, one in books.leases.items() if at.brand_id in owned and at.day == key.day]
            assert slack.revenue_micros == sum(held.revenue_micros for held in shown)
            assert slack.cost_micros == sum(held.counted_micros for held in shown)
            assert slack.pending_micros == sum(
                held.lack_micros if is_brand else held.portfolio_lack_micros for held in wins
            )
            assert slack.leased_micros == sum(
                one.slack_micros if is_brand else one.portfolio_slack_micros for one in lent
            )
            # What a win that only an event has told of is worth comes with its record.
            unknown = sum(held.counted_micros for held in shown if not held.award_id)
            earned = slack.revenue_micros - slack.cost_micros + unknown
            assert slack.pending_micros + slack.leased_micros <= earned

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
        for slack in self.ledger.books.slacks.values():
            assert (slack.leased_micros, slack.pending_micros) == (0, 0)


Money.TestCase.settings = settings(max_examples=60, stateful_step_count=60)
TestMoney = Money.TestCase
