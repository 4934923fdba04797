"""A night's report: what it says is what the history, the gate and the database say, however little that is."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest

from tests.unit.training.conftest import fitted, make_history
from tests.unit.training.pages import Page, sections_of
from training.features.histories import REVENUE
from training.fitting.dataset import TrainingSet
from training.fitting.engines import fit_in_process
from training.gate.gate import BrandMetrics, Comparison, SideBySide
from training.gate.metrics import Metrics
from training.registry.activations import LivePrice
from training.reports import charts
from training.reports.night_report import Ended, Standing, metrics_by_brand, render, report
from training.settings import Engine, ModelSettings

EVIL = "<b>&'\""
SECTIONS = ["verdict", "calibration", "days", "error", "money", "breaks", "importance", "shap"]
SIDE = {"rows": 3, "exposure": 3000.0, "r2": None, "deviance": 2.0, "calibration": 1.0}
GATE = {
    "accepted": False,
    "reason": f"deviance of {EVIL}",
    "checks": [{"check": "newest day", "passed": False, "detail": f"deviance of {EVIL}"}],
    "newest_day": {"challenger": SIDE, "champion": SIDE},
    "week": {"challenger": SIDE, "champion": SIDE},
    "brands_compared": 40,
}
DUEL = {"brand_id": EVIL, "challenger": SIDE | {"deviance": 3.0}, "champion": SIDE}
FIT = {"brand_id": "b1", "kappa": 0.7, "converged": False}
NOW = dt.datetime(2020, 4, 13, 2, tzinfo=dt.UTC)
STANDING = Standing({"b1": 1.5}, {"b1": LivePrice("b1", None, None, 1.25, 1.25, NOW)})


def told(
    frame: pd.DataFrame, settings: ModelSettings, gate: dict[str, Any] | None = None, **given: Any
) -> dict[str, Any]:
    """The report of a night on this history."""
    data = TrainingSet.of(frame, settings.pending_share)
    newest = int(data.days.max())
    model = fitted(frame, settings, NOW).with_manifest(parent=EVIL, metrics={"gate": GATE | (gate or {})})
    ended = Ended(model, EVIL, {"newest_day": [DUEL], "week": []}, [FIT], [f"{EVIL} is away"], [EVIL])._replace(**given)
    found = report(data, newest, fit_in_process(data, newest, settings), data.payout_breaks(), ended, STANDING)
    return json.loads(json.dumps(found, allow_nan=False))  # type: ignore[no-any-return]


def named(frame: pd.DataFrame, **columns: Any) -> pd.DataFrame:
    return frame.assign(**columns).reset_index(drop=True)


def brands(many: int) -> pd.DataFrame:
    """One brand's rows as those of many, each with a little more revenue than the one before."""
    one = make_history(days=5)
    one = one[one["brand_id"] == "b1"]
    copies = [named(one, brand_id=f"{EVIL}{n:03}", revenue_micros=one["revenue_micros"] + n * 1e7) for n in range(many)]
    return pd.concat(copies, ignore_index=True)


ODD = {
    "as usual": make_history(),
    "one day": make_history(days=1),
    "no revenue": named(make_history(), revenue_micros=0.0, pending_revenue_micros=0.0),
    "revenue below zero": named(make_history(), revenue_micros=-1.0, pending_revenue_micros=0.0),
    "no cost": named(make_history(), cost_micros=np.nan),
    "a cost of nothing": named(make_history(), cost_micros=0.0),
    "no exposure on the newest day": named(
        make_history(), impressions=lambda of: of["impressions"].where(of["day"] < of["day"].max(), 0.0), clicks=0.0
    ),
    "one brand": named(make_history(), brand_id="b1"),
    "200 brands": brands(200),
    "ids that are HTML": named(make_history(), brand_id=EVIL, device_type=EVIL),
    "hours": make_history(hourly=True),
}


@pytest.mark.parametrize("frame", ODD.values(), ids=ODD.keys())
def test_a_page_is_whole_whatever_the_history_is_like(frame: pd.DataFrame, settings: ModelSettings) -> None:
    text = render(told(frame, settings.model_copy(update={"trees": 5})))
    assert sections_of(text) == SECTIONS
    assert EVIL not in text and EVIL in "".join(Page(text).text)


def test_the_page_shows_the_figures_of_the_report(settings: ModelSettings) -> None:
    found = told(make_history(days=40), settings)
    page = Page(render(found))
    kinds = ["bars", "lines", "lines", "heat", "bars", "bars", "swarm"]
    assert [chart["kind"] for chart in page.charts] == kinds
    duel, calibration, days, error, roas, importance, shap = page.charts
    assert [(one["value"], one["text"]) for one in duel["bars"]] == [(1.5, "1.500")]
    assert_near(
        calibration["series"][0]["points"],
        [(one["predicted_micros"], one["realised_micros"]) for one in found["deciles"]],
    )
    for place, side in enumerate(("realised", "predicted")):
        figures = [one[f"{side}_micros"] / 1e6 for one in found["day_totals"]]
        assert_near([value for _, value in days["series"][place]["points"]], figures)
    said = {(error["rows"][row], error["columns"][column]): figures for row, column, *figures in error["cells"]}
    for one in found["brand_days"]:
        assert_near(said.pop((one["brand_id"], one["day"])), [one[f"{side}_micros"] / 1e6 for side in charts.SIDES])
    assert said == {}
    known = [one for one in found["money"] if one["roas_28d"] is not None]
    assert_near(
        [(one["value"], one["second"]) for one in roas["bars"]], [(one["roas_7d"], one["roas_28d"]) for one in known]
    )
    assert [one["mark"] for one in roas["bars"]] == [one["target_roas"] for one in known]
    assert_near([one["value"] for one in importance["bars"]], [one["share"] for one in found["importance"]][:20])
    assert [(one["name"], one["dots"]) for one in shap["rows"]] == [
        (one["feature"], one["dots"]) for one in found["shap"]["features"]
    ]
    (money,) = [rows for rows in page.tables if "λ now" in rows[0]]
    first = known[0]
    assert money[1 + found["money"].index(first)] == [
        first["brand_id"],
        *(f"{first[f'{name}_micros_28d'] / 1e6:,.2f}" for name in ("revenue", "cost")),
        *(f"{first[f'roas_{days}d']:.3f}" for days in (7, 28)),
        *("1.500", "0.700 (not used)", "1.250"),
    ]
    assert ["newest day, challenger", "3", "3,000", "–", "2", "1.000"] in page.tables[0]


