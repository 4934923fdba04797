"""κ by day: what it reacts to, what it stays within, and when it is taken off."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.bidding.brand_state import FACTOR_BOUNDS, BrandState, Earned, Feedback, Group, Limits, Traffic
from ledger.bidding.kill_switch import CALM_LOOKS, Envelope, KillSwitch
from ledger.bidding.sketch import Sketch
from ledger.bidding.solver import resolve

NOTHING = Earned()
EVEN = 5_000
"""Opportunities from midnight to noon."""


def market(seed: int = 0, quality: float = 1.5, sigma: float = 1.0, n: int = EVEN, scale: float = 1.0) -> Sketch:
    draw = np.random.default_rng(seed)
    cost = 700.0 * np.exp(draw.normal(0.0, 0.5, n)) * scale
    sketch = Sketch()
    sketch.add_many(cost * quality * np.exp(draw.normal(0.0, sigma, n) - sigma**2 / 2), cost)
    return sketch


def at_noon(
    limits: Limits, seen: Sketch | None = None, night: float | None = None, earned: Earned = NOTHING
) -> BrandState:
    brand = BrandState(limits, night)
    brand.fade(0.5)
    brand.saw(market() if seen is None else seen)
    brand.earns(earned)
    return brand


def kappa(limits: Limits, **others) -> float:
    brand = at_noon(limits, **others)
    resolve([Group({"b": brand})], 0.5)
    return brand.kappa


@given(st.floats(0.5, 20.0), st.floats(0.5, 20.0))
def test_a_higher_target_never_lowers_kappa(one, other):
    low, high = sorted((one, other))
    assert kappa(Limits(low)) <= kappa(Limits(high)) + 1e-9


@given(st.floats(1.0, 1e8), st.floats(1.0, 1e8))
def test_more_budget_never_raises_kappa(one, other):
    low, high = sorted((one, other))
    # An unlimited target keeps the cold κ, which is τ, out of it.
    assert kappa(Limits(None, high)) <= kappa(Limits(None, low)) + 1e-9


@given(
    target=st.floats(0.1, 50.0),
    shared=st.none() | st.floats(0.1, 50.0),
    night=st.none() | st.floats(0.0, 1.0),
    revenue=st.floats(0.0, 1e9),
    cost=st.floats(0.0, 1e9),
)
def test_kappa_stays_within_its_bounds_when_no_budget_asks_for_more(target, shared, night, revenue, cost):
    first = None if night is None else 3.0 * night * target
    brands = {
        name: at_noon(Limits(target), market(seed), first, Earned(revenue, revenue, cost))
        for seed, name in enumerate("ab")
    }
    resolve([Group(brands, Limits(shared))], 0.5)
    assert all(0.0 <= brand.kappa <= 3.0 * target * (1 + 1e-9) and not brand.capped for brand in brands.values())


def test_without_anything_seen_kappa_is_the_target_or_last_nights():
    cold, warm = BrandState(Limits(2.0)), BrandState(Limits(2.0), 0.7)
    resolve([Group({"cold": cold}), Group({"warm": warm})], 0.0)
    assert (cold.kappa, warm.kappa) == (2.0, 0.7)


def test_last_nights_kappa_fades_as_evidence_comes():
    cold = kappa(Limits(2.0), seen=market(n=20_000))
    for night in (3.0 * cold, cold / 3.0):
        few = kappa(Limits(2.0), seen=market(n=3), night=night)
        many = kappa(Limits(2.0), seen=market(n=20_000), night=night)
        assert abs(few - night) < abs(few - cold)
        assert many == pytest.approx(cold, rel=0.05)


def test_a_deficit_raises_and_a_surplus_lowers_kappa():
    even = kappa(Limits(2.0), earned=Earned(2e6, 2e6, 1e6))
    assert kappa(Limits(2.0), earned=Earned(1.5e6, 1.5e6, 1e6)) > even
    assert kappa(Limits(2.0), earned=Earned(2.5e6, 2.5e6, 1e6)) < even


def test_a_hopeless_deficit_wins_what_pays_for_itself():
    assert kappa(Limits(2.0), earned=Earned(0.0, 0.0, 1e12)) == pytest.approx(2.0, rel=1e-6)


def test_held_money_counts_as_spent():
    spent = kappa(Limits(None, 2e6), earned=Earned(1.0, 1.0, 1e6))
    held = kappa(Limits(None, 2e6), earned=Earned(1.0, 1.0, 0.0, held_cost_micros=1e6))
    assert spent == held > kappa(Limits(None, 2e6))


def test_a_spent_budget_wins_nothing_and_says_so():
    brand = at_noon(Limits(2.0, 1e6), earned=Earned(2e6, 2e6, 1e6))
    resolve([Group({"b": brand})], 0.5)
    assert brand.capped and brand.kappa > 15 * 2.0  # beyond all that was seen


def test_half_the_prices_of_everything_is_the_same_kappa():
    limits, earned = Limits(2.0, 2e6), Earned(5e5, 5e5, 3e5)
    for scale in (1e-3, 1e3):
        scaled = kappa(
            Limits(2.0, 2e6 * scale), seen=market(scale=scale), earned=Earned(*(amount * scale for amount in earned))
        )
        assert scaled == pytest.approx(kappa(limits, earned=earned), rel=1e-6)


def test_a_portfolios_budget_is_one_price_for_all_and_their_own_limits_come_on_top():
    brands = {
        "easy": at_noon(Limits(0.1), market(1)),
        "other": at_noon(Limits(0.1), market(2, quality=3.0)),
        "strict": at_noon(Limits(6.0), market(3)),
    }
    resolve([Group(brands, Limits(None, 2e6))], 0.5)
    assert brands["easy"].kappa == pytest.approx(brands["other"].kappa, rel=0.01)
    assert brands["easy"].capped
    alone = kappa(Limits(6.0), seen=market(3))
    assert brands["strict"].kappa >= min(alone, brands["easy"].kappa) * 0.999


def test_a_portfolios_target_is_kept_jointly():
    brands = {"good": at_noon(Limits(0.1), market(1, quality=4.0)), "poor": at_noon(Limits(0.1), market(2))}
    resolve([Group(brands, Limits(4.0))], 0.5)
    assert brands["good"].kappa <= 0.3 * (1 + 1e-9)  # its own bound: 3 τ
    apart = {"good": at_noon(Limits(4.0), market(1, quality=4.0)), "poor": at_noon(Limits(4.0), market(2))}
    resolve([Group({name: brand}) for name, brand in apart.items()], 0.5)
    together = {"good": at_noon(Limits(2.0), market(1, quality=4.0)), "poor": at_noon(Limits(2.0), market(2))}
    resolve([Group(together, Limits(4.0))], 0.5)
    assert apart["good"].kappa < together["good"].kappa
    assert together["poor"].kappa < apart["poor"].kappa


def test_groups_solved_together_and_one_by_one_are_the_same():
    def groups():
        return [
            Group({"a": at_noon(Limits(2.0, 1e6), market(1)), "b": at_noon(Limits(3.0), market(2))}, Limits(2.5, 2e6)),
            Group({"c": at_noon(Limits(1.8), market(3))}),
            Group({}),
        ]

    together, apart = groups(), groups()
    resolve(together, 0.5)
    for group in apart:
        resolve([group], 0.5)
    for one, other in zip(together, apart, strict=True):
        assert [b.kappa for b in one.brands.values()] == pytest.approx([b.kappa for b in other.brands.values()])


def test_the_state_pickles_and_goes_on_the_same():
    group = Group({"a": at_noon(Limits(2.0, 1e6)), "b": at_noon(Limits(3.0))}, Limits(2.5, 2e6))
    copy = pickle.loads(pickle.dumps(group))
    resolve([group], 0.6)
    resolve([copy], 0.6)
    assert [b.kappa for b in group.brands.values()] == [b.kappa for b in copy.brands.values()]


def test_midnight_frees_the_money_and_keeps_the_market():
    brand = at_noon(Limits(2.0), earned=Earned(1.0, 1.0, 1e6))
    brand.start_day(Limits(3.0), 0.9)
    assert (brand.kappa, brand.at, brand.earned, brand.seen) == (0.9, 0.0, Earned(), 0.0)
    assert brand.exposure > 0.0 and brand.sketch.totals()[2] > 0.0


def test_a_payout_that_is_cut_is_followed_at_once():
    brand = at_noon(Limits(1.2), market(1))
    brand.saw(market(2, quality=0.75, n=1_100))
    revenue, cost, _ = brand.sketch.totals()
    assert revenue / cost == pytest.approx(0.75, rel=0.15)


def test_a_market_that_stays_is_left_alone():
    brand = at_noon(Limits(1.2), market(1))
    before = brand.sketch.sums.copy()
    delta = market(2, n=1_100)
    brand.saw(delta)
    assert np.allclose(brand.sketch.sums, before + delta.sums)


@settings(max_examples=30)
@given(st.floats(0.1, 3.0))
def test_the_factor_is_learned_within_its_bounds(true_factor):
    feedback, before = Feedback(), Earned()
    for step in range(1, 300):
        now = Earned(step * 1_000.0 * true_factor, step * 1_000.0, step * 500.0)
        feedback.learn(before, now)
        before = now
    assert feedback.factor == pytest.approx(min(max(true_factor, FACTOR_BOUNDS[0]), FACTOR_BOUNDS[1]), rel=0.05)


def test_rare_conversions_move_the_factor_slowly():
    feedback = Feedback()
    feedback.learn(Earned(), Earned(5e6, 1e6, 1e5))
    assert 1.0 < feedback.factor < 1.1


def test_traffic_that_does_not_rise_is_refused():
    for wrong in ((), (0.0,), (0.1, 1.0), (0.0, 0.9), (0.0, 0.6, 0.5, 1.0), (0.0, math.nan, 1.0)):
        with pytest.raises(ValueError, match="shares rise"):
            Traffic(wrong)


ENVELOPE = Envelope(0.1, 5.0, 4.0)


@pytest.mark.parametrize(
    ("kappa", "capped", "spend_rate", "trips"),
    [
        (1.0, False, 1.0, False),
        (5.1, False, 1.0, True),
        (5.1, True, 1.0, False),
        (0.05, False, 1.0, True),
        (1.0, False, 4.1, True),
        (math.nan, True, 1.0, True),
        (1.0, False, math.nan, True),
    ],
)
def test_the_switch_trips_outside_its_envelope(kappa, capped, spend_rate, trips):
    switch = KillSwitch().look(kappa, capped, spend_rate, ENVELOPE)
    assert (switch.reason is not None) == trips
    assert switch.decide(kappa if trips else 1.0, 1.0, 1.5, 0.02) == ((1.5, 0.02) if trips else (1.0, 1.0))


def test_the_switch_releases_after_a_calm_while_only():
    switch = KillSwitch().look(9.0, False, 1.0, ENVELOPE)
    for _ in range(CALM_LOOKS * 2):  # inside, but near its edge
        switch = switch.look(4.5, False, 1.0, ENVELOPE)
    assert switch.reason is not None
    for _ in range(CALM_LOOKS - 1):
        switch = switch.look(1.0, False, 1.0, ENVELOPE)
    assert switch.reason is not None
    assert switch.look(1.0, False, 1.0, ENVELOPE) == KillSwitch()
    assert switch.look(4.5, False, 1.0, ENVELOPE).calm_looks == 0
