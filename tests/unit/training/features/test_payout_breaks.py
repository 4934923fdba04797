import numpy as np
import pytest

from training.features.payout_breaks import find, jumps

DAYS = 30


def series(noise, change_day, factor, seed=0, clicks=5000.0):
    dice = np.random.default_rng(seed)
    payout = 200_000.0 * np.exp(dice.normal(0, noise, DAYS)) * np.where(np.arange(DAYS) >= change_day, factor, 1.0)
    return payout[:, None] * clicks, np.full((DAYS, 1), clicks), np.full((DAYS, 1), clicks * 100)


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.5, 4.0])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.04])
@pytest.mark.parametrize("seed", range(3))
def test_a_payout_that_changes_overnight_is_found_on_its_day(factor, noise, seed):
    found = find(*series(noise, 17, factor, seed))
    assert [(one.day, one.per) for one in found] == [(17, "click")]
    assert found[0].after_micros / found[0].before_micros == pytest.approx(factor, rel=0.15)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1, 0.3])
def test_brands_that_always_vary_so_much_have_no_break(noise):
    found = [find(*series(noise, 17, 1.0, seed)) for seed in range(10)]
    assert sum(map(len, found)) <= 1  # of 300 days


def test_a_brand_without_clicks_is_looked_at_by_impressions():
    revenue, clicks, exposure = series(0.02, 20, 0.5)
    found = find(revenue, clicks * 0, exposure)
    assert [(one.day, one.per) for one in found] == [(20, "impression")]


def test_days_with_next_to_nothing_are_no_evidence():
    revenue, clicks, exposure = series(0.02, 99, 1.0)
    clicks[12], exposure[12], revenue[12] = 2.0, 50.0, 9e6
    clicks[13], exposure[13], revenue[13] = 0.0, 0.0, 0.0
    assert find(revenue, clicks, exposure) == []


def test_only_the_brand_that_broke_is_learned_anew():
    (quiet, broken) = series(0.02, 99, 1.0), series(0.02, 20, 0.5, seed=1)
    both = [np.hstack(columns) for columns in zip(quiet, broken, strict=True)]
    flags = jumps(find(*both), DAYS, 2)
    assert np.argwhere(flags).tolist() == [[20, 1], [21, 1]]
