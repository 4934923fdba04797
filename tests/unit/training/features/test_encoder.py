import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.training.conftest import FIRST, make_history
from training.arrays import from_text, to_text
from training.columns import EVERYBODY, ID_COLUMNS
from training.features.encoder import DAY_S, Encoder
from training.features.histories import measures
from training.features.keys import LEVELS, Keys
from training.features.layout import CODES_FROM, FEATURES, HOUR
from training.fitting.dataset import TrainingSet, target

DAYS = 12


@given(seed=st.integers(0, 2**16), cut=st.integers(1, DAYS - 1), factor=st.sampled_from([0.0, 0.1, 50.0]))
def test_what_happens_tomorrow_changes_nothing_today(seed, cut, factor):
    frame = make_history(DAYS)
    later = frame["day"] >= FIRST + cut
    scrambled = frame.copy()
    for name in ("impressions", "clicks", "conversions", "cost_micros", "revenue_micros", "pending_revenue_micros"):
        values = frame.loc[later, name].to_numpy()
        scrambled.loc[later, name] = np.random.default_rng(seed).permutation(values) * factor
    before, after = (TrainingSet.of(one, 0.8) for one in (frame, scrambled))
    seen = (frame["day"] <= FIRST + cut).to_numpy()  # the first scrambled day's own features are of the days before
    np.testing.assert_array_equal(before.matrix[seen], after.matrix[seen])
    np.testing.assert_array_equal(before.heads[seen], after.heads[seen])


