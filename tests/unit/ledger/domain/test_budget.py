"""Every rule about a balance."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.budget import MONEY_MOST, Budget
from ledger.domain.errors import BudgetExhausted, MoneyOutOfRange

DAY = dt.date(2024, 5, 1)


def play(story: str, budget: Budget) -> Budget:
    """'lend 80, hold 60, settle 60 at 45' → the budget after it."""
    for sentence in story.split(", "):
        match sentence.split():
            case ["lend", amount]:
                budget = budget.lend(int(amount))
            case ["return", amount]:
                budget = budget.take_back(int(amount))
            case ["hold", amount]:
                budget = budget.hold(int(amount))
            case ["win", amount]:
                budget = budget.lend(int(amount)).hold(int(amount))
            case ["release", amount]:
                budget = budget.release(int(amount))
            case ["settle", held, "at", cost]:
                budget = budget.settle(int(held), int(cost))
            case ["limit", "none"]:
                budget = budget.set_limit(None)
            case ["limit", amount]:
                budget = budget.set_limit(int(amount))
            case _:
                raise AssertionError(sentence)
    return budget


@pytest.mark.parametrize(
    ("story", "leased", "reserved", "settled", "available", "excess", "overspend"),
    [
        ("lend 60", 60, 0, 0, 40, 0, 0),
        ("lend 100", 100, 0, 0, 0, 0, 0),
        ("lend 60, return 60", 0, 0, 0, 100, 0, 0),
        ("lend 60, hold 20", 40, 20, 0, 40, 0, 0),
        ("lend 60, hold 20, return 40", 0, 20, 0, 80, 0, 0),
        ("lend 80, hold 60, settle 60 at 45", 20, 0, 45, 35, 0, 0),
        ("lend 60, limit 50", 60, 0, 0, 0, 10, 0),
        ("lend 60, limit 50, hold 30", 30, 30, 0, 0, 10, 0),
        ("lend 60, limit 50, hold 30, return 30", 0, 30, 0, 20, 0, 0),
        ("lend 60, limit 0, return 60", 0, 0, 0, 0, 0, 0),
        ("lend 60, settle 0 at 90, return 60", 0, 0, 90, 10, 0, 0),
        ("limit none, lend 1000, hold 700, limit 100", 300, 700, 0, 0, 900, 0),
        ("win 60", 0, 60, 0, 40, 0, 0),
        ("win 60, settle 60 at 45", 0, 0, 45, 55, 0, 0),
        ("win 60, settle 60 at 0", 0, 0, 0, 100, 0, 0),
        ("win 60, release 60", 0, 0, 0, 100, 0, 0),
        ("win 60, release 20", 0, 40, 0, 60, 0, 0),
        ("win 60, settle 60 at 90", 0, 0, 90, 10, 0, 0),
        ("win 60, settle 60 at 130", 0, 0, 130, 0, 30, 30),
        ("settle 0 at 30", 0, 0, 30, 70, 0, 0),
        ("win 90, settle 0 at 30", 0, 90, 30, 0, 20, 0),
        ("win 90, settle 0 at 30, release 90", 0, 0, 30, 70, 0, 0),
        ("settle 0 at 130, settle 0 at -20", 0, 0, 110, 0, 10, 10),
        ("settle 0 at 130, settle 0 at -50", 0, 0, 80, 20, 0, 0),
        ("win 60, limit 50", 0, 60, 0, 0, 10, 0),
        ("win 60, limit 50, release 60", 0, 0, 0, 50, 0, 0),
        ("win 60, limit 50, limit 80", 0, 60, 0, 20, 0, 0),
        ("settle 0 at 60, limit 0", 0, 0, 60, 0, 60, 60),
        ("settle 0 at 60, limit none", 0, 0, 60, None, 0, 0),
        ("limit none, win 1000, settle 1000 at 2000", 0, 0, 2000, None, 0, 0),
        ("limit none, settle 0 at 300, limit 100", 0, 0, 300, 0, 200, 200),
        ("limit none, settle 0 at 30, limit 100", 0, 0, 30, 70, 0, 0),
    ],
)
def test_money_is_lent_held_settled_or_available(story, leased, reserved, settled, available, excess, overspend):
    budget = play(story, Budget.of("brand", "b-7", DAY, 100))
    assert budget.leased_micros == leased
    assert budget.reserved_micros == reserved
    assert budget.settled_micros == settled
    assert budget.available_micros == available
    assert budget.excess_micros == excess
    assert budget.overspend_micros == overspend


def test_more_than_is_available_cannot_be_lent():
    budget = Budget.of("brand", "b-7", DAY, 100).lend(60)
    with pytest.raises(BudgetExhausted) as declined:
        budget.lend(41)
    assert (declined.value.amount_micros, declined.value.available_micros) == (41, 40)
    assert budget.lend(40).available_micros == 0


@pytest.mark.parametrize(
    "story",
    [
        "lend -1",
        f"lend {MONEY_MOST + 1}",
        "return 1",
        "return -1",
        "hold 1",
        "lend 1, hold 2",
        "lend 2, hold 1, return 2",
        "release 1",
        "settle 1 at 0",
        "settle 0 at -1",
        f"limit {MONEY_MOST + 1}",
    ],
)
def test_no_amount_is_negative_or_inexact(story):
    with pytest.raises(MoneyOutOfRange):
        play(story, Budget.of("brand", "b-7", DAY, None))


def test_what_is_lent_can_always_become_a_hold():
    """A recorded win must never fail for its amount: an unlimited budget ends when money is lent, not later."""
    budget = Budget.of("brand", "b-7", DAY, None).lend(MONEY_MOST).hold(MONEY_MOST)
    with pytest.raises(MoneyOutOfRange):
        budget.lend(1)
    assert budget.release(1).lend(1).hold(1) == budget


AMOUNTS = st.integers(0, 200)
VERBS = st.sampled_from(["lend", "return", "hold", "release", "settle", "limit"])
STEPS = st.tuples(VERBS, AMOUNTS, st.integers(-200, 400), st.booleans())


@given(limit=st.none() | st.integers(0, 500), steps=st.lists(STEPS, max_size=40))
def test_the_budget_always_adds_up(limit, steps):
    budget = Budget.of("brand", "b-7", DAY, limit)
    for verb, amount, cost, is_unlimited in steps:
        before = budget
        match verb:
            case "lend":
                try:
                    budget = budget.lend(amount)
                except BudgetExhausted:
                    assert amount > before.available_micros
                assert budget.excess_micros == before.excess_micros, "a lease never makes an excess"
            case "return":
                budget = budget.take_back(min(amount, budget.leased_micros))
            case "hold":
                budget = budget.hold(min(amount, budget.leased_micros))
                assert (budget.available_micros, budget.excess_micros) == (
                    before.available_micros,
                    before.excess_micros,
                ), "a win that is recorded was debited before"
            case "release":
                budget = budget.release(min(amount, budget.reserved_micros))
            case "settle":
                budget = budget.settle(min(amount, budget.reserved_micros), max(cost, -budget.settled_micros))
            case "limit":
                budget = budget.set_limit(None if is_unlimited else amount)
        out = budget.leased_micros + budget.reserved_micros + budget.settled_micros
        assert min(budget.leased_micros, budget.reserved_micros, budget.settled_micros) >= 0
        if budget.budget_micros is None:
            assert (budget.available_micros, budget.excess_micros, budget.overspend_micros) == (None, 0, 0)
        else:
            assert budget.available_micros is not None
            assert budget.available_micros >= 0
            assert budget.budget_micros == budget.available_micros + out - budget.excess_micros
            assert budget.excess_micros == max(0, out - budget.budget_micros)
            assert budget.overspend_micros == max(0, budget.settled_micros - budget.budget_micros)


@given(lent=AMOUNTS, cost=AMOUNTS, limit=st.integers(0, 500))
def test_what_is_taken_back_leaves_no_trace(lent, cost, limit):
    before = Budget.of("brand", "b-7", DAY, limit)
    assert before.settle(0, cost).settle(0, -cost) == before
    if lent <= limit:
        assert before.lend(lent).take_back(lent) == before
        assert before.lend(lent).hold(lent).release(lent) == before
