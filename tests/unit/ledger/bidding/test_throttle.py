"""λ, the throttle and the current ROAS."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.bidding.revenue_completion import (
    DELAYS_LEAST,
    Completed,
    DaySums,
    History,
    approval_share,
    arrived,
    completed,
    completion,
    current_roas,
)
from ledger.bidding.throttle import Throttle, admitted
from ledger.domain.pricing import kappa, lambda_

MULTIPLIERS = st.floats(0, 100)
TARGETS = st.floats(0.01, 100)


@pytest.mark.parametrize(
    ("mu_b", "tau_b", "mu_p", "tau_p", "nu_b", "nu_p", "expected"),
    [
        (0, 2, 0, 0, 0, 0, 0.0),  # nothing binds: every impression with revenue is worth it
        (1, 2, 0, 0, 0, 0, 1.0),
        (1e9, 2, 0, 0, 0, 0, 2.0),  # a hard constraint: revenue ÷ cost must reach the target
        (1, 2, 1, 5, 0, 0, 7 / 3),
        (1, 2, 0, 0, 3, 0, 2.5),
        (0, 2, 0, 0, 40, 10, 50.0),  # the price of a scarce budget has no bound
        (1, 2, 9, 100, 0, 0, 6.0),  # 3 τ
    ],
)
def test_kappa_prices_both_constraints(mu_b, tau_b, mu_p, tau_p, nu_b, nu_p, expected):
    assert kappa(mu_b, tau_b, mu_p, tau_p, nu_b, nu_p) == pytest.approx(expected)


@given(mu_b=MULTIPLIERS, tau_b=TARGETS, mu_p=MULTIPLIERS, tau_p=TARGETS)
def test_without_a_budget_price_kappa_stays_in_bounds(mu_b, tau_b, mu_p, tau_p):
    assert 0 <= kappa(mu_b, tau_b, mu_p, tau_p) <= 3 * tau_b


def test_the_multiplier_scales_lambda():
    assert lambda_(1.5, 2.0) == 3.0


@given(brand=st.text(max_size=20), request=st.text(max_size=20), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_larger_share_keeps_every_auction_of_a_smaller_one(brand, request, shares):
    low, high = sorted(shares)
    assert admitted(brand, request, high) or not admitted(brand, request, low)
    assert admitted(brand, request, 1.0)
    assert not admitted(brand, request, 0.0)


def test_the_share_is_kept_over_many_requests():
    taken = sum(admitted("b-1", f"r-{number}", 0.3) for number in range(20_000))
    assert taken == pytest.approx(6000, abs=4 * math.sqrt(20_000 * 0.3 * 0.7))


def test_brands_are_throttled_in_different_requests():
    both = sum(admitted("b-1", f"r-{n}", 0.5) and admitted("b-2", f"r-{n}", 0.5) for n in range(20_000))
    assert both == pytest.approx(5000, abs=4 * math.sqrt(20_000 * 0.25 * 0.75))


@pytest.mark.parametrize(
    ("story", "roas", "expected"),
    [
        ("above: free", [0.9], (1.0, False)),
        ("below: ten points a minute", [0.7], (0.9, True)),
        ("long below: the exploration share stays", [0.7] * 20, (0.02, True)),
        ("between 1 and 1.05 times: waits", [0.7, 0.7, 0.82], (0.8, True)),
        ("never was below: the band does not throttle", [0.82], (1.0, False)),
        ("recovered: rises ten points a minute", [0.7, 0.7, 0.7, 0.85], (0.8, False)),
        ("unknown: never throttled", [0.7, 0.7, math.nan], (1.0, False)),
    ],
)
def test_the_throttle_has_hysteresis(story, roas, expected):
    throttle = Throttle()
    for value in roas:
        throttle = throttle.step(value, throttle_roas=0.8, exploration=0.02, elapsed_s=60.0)
    assert (pytest.approx(throttle.share), throttle.throttled) == expected, story


@given(
    looks=st.lists(st.tuples(st.floats(0, 3) | st.just(math.nan), st.floats(0, 600)), max_size=40),
    exploration=st.floats(0, 1),
)
def test_the_share_moves_smoothly_and_never_under_exploration(looks, exploration):
    throttle = Throttle()
    for roas, elapsed_s in looks:
        before, throttle = throttle, throttle.step(roas, 0.8, exploration, elapsed_s)
        assert exploration <= throttle.share <= 1
        if not math.isnan(roas):
            assert abs(throttle.share - before.share) <= 0.1 * min(elapsed_s / 60, 1) + 1e-12


def test_roas_is_unknown_below_the_least_impressions_or_without_cost():
    assert math.isnan(current_roas(Completed(999, 100, 100.0), 1000))
    assert math.isnan(current_roas(Completed(1000, 0, 100.0), 1000))
    assert current_roas(Completed(1000, 100, 150.0), 1000) == 1.5


def test_pending_revenue_counts_as_far_as_it_will_be_approved():
    days = {0: DaySums(1000, 10, 2, 1_000, 600, 500)}
    assert completed(days, 7, 0.5, History()).revenue_micros == pytest.approx(600 + 0.8 * 500)
    strict = History(approved=10, rejected=990)
    assert completed(days, 7, 0.5, strict).revenue_micros == pytest.approx(600 + 500 * 18 / 1010)


def test_what_is_usual_stands_in_until_a_brand_has_its_own_record():
    everybody = History(approved=490, rejected=500)
    assert approval_share(History(), everybody) == pytest.approx(498 / 1000)
    assert approval_share(History(approved=1000), everybody) > 0.99


def test_days_before_the_window_are_not_counted():
    days = {6: DaySums(10, cost_micros=1, revenue_micros=1), 7: DaySums(999, cost_micros=99, revenue_micros=99)}
    assert completed(days, 7, 0.5, History()) == Completed(10, 1, 1.0)


def test_arrival_follows_the_delays_that_were_seen():
    history = History(delays=(40, 0, 60))
    assert [arrived(history, age) for age in (-1, 0, 0.5, 1, 2, 2.5, 3, 90)] == [0, 0, 0.2, 0.4, 0.4, 0.7, 1, 1]
    assert arrived(History(delays=(DELAYS_LEAST - 1,)), 0.0) == 1.0


def test_a_brand_that_has_just_begun_is_behind_its_revenue():
    slow = History(delays=(50, 0, 0, 0, 50))
    begun_today = [(0.5, 100)]
    assert completion(begun_today, 7.0, slow) == pytest.approx(4.0)
    assert completion(begun_today, 7.0, History()) == 1.0


def test_in_a_steady_state_nothing_is_missing():
    slow = History(delays=(20, 20, 20, 20, 20))
    steady = [(ago + 0.5, 100) for ago in range(37)]
    assert completion(steady, 7.0, slow) == pytest.approx(1.0)


@given(delays=st.lists(st.integers(0, 100), max_size=30), costs=st.lists(st.integers(0, 10**9), max_size=40))
def test_completion_is_bounded(delays, costs):
    factor = completion([(ago + 0.5, cost) for ago, cost in enumerate(costs)], 7.0, History(delays=tuple(delays)))
    assert 0.2 <= factor <= 5.0