def test_the_order_of_rows_means_nothing():
    frame = make_history()
    shuffled = frame.sample(frac=1.0, random_state=3)
    straight, mixed = TrainingSet.of(frame, 0.8), TrainingSet.of(shuffled.reset_index(drop=True), 0.8)
    order = shuffled.sort_values("day", kind="stable").index
    np.testing.assert_allclose(straight.matrix[order], mixed.matrix, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(straight.heads[order], mixed.heads, rtol=1e-9)


@pytest.mark.parametrize("hourly", [False, True])
def test_serving_sees_what_training_saw(hourly):
    frame = make_history(DAYS, hourly=hourly)
    data = TrainingSet.of(frame, 0.8)
    newest = int(data.days.max())
    today = np.flatnonzero(data.days == newest)
    encoder = data.encoder(newest - 1)
    rows = frame.iloc[today]
    at = rows["day"].to_numpy() * DAY_S + np.maximum(rows["hour"].to_numpy(), 0) * 3600
    ids = [rows[name].tolist() for name in ID_COLUMNS]
    matrix, heads = encoder.encode(ids, rows["placement_score"].to_numpy(), at)
    trained = data.matrix[today].copy()
    if not hourly:
        matrix[:, HOUR] = trained[:, HOUR]  # daily rows know no hour, bids do; the trees never split on it
    np.testing.assert_allclose(matrix, trained, rtol=1e-5, atol=1e-6, equal_nan=True)
    np.testing.assert_allclose(heads[:, :-1], data.heads[today], rtol=1e-9, equal_nan=True)


def _encoder() -> Encoder:
    data = TrainingSet.of(make_history(DAYS), 0.8)
    return data.encoder(int(data.days.max()))


def _history_of(encoder, *ids, score=0.5):
    return encoder.encode([[one] for one in ids], np.array([score]))[0][0, :CODES_FROM]


@pytest.mark.parametrize(
    ("ids", "level"),
    [
        (("b1", "p1", "p1:s1", "mobile", "300x250"), "placement"),
        (("b1", "p1", "p1:s1", "mobile", "new"), "device"),
        (("b1", "p1", "p1:s1", "new", "300x250"), "slot"),
        (("b1", "p1", "new", "mobile", "300x250"), "partner"),
        (("b1", "new", "p1:s1", "mobile", "300x250"), "brand"),
        (("new", "p1", "p1:s1", "mobile", "300x250"), "all"),
    ],
)
def test_unknown_ids_back_off_to_their_parents(ids, level):
    encoder = _encoder()
    assert encoder.confidence(ids, 0.5).level == level
    known = dict(zip(FEATURES, _history_of(encoder, *ids), strict=False))
    order = ["all", *LEVELS]
    deepest = order.index(level)
    for below in order[deepest + 1 :]:
        assert known[f"{below}_exposure_10d"] == 0
        assert known[f"{below}_factor"] == 0
    for within in order[: deepest + 1]:
        assert known[f"{within}_exposure_10d"] > 0
    parent = [*ids[:deepest], *["unheard-of"] * (len(ids) - deepest)]
    assert known["log_revenue"] == _history_of(encoder, *parent)[FEATURES.index("log_revenue")]


def test_an_unseen_placement_score_backs_off_to_the_creative():
    assert _encoder().confidence(("b1", "p1", "p1:s1", "mobile", "300x250"), 0.123).level == "creative"


def test_rare_tuples_are_shrunk_to_their_parents():
    frame = make_history(DAYS)
    lucky = frame.iloc[[-1]].assign(slot_id="p3:tiny", impressions=1.0, revenue_micros=1e9, placement_score=0.9)
    data = TrainingSet.of(pd.concat([frame, lucky], ignore_index=True), 0.8)
    encoder = data.encoder(int(data.days.max()))
    ids = ("b2", "p3", "p3:tiny", "mobile", "300x250")
    heads = encoder.encode([[one] for one in ids], np.array([0.9]))[1]
    partner = encoder.encode([[one] for one in ("b2", "p3", "new", "mobile", "300x250")], np.array([0.9]))[1]
    assert partner[0, 0] <= heads[0, 0] < 10 * partner[0, 0]


def test_tuples_that_see_only_clicks_are_measured_in_clicks():
    frame = make_history(3)
    frame.loc[frame["brand_id"] == "b2", ["impressions"]] = 0.0
    numbers = measures(frame, 0.8)
    clicks_only = (frame["brand_id"] == "b2").to_numpy()
    np.testing.assert_array_equal(numbers[clicks_only, 3], frame["clicks"][clicks_only])
    np.testing.assert_array_equal(numbers[~clicks_only, 3], frame["impressions"][~clicks_only])


def test_pending_revenue_counts_as_far_as_the_brand_approves_it():
    frame = make_history(2)
    shares = {EVERYBODY: 0.5, "b1": 0.25}
    found = measures(frame, shares)[:, 0] - frame["revenue_micros"].to_numpy()
    share = found / frame["pending_revenue_micros"].to_numpy()
    assert set(np.round(share[(frame["brand_id"] == "b1").to_numpy()], 6)) == {0.25}
    assert set(np.round(share[(frame["brand_id"] == "b2").to_numpy()], 6)) == {0.5}


def test_revenue_of_an_hour_without_impressions_reaches_the_days_other_hours():
    frame = make_history(1, hourly=True).iloc[[0, 0]].reset_index(drop=True)
    frame["hour"] = [3, 9]
    frame["impressions"], frame["clicks"] = [1000.0, 0.0], [5.0, 0.0]
    frame["revenue_micros"], frame["pending_revenue_micros"] = [0.0, 500_000.0], 0.0
    assert target(frame, Keys.of(frame), measures(frame, 0.8)).tolist() == [500.0, 0.0]


def test_a_row_is_the_same_alone_and_among_others():
    encoder, frame = _encoder(), make_history()
    ids, scores = [frame[name].tolist() for name in ID_COLUMNS], frame["placement_score"].to_numpy()
    together, heads = encoder.encode(ids, scores)
    for row in range(0, len(frame), 7):
        alone, head = encoder.encode([[column[row]] for column in ids], scores[[row]])
        np.testing.assert_array_equal(alone[0], together[row])
        np.testing.assert_array_equal(head[0], heads[row])


def test_an_encoder_survives_json():
    encoder = _encoder()
    back = Encoder.from_document(json.loads(json.dumps(encoder.to_document())))
    assert back.to_document() == encoder.to_document()
    frame = make_history()
    asked = [frame[name].tolist() for name in ID_COLUMNS], frame["placement_score"].to_numpy()
    for ours, theirs in zip(encoder.encode(*asked), back.encode(*asked), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "level", "damage"),
    [
        ("parents", 3, lambda array: array + 1000),
        ("parents", 2, lambda array: array - 1),
        ("words", 4, lambda array: array + 1000),
        ("words", 1, lambda array: array - 1),
        ("rates", 5, lambda array: array[1:]),
        ("exposures", 6, lambda array: array[:, 1:]),
        ("payout", 1, lambda array: array[:0]),
    ],
)
def test_tables_that_do_not_go_together_are_refused(name, level, damage):
    document = _encoder().to_document()
    document[name][level] = to_text(damage(from_text(document[name][level])))
    with pytest.raises(ValueError, match=r"level|brands"):
        Encoder.from_document(document)


def test_codes_follow_the_alphabet():
    frame = make_history(2)
    assert Keys.of(frame).vocabulary == Keys.of(frame.iloc[::-1]).vocabulary


def test_a_pause_of_the_whole_feed_does_not_wipe_what_is_known():
    """One event years later must not outweigh everything that was learned before it."""
    frame = make_history(DAYS)
    late = frame.iloc[[0]].assign(day=FIRST + 2000, impressions=1, clicks=0, conversions=0, revenue_micros=900_000)
    data = TrainingSet.of(pd.concat([frame, late], ignore_index=True), 0.8)
    before = TrainingSet.of(frame, 0.8).encoder(FIRST + DAYS - 1)
    after = data.encoder(FIRST + 2000)
    ids, score = [[value] for value in frame.iloc[3][list(ID_COLUMNS)]], frame["placement_score"].to_numpy()[[3]]
    known, kept = (encoder.encode(ids, score) for encoder in (before, after))
    exposure = [position for position, name in enumerate(FEATURES) if name.endswith("exposure_10d")]
    assert (kept[0][0, exposure] > 0.9 * known[0][0, exposure]).all()
    assert 0.8 < kept[1][0, 0] / known[1][0, 0] < 1.25
