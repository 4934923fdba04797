"""Rates follow what they see, from the top down, and never what they have not seen yet."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.features.hierarchical_rates import Filter, fade, walk
from training.features.keys import BRAND


class World:
    """Days × brands × slots of equal exposure; slots of brand b are 0 … slots − 1 within it."""

    def __init__(self, days, brands, slots, exposure=10_000.0):
        day, brand, slot = np.meshgrid(np.arange(days), np.arange(brands), np.arange(slots), indexing="ij")
        self.day, self.brand, self.slot = day.ravel(), brand.ravel(), slot.ravel()
        leaf = self.brand * slots + self.slot
        self.levels = np.stack([np.zeros_like(leaf), self.brand, leaf]).astype(np.int32)
        self.parents = [np.zeros(1, np.int32), np.zeros(brands, np.int32), np.repeat(np.arange(brands), slots)]
        self.counts = [1, brands, brands * slots]
        self.starts = np.arange(days + 1) * brands * slots
        self.exposure = np.full(len(leaf), exposure)

    def walk(self, rate, believed=None, **more):
        believed = believed or Filter(levels=3)
        return walk(
            self.starts,
            self.levels,
            self.counts,
            self.parents,
            rate * self.exposure,
            self.exposure,
            believed,
            **more,
        )


def test_a_steady_rate_is_known_from_the_first_day_on():
    world = World(days=6, brands=2, slots=2)
    rate = np.where(world.brand == 0, 3.0, 1.0) * np.where(world.slot == 0, 2.0, 0.5)
    found = world.walk(rate)
    assert np.isnan(found.logs[world.day == 0]).all()
    np.testing.assert_allclose(np.exp(found.logs[world.day == 5]), rate[world.day == 5], rtol=0.1)
    np.testing.assert_allclose(np.exp(found.state[2]), rate[world.day == 5], rtol=0.1)


def test_a_slots_standing_survives_the_day_on_which_its_brand_is_halved():
    """After a brand-wide cut, a slot that was not even seen that day is expected at about half its rate."""
    world = World(days=21, brands=2, slots=3)
    known = np.exp(world.walk(np.array([4.0, 1.0, 0.25])[world.slot]).state[2])
    rate = np.array([4.0, 1.0, 0.25])[world.slot] * np.where((world.brand == 0) & (world.day >= 20), 0.5, 1.0)
    unseen = (world.day == 20) & (world.brand == 0) & (world.slot == 2)
    world.exposure[unseen] = 0.0
    found = np.exp(world.walk(rate).state[2])
    assert 0.45 < found[2] / known[2] < 0.75
    np.testing.assert_allclose(found[3:], known[3:], rtol=0.12)  # the other brand hardly moves


@pytest.mark.parametrize(("exposure", "share"), [(10.0, 0.2), (100_000.0, 0.8)])
def test_a_key_moves_away_from_its_parent_as_far_as_it_has_been_seen(exposure, share):
    world = World(days=1, brands=1, slots=20)
    odd = world.slot == 19
    world.exposure = np.where(odd, exposure, 100_000.0)
    rate = np.where(odd, 4.0, 1.0)
    moved = world.walk(rate).state[2][19] - world.walk(rate).state[BRAND][0]
    assert (moved / np.log(4.0) < share) if share < 0.5 else (moved / np.log(4.0) > share)


@given(seed=st.integers(0, 2**16), cut=st.integers(1, 5))
def test_tomorrow_changes_nothing_today(seed, cut):
    world = World(days=6, brands=2, slots=2)
    dice = np.random.default_rng(seed)
    rate = dice.gamma(1.0, 1.0, len(world.day))
    other = np.where(world.day >= cut, dice.gamma(1.0, 50.0, len(world.day)), rate)
    seen = world.day <= cut
    np.testing.assert_array_equal(world.walk(rate).logs[seen], world.walk(other).logs[seen])


@given(scale=st.sampled_from([1e-6, 0.01, 7.0, 1e6]), seed=st.integers(0, 100))
def test_the_unit_of_money_means_nothing(scale, seed):
    world = World(days=5, brands=2, slots=3)
    rate = np.random.default_rng(seed).gamma(2.0, 1.0, len(world.day))
    ours, theirs = world.walk(rate), world.walk(rate * scale)
    np.testing.assert_allclose(theirs.logs, ours.logs + np.log(scale), rtol=0, atol=1e-9)


@given(seed=st.integers(0, 2**16))
def test_whatever_is_seen_every_rate_is_a_number(seed):
    world = World(days=8, brands=3, slots=2)
    dice = np.random.default_rng(seed)
    world.exposure = dice.choice([0.0, 1.0, 1e12], len(world.day))
    revenue = dice.choice([0.0, -5.0, 1e-6, 1e15], len(world.day))
    found = walk(world.starts, world.levels, world.counts, world.parents, revenue, world.exposure, Filter(levels=3))
    assert not np.isinf(found.logs).any()
    started = ~np.isnan(found.logs)
    assert started.all() or (world.day[started].min() > world.day[~started].max() if started.any() else True)
    assert all(np.isfinite(level).all() or np.isnan(level).all() for level in found.state)


def test_what_nobody_has_ever_earned_is_not_known():
    world = World(days=3, brands=1, slots=2)
    found = world.walk(np.zeros(len(world.day)))
    assert np.isnan(found.logs).all() and all(np.isnan(level).all() for level in found.state)


def test_a_jump_is_followed_at_once():
    world = World(days=12, brands=2, slots=2)
    rate = np.where((world.brand == 0) & (world.day >= 11), 0.1, 1.0)
    jumps = np.zeros((12, 2), np.bool_)
    slow = Filter(levels=3, drift_top=0.0001, shock_top=0.2)
    lazy = np.exp(world.walk(rate, slow).state[BRAND][0])
    jumps[11, 0] = True
    quick = np.exp(world.walk(rate, slow, jumps=jumps).state[BRAND][0])
    assert abs(np.log(quick / 0.1)) < 0.5 * abs(np.log(lazy / 0.1))


def test_factors_and_the_mean_make_the_rate():
    world = World(days=5, brands=2, slots=2)
    kept = np.empty((len(world.day), 2), np.float32)
    found = world.walk(np.random.default_rng(1).gamma(2.0, 1.0, len(world.day)), factors=kept)
    last = world.day == 4
    rest = found.logs[last] - kept[last].sum(axis=1)  # everybody's, which is the same for all
    np.testing.assert_allclose(rest, rest[0], atol=1e-5)


def test_exposure_fades_by_half_lives_and_yesterday_counts_in_full():
    starts, codes = np.array([0, 1, 2, 3, 4]), np.array([[0, 0, 0, 0], [0, 1, 0, 0]], np.int32)
    logs = np.empty((4, 4), np.float32)
    exposure = np.array([8.0, 4.0, 2.0, 1.0])
    state = fade(starts, codes, [1, 2], exposure, (1.0, 2.0), logs)
    seen = np.expm1(logs.astype(np.float64)).reshape(4, 2, 2)
    np.testing.assert_allclose(seen[:, 0, 0], [0, 8, 4 + 4, 2 + 2 + 2], rtol=1e-6)
    np.testing.assert_allclose(seen[:, 1, 0], [0, 0, 4, 2 + 2], rtol=1e-6)
    np.testing.assert_allclose(seen[2, 1, 1], 8 / 2**0.5, rtol=1e-6)
    np.testing.assert_allclose(state[1], [[1 + 2 / 2 + 8 / 8, 1 + 2 / 2**0.5 + 8 / 2**1.5], [1, 2]], rtol=1e-12)
    for ours, theirs in zip(state, fade(starts, codes, [1, 2], exposure, (1.0, 2.0)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_rare_revenue_is_expected_as_high_as_it_is_in_the_mean():
    """One exposure in ten thousand earns: the mean of logs would lie far below."""
    world = World(days=60, brands=3, slots=30, exposure=4000.0)
    dice = np.random.default_rng(3)
    earned = dice.poisson(0.4, len(world.day)) * dice.lognormal(0, 0.5, len(world.day))
    found = world.walk(earned / world.exposure)
    late = world.day >= 30
    foreseen = np.exp(found.logs[late]) * world.exposure[late]
    assert 0.85 < foreseen.sum() / earned[late].sum() < 1.15


def test_one_wrong_line_in_somebodys_books_does_not_carry_the_day_away():
    world = World(days=12, brands=1, slots=4)
    rate = np.ones(len(world.day))
    rate[(world.day == 10) & (world.slot == 1)] = 1e5
    found = np.exp(world.walk(rate).state[2])
    assert (found < 10).all()
