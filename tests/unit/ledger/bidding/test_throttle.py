"""λ, the throttle and the current ROAS."""

import itertools
import math
import random

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
from ledger.bidding.throttle import Admissions, Throttle
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


SHARES = st.floats(0, 1)


@given(seed=st.integers(), before=st.lists(SHARES, max_size=50), shares=st.lists(SHARES, min_size=1, max_size=8))
def test_a_larger_share_keeps_every_auction_of_a_smaller_one(seed, before, shares):
    admissions = Admissions(random.Random(seed).random)
    for share in before:
        admissions.auction("caller")("b-1", share)
    auction = admissions.auction("caller")
    taken = {share: auction("b-1", share) for share in shares}
    for share, takes_part in taken.items():
        assert not takes_part or all(taken[larger] for larger in taken if larger > share)
        assert auction("b-1", share) == takes_part, "the same when it is asked again"
    assert auction("b-1", 1.0)
    assert not auction("b-1", 0.0)


@given(seed=st.integers(), shares=st.lists(st.floats(0, 0.999), max_size=300))
def test_a_caller_gets_the_share_of_its_auctions_whatever_it_tries(seed, shares):
    """An invariant: among any number of auctions, at most one more than the shares' sum, and at most one fewer."""
    admissions, taken, due = Admissions(random.Random(seed).random), 0, 0.0
    for share in shares:
        taken += admissions.auction("caller")("b-1", share)
        due += share
        assert due - 1 - 1e-9 <= taken <= due + 1 + 1e-9


@given(seed=st.integers(), bids=st.lists(st.lists(st.floats(0, 0.999), min_size=1, max_size=5), max_size=100))
def test_several_bids_of_a_request_are_one_auction(seed, bids):
    admissions, taken, due = Admissions(random.Random(seed).random), 0, 0.0
    for shares in bids:
        auction = admissions.auction("caller")
        decisions = [auction("b-1", share) for share in shares]
        taken += any(decisions)
        due += max(shares)
        assert due - 1 - 1e-9 <= taken <= due + 1 + 1e-9


def test_ten_thousand_tries_win_what_the_share_gives():
    """With a hash of brand and request_id, 10,000 chosen ids won 10,000 times."""
    admissions = Admissions(random.Random(7).random)
    assert 199 <= sum(admissions.auction("grinder")("b-1", 0.02) for _ in range(10_000)) <= 201


def test_one_caller_s_tries_are_not_another_s():
    admissions = Admissions(random.Random(7).random)
    for _ in range(10_000):
        admissions.auction("grinder")("b-1", 0.02)
    assert 9 <= sum(admissions.auction("honest")("b-1", 0.1) for _ in range(100)) <= 11


def test_the_share_is_exact_in_the_mean_from_the_first_auction_on():
    chance = random.Random(7).random
    first = [[Admissions(chance).auction("caller")("b-1", 0.3)] for _ in range(20_000)]
    assert sum(map(sum, first)) == pytest.approx(6000, abs=4 * math.sqrt(20_000 * 0.3 * 0.7))


def test_nobody_can_foresee_which_auction_it_is():
    """After 49 auctions of 50 without a win, the next is no certain one, and the first may win as well as the last."""
    admissions = Admissions(random.Random(7).random)
    won = [n for n in range(200_000) if admissions.auction("caller")("b-1", 0.02)]
    gaps = [after - before for before, after in itertools.pairwise(won)]
    assert min(gaps) < 10 and max(gaps) > 90
    assert sum(gap == 50 for gap in gaps) < len(gaps) / 20


def test_brands_are_throttled_in_different_requests():
    admissions = Admissions(random.Random(7).random)
    auctions = [admissions.auction("caller") for _ in range(20_000)]
    both = sum(auction("b-1", 0.5) and auction("b-2", 0.5) for auction in auctions)
    assert both == pytest.approx(5000, rel=0.1)


def test_what_is_remembered_of_callers_is_bounded():
    admissions = Admissions(random.Random(7).random, most=10)
    taken = sum(admissions.auction(f"caller-{n % 1000}")("b-1", 0.3) for n in range(20_000))
    assert len(admissions._counts) <= 10
    assert taken == pytest.approx(6000, abs=4 * math.sqrt(20_000 * 0.3 * 0.7)), "and the mean stays exact"


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
