"""The right to buy below target: only wins that were shown give it, and it is drawn like money."""

import datetime as dt
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.messages import Win
from ledger.domain.slack import Price, Slack, lack
from ledger.transaction.working_set import BudgetKey
from tests.unit.ledger.books import LIVES, claim, offer
from tests.unit.ledger.memory_ledger import START, TTL, Ledger, Replica

TODAY = BudgetKey("brand", "c", START.date())
HOUR, SECOND = dt.timedelta(hours=1), dt.timedelta(seconds=1)


class System:
    """A ledger and two replicas. `c` stands alone; `a` and `b` share the portfolio `f`. All targets are 1."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.replicas = [Replica(START), Replica(START)]
        self.numbers = itertools.count()
        for brand_id in "abc":
            self.ledger.put(brand_id, {"daily_budget_micros": 1_000_000})
        self.ledger.put_portfolio(1_000_000)

    def now_s(self) -> float:
        return (self.ledger.now - START).total_seconds()

    def beat(self, who: int) -> None:
        leases = self.replicas[who].leases
        beat = leases.beat(self.now_s())
        leases.heard(beat, self.ledger.beat(beat), self.now_s(), self.now_s())

    def bid(self, amount: int, roas: float, brand: str = "c", who: int = 0, model: str = "cpm") -> Win | str:
        """The win, or why there is none, a second after the last one. Everything arrives."""
        self.ledger.books.now += SECOND
        self.beat(1 - who)
        leases, one = self.replicas[who].leases, offer(brand_id=brand, amount=amount, roas=roas, model=model)
        self.beat(who)
        if (reason := leases.refusal(one, self.now_s())) == "no_lease":
            leases.want(one)
            self.beat(who)
            reason = leases.refusal(one, self.now_s())
        if reason is not None:
            return reason
        number = next(self.numbers)
        win = leases.draw(claim(one, request_id=f"r{number}"), f"a{number}", one, self.now_s())
        self.beat(who)
        return win

    def show(self, win: Win | str, cost: int | None = None, brand: str = "c") -> None:
        assert isinstance(win, Win)
        paid = win.reserved_micros if cost is None else cost
        self.ledger.pay(next(self.numbers), brand, win.reservation_id, paid)

    def idle(self, seconds: int) -> None:
        for _ in range(seconds):
            self.ledger.books.now += SECOND
            self.beat(0)
            self.beat(1)

    def slack(self, key: BudgetKey = TODAY) -> Slack:
        return self.ledger.books.slacks[key]

    def wait(self, time: dt.timedelta) -> None:
        """Let time pass, and replicas beat every second or so near its end."""
        self.ledger.books.now += time
        self.ledger.sweep()
        self.replicas = [Replica(START), Replica(START)]  # their sessions have lapsed

    def is_won(self, *bid, **more) -> bool:
        won = self.bid(*bid, **more)
        assert isinstance(won, Win) or won == "roas_slack", won
        return isinstance(won, Win)


def test_requests_alone_give_no_right_to_buy_below_target():
    """However much they are predicted to earn: none of these was shown."""
    system = System()
    for _ in range(30):
        assert isinstance(system.bid(1, roas=1000.0), Win)
    assert system.bid(100, roas=0.9) == "roas_slack"


def test_what_was_shown_above_target_pays_for_bids_below_it():
    system = System()
    system.show(system.bid(100, roas=1.5))
    assert not system.is_won(100, roas=0.4), "it lacks 60, and there are 50"
    assert system.is_won(100, roas=0.6)
    assert not system.is_won(100, roas=0.8), "10 are left"
    assert system.is_won(100, roas=0.9)


@pytest.mark.parametrize("shown", [True, False])
def test_a_win_below_target_takes_slack_whether_it_was_shown_or_may_be_still(shown):
    system = System()
    system.show(system.bid(100, roas=1.5))
    below = system.bid(100, roas=0.5)
    if shown:
        system.show(below)
    assert not system.is_won(100, roas=0.9, who=1)
    assert system.slack().pending_micros == (0 if shown else 50)


def test_two_replicas_draw_on_one_slack():
    system = System()
    system.show(system.bid(100, roas=2.0))
    won = sum(system.is_won(10, roas=0.5, who=number % 2) for number in range(60))
    system.idle(12)  # what a replica holds and does not use comes back
    won += sum(system.is_won(10, roas=0.5, who=number % 2) for number in range(60))
    assert won <= 20, "each lacks 5"
    assert won >= 10, "what one of them holds, the other cannot use"


def test_a_win_that_is_never_shown_gives_its_slack_back_when_no_event_counts_any_more():
    system = System()
    system.show(system.bid(100, roas=1.5))
    assert system.is_won(100, roas=0.5)
    system.wait(TTL + HOUR / 2)
    assert not system.is_won(100, roas=0.5), "a late impression would still count"
    system.wait(HOUR)
    assert system.is_won(100, roas=0.5)


def test_a_win_that_is_given_back_gives_its_slack_back_at_once():
    system = System()
    system.show(system.bid(100, roas=1.5))
    below = system.bid(100, roas=0.5)
    assert isinstance(below, Win)
    assert not system.is_won(100, roas=0.5)
    system.ledger.release(below.reservation_id)
    system.wait(dt.timedelta(minutes=1))
    assert system.is_won(100, roas=0.5)


def test_a_late_impression_of_a_win_below_target_counts():
    system = System()
    system.show(system.bid(100, roas=1.5))
    below = system.bid(100, roas=0.7)
    system.wait(2 * TTL)
    assert isinstance(below, Win)
    assert not system.ledger.books.reservations[below.reservation_id].is_open
    system.ledger.pay(next(system.numbers), "c", below.reservation_id, 100, late=True)
    assert (system.slack().revenue_micros, system.slack().cost_micros, system.slack().pending_micros) == (220, 200, 0)


def test_a_win_counts_once_however_many_events_name_it():
    system = System()
    win = system.bid(100, roas=1.5)
    system.show(win)
    system.ledger.pay(next(system.numbers), "c", win.reservation_id, 0, late=True)
    assert (system.slack().revenue_micros, system.slack().cost_micros) == (150, 100)


def test_an_impression_that_costs_more_than_predicted_takes_slack():
    system = System()
    system.show(system.bid(100, roas=1.5), cost=130)
    assert system.slack().cost_micros == 130
    assert not system.is_won(100, roas=0.75)
    assert system.is_won(100, roas=0.8)


def test_a_cost_that_comes_after_the_impression_takes_slack_too():
    system = System()
    win = system.bid(100, roas=1.5)
    system.show(win, cost=0)
    assert isinstance(win, Win)
    system.ledger.pay(next(system.numbers), "c", win.reservation_id, 130, late=True)
    assert system.slack().cost_micros == 130


@pytest.mark.parametrize("model", ["cpc", "cpa"])
def test_of_clicks_and_conversions_the_expectation_counts(model):
    """What one costs says nothing of what wins like it cost."""
    system = System()
    system.show(system.bid(100, roas=1.5, model=model), cost=900)
    assert (system.slack().revenue_micros, system.slack().cost_micros) == (150, 100)


def test_the_event_of_a_win_that_no_replica_has_told_of_counts_when_its_record_comes():
    system = System()
    system.show(system.bid(100, roas=1.5))
    system.bid(1, roas=0.9)  # the replica holds some slack now
    leases, one = system.replicas[0].leases, offer(brand_id="c", amount=50, roas=0.9)
    assert leases.refusal(one, system.now_s()) is None
    win = leases.draw(claim(one, request_id="late"), "late", one, system.now_s())
    system.show(win)
    before = system.slack()
    assert (before.revenue_micros, before.cost_micros) == (150, 150), "what it earns is not known yet"
    system.beat(0)
    after = system.slack()
    assert (after.revenue_micros, after.cost_micros) == (195, 150)
    assert after.leased_micros == before.leased_micros - 5 - _returned(before, after)


def _returned(before: Slack, after: Slack) -> int:
    """What the replica asked for with the same beat, or gave back."""
    return before.leased_micros - 5 - after.leased_micros


def test_a_portfolio_has_a_slack_too():
    """`a` is above its own target, but the portfolio's is higher."""
    system = System()
    system.ledger.portfolio_target = 2.0
    system.ledger.refresh()
    assert not system.is_won(100, roas=1.5, brand="a")
    system.show(system.bid(100, roas=2.5, brand="b"), brand="b")
    assert system.is_won(100, roas=1.5, brand="a")
    assert not system.is_won(100, roas=1.9, brand="a")


