"""What the gate is given: both sides on the same rows, each by its own codes; only days that both have learned from."""

import datetime as dt
import math

import numpy as np
import pandas as pd
import pytest

from training.etl.data_quality import oddities
from training.etl.reader import day_number
from training.fitting.dataset import TrainingSet
from training.fitting.engines import Boosters, fit_in_process, predicted
from training.gate.compare import compare, count_rows, predicted_as_of, predicted_by, rows_of_week, score_shifts
from training.model.model import Model
from training.nightly.gate_step import assemble
from training.settings import ModelSettings

SETTINGS = ModelSettings(trees=20, min_rows_in_leaf=5)
NEWEST = day_number(dt.date(2020, 11, 21))
TODAY = dt.date(2026, 1, 1)


def history(days: int = 12, newest: int = NEWEST, brands: tuple[str, ...] = ("brand-a", "brand-b")) -> pd.DataFrame:
    """A row a day, brand and slot, with rates that differ by brand and slot."""
    random = np.random.default_rng(7)
    rows = []
    for day in range(newest - days + 1, newest + 1):
        for number, brand in enumerate(brands):
            for slot in range(6):
                impressions = int(random.integers(5_000, 20_000))
                rate = 300.0 * (number + 1) * (1 + slot) * random.uniform(0.9, 1.1)
                rows.append(
                    {
                        "day": day,
                        "hour": -1,
                        "brand_id": brand,
                        "partner_id": "p",
                        "slot_id": f"slot-{slot}",
                        "device_type": "mobile",
                        "creative_type": "300x250",
                        "placement_score": 0.5,
                        "impressions": float(impressions),
                        "clicks": float(impressions // 100),
                        "conversions": float(impressions // 1000),
                        "cost_micros": impressions * 500.0,
                        "revenue_micros": impressions * rate,
                        "pending_revenue_micros": 0.0,
                    }
                )
    return pd.DataFrame(rows)


def learned(frame: pd.DataFrame, newest: int) -> tuple[TrainingSet, Boosters, Model]:
    data = TrainingSet.of(frame, SETTINGS.pending_share)
    boosters = fit_in_process(data, newest, SETTINGS)
    return data, boosters, assemble(data, newest, boosters, SETTINGS, None, False)


@pytest.fixture(scope="module")
def yesterday() -> Model:
    """The champion: it has learned all days but the newest."""
    frame = history()
    return learned(frame[frame["day"] < NEWEST].reset_index(drop=True), NEWEST - 1)[2]


def test_rows_as_of_the_day_before_are_what_the_champion_serves_the_day_after(yesterday: Model) -> None:
    # A brand whose name comes first moves every code of the new history.
    frame = pd.concat([history(), history(brands=("a-new-brand",))[lambda rows: rows["day"] == NEWEST]])
    data = TrainingSet.of(frame.reset_index(drop=True), SETTINGS.pending_share)
    rows = np.flatnonzero((data.days == NEWEST) & (data.frame["brand_id"] != "a-new-brand").to_numpy())
    assert data.keys.vocabulary[0] != yesterday.encoder.vocabulary[0]
    np.testing.assert_allclose(predicted_as_of(yesterday, data, rows), predicted_by(yesterday, data, rows), rtol=1e-6)


def test_only_days_that_both_have_learned_are_the_week(yesterday: Model) -> None:
    data = TrainingSet.of(history(), SETTINGS.pending_share)
    days = np.unique(data.days[rows_of_week(data, NEWEST, yesterday)])
    assert days.tolist() == list(range(NEWEST - 7, NEWEST)), "the newest day is not among them"
    later = TrainingSet.of(history(days=14, newest=NEWEST + 2), SETTINGS.pending_share)
    days = np.unique(later.days[rows_of_week(later, NEWEST + 2, yesterday)])
    assert days.tolist() == list(range(NEWEST - 5, NEWEST)), "days that the champion has missed are not, either"


def test_the_comparison_has_every_part(yesterday: Model) -> None:
    data, boosters, model = learned(history(), NEWEST)
    found = compare(data, NEWEST, boosters.held_out, model, yesterday, SETTINGS, TODAY)
    assert found.has_champion
    for duel in (found.day, found.week):
        assert duel.challenger is not None and duel.champion is not None and duel.mean_micros > 0
    assert found.day.challenger.rows == 12 and found.week.champion.rows == 7 * 12
    assert [brand.brand_id for brand in found.brands] == ["brand-a", "brand-b"]
    assert len(found.week_brands) == 2
    assert found.rows == (12, 12.0, 11 * 12, 11 * 12)
    assert found.score_shift is not None and found.score_shift < math.log(1.2)
    alone = compare(data, NEWEST, boosters.held_out, model, None, SETTINGS, TODAY)
    assert not alone.has_champion and alone.day.challenger == found.day.challenger
    seen = compare(data, NEWEST, boosters.held_out, model, model, SETTINGS, TODAY)
    assert seen.day.champion is None and seen.week.champion == seen.week.challenger, "it has seen the newest day"
    assert seen.brands == [] and seen.score_shift == 0.0


def test_rows_are_counted_where_something_says_how_many_there_should_be(yesterday: Model) -> None:
    days = TrainingSet.of(history(), SETTINGS.pending_share).days
    newest = dt.date(2020, 11, 21)
    assert count_rows(days, NEWEST, yesterday, TODAY).usual == 12.0
    assert count_rows(days, NEWEST, yesterday, newest).usual is None, "the day is not over"
    assert count_rows(days[days >= NEWEST - 2], NEWEST, yesterday, TODAY).usual is None, "two days are no week"
    lost = count_rows(days[days > NEWEST - 6], NEWEST, yesterday, TODAY)
    assert (lost.known, lost.learned) == (5 * 12, 11 * 12)
    earlier = count_rows(days[days < NEWEST - 3], NEWEST - 4, yesterday, TODAY)
    assert earlier.learned is None, "a night of an earlier date should know less"


def test_a_shift_is_the_same_up_and_down(yesterday: Model) -> None:
    golden = yesterday.manifest["golden"]
    for times in (4.0, 0.25):
        moved = yesterday.with_manifest(
            golden=golden | {"revenue_micros": [value * times for value in golden["revenue_micros"]]}
        )
        overall, brand = score_shifts(yesterday, moved)
        assert overall == pytest.approx(math.log(4.0))
        assert brand is not None and brand.shift == pytest.approx(math.log(4.0))


def test_a_day_is_predicted_without_it() -> None:
    data, boosters, _ = learned(history(), NEWEST)
    assert boosters.held_out is not None
    rows = np.flatnonzero(data.days == NEWEST)
    said = predicted(data, rows, boosters.held_out)
    assert len(rows) == len(said) == 12 and (said > 0).all()
    assert np.corrcoef(said, data.target[rows])[0, 1] > 0.9


def test_many_odd_names_are_counted_and_some_told() -> None:
    frame = history()
    poor = pd.concat([frame, history(brands=tuple(f"z-{n}" for n in range(5))).assign(revenue_micros=0.0)])
    assert oddities(frame) == []
    assert oddities(poor) == ["5 brands without revenue (z-0, z-1, z-2 and 2 more): predicted revenue is close to zero"]
    assert oddities(frame.head(0)) == []
