"""Every rule about a balance."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.account import MONEY_MOST, Budget
from ledger.errors import BudgetExhausted, MoneyOutOfRange

DAY = dt.date(2024, 5, 1)


def play(story: str, budget: Budget) -> Budget:
    """'reserve 60, settle 60 at 45' → the budget after it."""
    for sentence in story.split(", "):
        match sentence.split():
            case ["reserve", amount]:
                budget = budget.reserve(int(amount))
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
    ("story", "reserved", "settled", "available", "excess", "overspend"),
    [
        ("reserve 60", 60, 0, 40, 0, 0),
        ("reserve 100", 100, 0, 0, 0, 0),
        ("reserve 60, settle 60 at 45", 0, 45, 55, 0, 0),
        ("reserve 60, settle 60 at 0", 0, 0, 100, 0, 0),
        ("reserve 60, release 60", 0, 0, 100, 0, 0),
        ("reserve 60, release 20", 40, 0, 60, 0, 0),
        ("reserve 60, settle 60 at 90", 0, 90, 10, 0, 0),
        ("reserve 60, settle 60 at 130", 0, 130, 0, 30, 30),
        ("settle 0 at 30", 0, 30, 70, 0, 0),
        ("reserve 90, settle 0 at 30", 90, 30, 0, 20, 0),
        ("reserve 90, settle 0 at 30, release 90", 0, 30, 70, 0, 0),
        ("settle 0 at 130, settle 0 at -20", 0, 110, 0, 10, 10),
        ("settle 0 at 130, settle 0 at -50", 0, 80, 20, 0, 0),
        ("reserve 60, limit 50", 60, 0, 0, 10, 0),
        ("reserve 60, limit 50, release 60", 0, 0, 50, 0, 0),
        ("reserve 60, limit 50, limit 80", 60, 0, 20, 0, 0),
        ("settle 0 at 60, limit 0", 0, 60, 0, 60, 60),
        ("settle 0 at 60, limit none", 0, 60, None, 0, 0),
        ("limit none, reserve 1000, settle 1000 at 2000", 0, 2000, None, 0, 0),
        ("limit none, settle 0 at 300, limit 100", 0, 300, 0, 200, 200),
        ("limit none, settle 0 at 30, limit 100", 0, 30, 70, 0, 0),
    ],
)
def test_money_is_held_settled_or_available(story, reserved, settled, available, excess, overspend):
    budget = play(story, Budget.of("brand", "b-7", DAY, 100))
    assert budget.reserved_micros == reserved
    assert budget.settled_micros == settled
    assert budget.available_micros == available
    assert budget.excess_micros == excess
    assert budget.overspend_micros == overspend


def test_more_than_is_available_cannot_be_reserved():
    budget = Budget.of("brand", "b-7", DAY, 100).reserve(60)
    assert not budget.can_reserve(41)
    with pytest.raises(BudgetExhausted) as declined:
        budget.reserve(41)
    assert (declined.value.amount_micros, declined.value.available_micros) == (41, 40)


@pytest.mark.parametrize(
    "story",
    [
        "reserve -1",
        f"reserve {MONEY_MOST + 1}",
        "release 1",
        "settle 1 at 0",
        "settle 0 at -1",
        f"limit {MONEY_MOST + 1}",
    ],
)  # fmt: skip
def test_no_amount_is_negative_or_inexact(story):
    with pytest.raises(MoneyOutOfRange):
        play(story, Budget.of("brand", "b-7", DAY, None))


AMOUNTS = st.integers(0, 200)
STEPS = st.one_of(
    st.tuples(st.just("reserve"), AMOUNTS, AMOUNTS),
    st.tuples(st.just("release"), AMOUNTS, AMOUNTS),
    st.tuples(st.just("settle"), AMOUNTS, st.integers(-200, 400)),
    st.tuples(st.just("limit"), st.none() | AMOUNTS, AMOUNTS),
)


@given(limit=st.none() | st.integers(0, 500), steps=st.lists(STEPS, max_size=30))
def test_the_budget_always_adds_up(limit, steps):
    budget = Budget.of("brand", "b-7", DAY, limit)
    for verb, amount, cost in steps:
        before = budget
        if verb == "reserve":
            if budget.can_reserve(amount):
                budget = budget.reserve(amount)
                assert budget.excess_micros == before.excess_micros, "a reservation never makes an excess"
        elif verb == "release":
            budget = budget.release(min(amount, budget.reserved_micros))
        elif verb == "settle":
            budget = budget.settle(min(amount, budget.reserved_micros), max(cost, -budget.settled_micros))
        else:
            budget = budget.set_limit(amount)
        out = budget.leased_micros + budget.reserved_micros + budget.settled_micros
        if budget.budget_micros is None:
            assert (budget.available_micros, budget.excess_micros, budget.overspend_micros) == (None, 0, 0)
        else:
            assert budget.available_micros is not None
            assert budget.available_micros >= 0
            assert budget.budget_micros == budget.available_micros + out - budget.excess_micros
            assert budget.excess_micros == max(0, out - budget.budget_micros)
            assert budget.overspend_micros == max(0, budget.settled_micros - budget.budget_micros)


@given(held=AMOUNTS, cost=AMOUNTS, limit=st.integers(0, 500))
def test_a_settlement_and_its_taking_back_leave_no_trace(held, cost, limit):
    before = Budget.of("brand", "b-7", DAY, limit)
    assert before.settle(0, cost).settle(0, -cost) == before
    if before.can_reserve(held):
        assert before.reserve(held).release(held) == before