def test_a_bid_below_both_targets_needs_both_slacks():
    system = System()
    system.ledger.portfolio_target = 1.25
    system.ledger.refresh()
    system.show(system.bid(100, roas=1.5, brand="a"), brand="a")
    assert system.is_won(100, roas=1.0, brand="a")
    assert system.bid(100, roas=0.75, brand="a") == "roas_slack", "the brand has 50, the portfolio nothing"


def test_predictions_that_do_not_come_true_are_worth_less():
    system = System()
    system.show(system.bid(100, roas=2.0))
    system.ledger.books.factors["c"] = 0.6
    system.ledger.refresh()
    assert not system.is_won(100, roas=1.3), "it is worth 78, and 20 are left"
    assert system.is_won(100, roas=1.4)


def test_a_replica_that_dies_takes_its_slack_with_it_until_its_wins_have_expired():
    system = System()
    system.show(system.bid(100, roas=1.5))
    system.bid(10, roas=0.9)
    held = system.slack().leased_micros
    assert held > 0
    system.wait(TTL / 2)
    assert system.slack().leased_micros == held
    system.wait(2 * TTL)
    assert system.slack().leased_micros == 0


PRICES = st.builds(Price, st.floats(0.01, 50.0), st.floats(0.3, 1.5))
MICROS = st.floats(0.0, 1e9)


@given(st.lists(st.tuples(MICROS, MICROS), max_size=30), PRICES)
def test_confirmed_wins_meet_the_target_whatever_was_asked_for(bids, price):
    """The rule itself: a bid wins only if its lack is available; all wins are confirmed."""
    slack = Slack("brand", "b", START.date())
    revenue = cost = 0.0
    wins = 0
    for bid_revenue, bid_cost in bids:
        needed = lack(bid_revenue, bid_cost, price)
        if needed and needed > slack.available(price):
            continue
        slack = slack.lend(needed).draw(needed).confirm(needed, int(bid_revenue), -int(-bid_cost // 1))
        revenue, cost, wins = revenue + bid_revenue, cost + bid_cost, wins + 1
    # Each win is booked in whole micros: its revenue rounded down, its cost up.
    rounding = wins * (price.factor + price.target_roas) + 1e-9 * revenue
    assert price.factor * revenue - price.target_roas * cost >= -rounding


@given(MICROS, MICROS, PRICES)
def test_only_a_bid_below_target_lacks_something(revenue, cost, price):
    below = price.factor * revenue < price.target_roas * cost
    assert (lack(revenue, cost, price) > 0) == below
    assert LIVES.reservation_ttl_s > 0
