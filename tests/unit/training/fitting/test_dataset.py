"""Trees correct what histories expect, by either engine, whatever the unit of money, and never learn from nothing."""

import numpy as np
import pytest

from tests.unit.training.conftest import FIRST, make_history
from training.features.layout import FEATURES
from training.fitting.dataset import Examples, TrainingSet, shocks
from training.fitting.engines import fit, fit_before, predicted
from training.gate.metrics import deviance
from training.settings import ModelSettings

ENGINES = ["lightgbm", "xgboost"]


def settings(engine, **more):
    return ModelSettings(engine=engine, **{"trees": 30, "min_rows_in_leaf": 5} | more)


@pytest.mark.parametrize("engine", ENGINES)
def test_trees_learn_what_histories_cannot_know(engine):
    # Within the brand: a whole brand's day with a partner is taken for a shock.
    frame = make_history(24)
    desktop = frame["device_type"] == "desktop"
    frame["revenue_micros"] *= np.where(desktop & ((frame["day"] + 3) % 7 >= 5), 4.0, 1.0)
    data = TrainingSet.of(frame, 0.8)
    saturday = FIRST + 17  # 18 April 2020
    rows = np.flatnonzero(data.days == saturday)
    trees = fit_before(data, saturday, settings(engine, trees=80))
    said, expected = predicted(data, rows, trees), data.heads[rows, 0]
    better, worse = (deviance(data.target[rows], one, data.exposure[rows]) for one in (said, expected))
    assert better < 0.7 * worse


@pytest.mark.parametrize("engine", ENGINES)
def test_the_unit_of_money_means_nothing(engine):
    frame = make_history(10)
    money = ["revenue_micros", "pending_revenue_micros", "cost_micros"]
    cents = frame.assign(**{name: frame[name] * 64 for name in money})
    said = []
    for one in (frame, cents):
        data = TrainingSet.of(one, 0.8)
        rows = np.flatnonzero(data.days == FIRST + 9)
        said.append(predicted(data, rows, fit_before(data, FIRST + 9, settings(engine))))
    np.testing.assert_allclose(said[1], said[0] * 64, rtol=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_without_anything_to_learn_expectations_stay_as_they_are(engine):
    trees = fit(Examples.neutral(), settings(engine))
    np.testing.assert_allclose(
        trees.predict(np.random.default_rng(0).normal(size=(9, len(FEATURES))).astype(np.float32)), 1.0
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame[frame["day"] == FIRST],
        lambda frame: frame.iloc[:1],
        lambda frame: frame.assign(revenue_micros=0.0, pending_revenue_micros=0.0),
        lambda frame: frame.assign(impressions=0.0, clicks=0.0),
        lambda frame: frame.assign(revenue_micros=-5.0, pending_revenue_micros=0.0),
        lambda frame: frame.assign(revenue_micros=frame["impressions"] * 100, pending_revenue_micros=0.0),
        lambda frame: frame.assign(conversions=frame["clicks"] * 3),
        lambda frame: frame[frame["day"] % 3 == 0],
        lambda frame: frame.iloc[::-1],
    ],
    ids=[
        "one day",
        "one row",
        "no revenue",
        "no exposure",
        "below zero",
        "constant",
        "conversions",
        "gaps",
        "backward",
    ],
)
def test_odd_histories_are_learned_from_as_far_as_they_go(engine, change):
    data = TrainingSet.of(change(make_history(10)).reset_index(drop=True), 0.8)
    last = int(data.days.max())
    said = predicted(data, np.arange(len(data.days)), fit_before(data, last + 1, settings(engine)))
    assert np.isfinite(said).all() and (said >= 0).all()
    encoder = data.encoder(last)
    _, heads = encoder.encode([["new"]] * 5, np.array([np.nan]))
    assert np.isfinite(heads[0, :3]).all()


def test_a_brands_good_day_with_a_partner_is_a_shock_and_not_a_lesson():
    frame = make_history(10)
    lucky = (frame["day"] == FIRST + 8) & (frame["brand_id"] == "b1") & (frame["partner_id"] == "p2")
    frame["revenue_micros"] *= np.where(lucky, 5.0, 1.0)
    data = TrainingSet.of(frame, 0.8)
    found = shocks(data.days, data.keys, data.numbers, data.heads, data.target)
    assert np.log(2) < found[lucky].mean() < np.log(5.5)
    others = ~lucky & (data.days > FIRST + 2) & (data.days < FIRST + 9)
    assert np.abs(found[others]).max() < np.log(1.5)


def test_a_payout_that_was_halved_overnight_is_named_and_followed():
    frame = make_history(14)
    frame["revenue_micros"] = frame["clicks"] * np.where(frame["brand_id"] == "b1", 90_000.0, 60_000.0)
    frame["pending_revenue_micros"] = 0.0
    cut = (frame["day"] >= FIRST + 12) & (frame["brand_id"] == "b1")
    frame["revenue_micros"] *= np.where(cut, 0.5, 1.0)
    data = TrainingSet.of(frame, 0.8)
    (found,) = data.payout_breaks()
    assert (found.brand_id, found.day, found.per) == ("b1", FIRST + 12, "click")
    assert found.after_micros / found.before_micros == pytest.approx(0.5, rel=1e-3)
    next_day = (data.days == FIRST + 13) & (frame["brand_id"] == "b1").to_numpy()
    foreseen = (data.heads[next_day, 0] * data.exposure[next_day]).sum()
    realised = (data.target[next_day] * data.exposure[next_day]).sum()
    assert 0.85 < foreseen / realised < 1.15


def test_examples_of_earlier_days_are_views_of_the_same_matrix():
    data = TrainingSet.of(make_history(10), 0.8)
    found = data.examples(FIRST + 7, settings("lightgbm"))
    assert np.shares_memory(found.matrix, data.matrix) and len(found.matrix) == (data.days < FIRST + 7).sum()
    assert found.weight.mean() == pytest.approx(1.0, rel=0.2)
    assert (found.weight[data.days[: len(found.weight)] == FIRST] == 0).all()  # nothing was known before the first day