def assert_near(said: Any, figures: Any) -> None:
    assert len(figures) and np.asarray(said) == pytest.approx(np.asarray(figures), rel=1e-5)


def test_the_first_night_has_no_champion_and_says_so(settings: ModelSettings) -> None:
    nobody = {"challenger": None, "champion": None}
    gate = {"accepted": True, "checks": [], "newest_day": nobody, "week": nobody, "brands_compared": 0}
    found = told(
        make_history(days=1), settings, gate, by_brand={"newest_day": [], "week": []}, problems=[], warnings=[]
    )
    text = render(found | {"parent": None})
    assert sections_of(text) == SECTIONS
    assert "none: there was nothing to compare with" in text and "There was nothing to judge by." in text
    assert found["deciles"] == [] and "accepted:" in text


def test_roas_is_revenue_by_cost_of_what_has_a_known_cost(settings: ModelSettings) -> None:
    frame = make_history(days=40)
    frame.loc[frame["slot_id"] == "p1:s1", "cost_micros"] = np.nan
    first, second = sorted(told(frame, settings)["money"], key=lambda one: str(one["brand_id"]))
    data = TrainingSet.of(frame, settings.pending_share)
    own = (frame["brand_id"] == "b1") & frame["cost_micros"].notna()
    for days, through in ((7, frame["day"].max() - 6), (28, frame["day"].max() - 27)):
        rows = (own & (frame["day"] >= through)).to_numpy()
        wanted = data.numbers[rows, REVENUE].sum() / frame["cost_micros"][rows].sum()
        assert first[f"roas_{days}d"] == pytest.approx(wanted)
    assert first["roas_7d"] != pytest.approx(first["roas_28d"])
    assert (first["target_roas"], first["lambda"], first["kappa"], first["converged"]) == (1.5, 1.25, 0.7, False)
    nothing = ("roas_7d", "roas_28d", "target_roas", "lambda", "kappa")
    assert [second[name] for name in nothing] == [None] * 5, "of b2 no cost is known, and nobody has a λ for it"


def test_of_many_brands_those_with_most_revenue_are_shown_and_the_others_counted(settings: ModelSettings) -> None:
    found = told(brands(40), settings)
    wanted = [f"{EVIL}{n:03}" for n in range(39, 27, -1)]
    assert [one["brand_id"] for one in found["money"]] == wanted
    assert {one["brand_id"] for one in found["brand_days"]} == set(wanted)
    text = render(found)
    assert text.count("12 brands with most revenue; 28 more") == 2
    assert "39 brands with fewer impressions are left out" in text


def test_the_map_is_of_28_days_as_the_histories_saw_them_the_day_before(settings: ModelSettings) -> None:
    frame = make_history(days=40)
    found = told(frame, settings)
    days = sorted({one["day"] for one in found["brand_days"]})
    assert (len(days), days[-1], found["days"]) == (28, found["trained_through"], 40)
    data = TrainingSet.of(frame, settings.pending_share)
    rows = (data.days == data.days.max()) & (frame["brand_id"] == "b2").to_numpy()
    (last,) = [one for one in found["brand_days"] if (one["brand_id"], one["day"]) == ("b2", days[-1])]
    assert last["predicted_micros"] == pytest.approx((data.heads[rows, 0] * data.exposure[rows]).sum())
    assert len({one["day"] for one in told(make_history(days=3), settings)["brand_days"]}) == 2, (
        "nobody foresaw the first"
    )
    of_day = [one for one in found["brand_days"] if one["day"] == days[-1]]
    assert found["day_totals"][-1]["realised_micros"] == pytest.approx(sum(one["realised_micros"] for one in of_day))


@pytest.mark.parametrize("engine", get_args(Engine))
def test_importance_is_shared_out_and_features_are_shown_by_their_mean_shap_value(
    settings: ModelSettings, engine: Engine
) -> None:
    found = told(make_history(), settings.model_copy(update={"engine": engine}))
    assert found["engine"] == engine
    assert sum(one["share"] for one in found["importance"]) == pytest.approx(1.0)
    means = [one["mean_abs"] for one in found["shap"]["features"]]
    assert means == sorted(means, reverse=True) and means[0] > 0
    first = found["shap"]["features"][0]
    assert np.mean(np.abs([value for value, _ in first["dots"]])) == pytest.approx(means[0], abs=1e-4)
    assert len(first["dots"]) == found["shap"]["rows"] == 24


def test_duels_are_kept_of_the_brands_with_most_impressions() -> None:
    sides = [Metrics(1, float(exposure), np.nan, 1.0, 1.0) for exposure in range(60)]
    compared = Comparison(
        True,
        SideBySide(None, None),
        SideBySide(None, None),
        [BrandMetrics(f"b{n}", side, side, 1.0) for n, side in enumerate(sides)],
    )
    kept = metrics_by_brand(compared)["newest_day"]
    assert [one["brand_id"] for one in kept] == [f"b{n}" for n in range(59, 9, -1)]
    assert kept[0]["champion"]["r2"] is None
