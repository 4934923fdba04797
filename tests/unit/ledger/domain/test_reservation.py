"""How long a hold lives, and how it shrinks."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.budget import MONEY_MOST
from ledger.domain.reservation import (
    EXPIRED,
    OPEN,
    RETURNED,
    SETTLED,
    VOID,
    Lifetimes,
    Reservation,
    due_at,
    expires_at,
    held_at,
)

START = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)
LIVES = Lifetimes(reservation_ttl_s=1800.0, conversion_days=30)
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)


def end_of(pricing_model: str) -> dt.datetime:
    return expires_at(pricing_model, START, LIVES)


def reservation(pricing_model: str = "cpm", amount: int = 3000) -> Reservation:
    return Reservation(
        "r", "b", None, "p", pricing_model, START.date(), amount, amount, 0, OPEN, START,
        expires_at(pricing_model, START, LIVES), due_at(pricing_model, START, end_of(pricing_model), START),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("pricing_model", "age", "held"),
    [
        ("cpm", HOUR / 2 - dt.timedelta(microseconds=1), 3000),
        ("cpm", HOUR / 2, 0),
        ("cpc", HOUR / 2, 0),
        ("cpa", HOUR / 2, 3000),
        ("cpa", DAY - HOUR, 3000),
        ("cpa", DAY, 2900),
        ("revshare", DAY + HOUR, 2900),
        ("cpa", 29 * DAY, 100),
        ("cpa", 30 * DAY, 0),
    ],
)
def test_a_hold_lives_as_long_as_its_outcome_may_take(pricing_model, age, held):
    assert held_at(3000, pricing_model, START, end_of(pricing_model), START + age) == held


def test_a_shrinking_hold_is_rounded_up():
    assert held_at(1, "cpa", START, START + 30 * DAY, START + 29 * DAY) == 1
    assert held_at(100, "cpa", START, START + 30 * DAY, START + DAY) == 97


def test_a_brand_that_converts_early_frees_early():
    early = {"curve": lambda age: 0.0 if age >= 0.1 else 1.0}
    by_day_three = held_at(1000, "cpa", START, START + 30 * DAY, START + 3 * DAY, **early)
    assert by_day_three == 0


@given(
    amount=st.integers(0, MONEY_MOST),
    pricing_model=st.sampled_from(["cpm", "cpc", "cpa", "revshare"]),
    hours=st.lists(st.integers(0, 24 * 40), min_size=1).map(sorted),
)
def test_a_hold_never_grows_and_is_looked_at_until_it_ends(amount, pricing_model, hours):
    held = reservation(pricing_model, amount)
    for hour in hours:
        now = START + hour * HOUR
        before, held = held, held.age(now)
        assert 0 <= held.held_micros <= before.held_micros
        if held.is_open:
            assert held.due_at is not None
            assert now < held.due_at <= held.expires_at
        else:
            assert (held.status, held.held_micros, held.due_at) == (EXPIRED, 0, None)
    if pricing_model in ("cpm", "cpc") and hours[-1] >= 1:
        assert not held.is_open


@pytest.mark.parametrize("status", [SETTLED, EXPIRED, RETURNED, VOID])
def test_a_hold_ends_once(status):
    ended = reservation().end(status, START)
    assert (ended.held_micros, ended.due_at, ended.ended_at) == (0, None, START)
    with pytest.raises(ValueError, match="has ended already"):
        ended.end(EXPIRED, START)
    assert ended.age(START + 40 * DAY) is ended


def test_only_money_that_went_back_makes_a_cost_late():
    assert not reservation().is_late
    assert not reservation().end(SETTLED, START).is_late
    assert reservation().end(EXPIRED, START).is_late
    assert reservation().end(RETURNED, START).is_late
    assert reservation().end(VOID, START).is_late, "there was none"
