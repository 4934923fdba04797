"""Pages of reports: whole, from nowhere else, and what an id says is never HTML."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.unit.training.conftest import make_history
from tests.unit.training.pages import Page
from training.fitting.dataset import TrainingSet
from training.reports import backtest_report, charts
from training.reports.report_data import brand_days, break_in_a_line, deciles, payout_breaks, payouts

EVIL = '<script>alert("&1")</script>'
METRICS = {"rows": 3, "exposure": 3000.0, "r2": 0.5, "deviance": 2.0, "calibration": 1.0}


def found(many: int = 1, days: int = 3, **changed: Any) -> dict[str, Any]:
    """What report.json may say."""
    names = [f"{EVIL}-{number}" for number in range(many)]
    dates = [f"2020-0{1 + day // 28}-{1 + day % 28:02}" for day in range(days)]
    broken = {"brand_id": EVIL, "day": dates[-1], "before_micros": 2e5, "after_micros": 1e5, "per": "click"}
    return {
        "from": dates[0],
        "to": dates[-1],
        "overall": METRICS,
        "engine": "xgboost",
        "engines": {"lightgbm": METRICS | {"deviance": 2.5}, "xgboost": METRICS},
        "histories_alone": METRICS | {"deviance": 4.0},
        "brands": dict.fromkeys(names, METRICS),
        "deciles": [{"decile": n, "predicted_micros": n * 10.0, "realised_micros": n * 9.0} for n in range(1, 11)],
        "brand_days": [
            {"brand_id": name, "day": day, "predicted_micros": 2e6, "realised_micros": 1e6 * (number + 1)}
            for number, name in enumerate(names)
            for day in dates
        ],
        "importance": [{"feature": EVIL, "share": 0.75}, {"feature": "b", "share": 0.25}],
        "shap": {
            "rows": 2,
            "base": 0.1,
            "expected_micros": 12.0,
            "features": [{"feature": EVIL, "mean_abs": 0.2, "dots": [[-0.2, 0.0], [0.2, None]]}],
        },
        "payout_breaks": [broken],
        "payouts": [{"brand_id": EVIL, "per": "click", "days": dates, "micros": [2e5] * (days - 1) + [1e5]}],
    } | changed


@pytest.fixture(scope="module")
def broken_payouts() -> TrainingSet:
    """Ten days of two brands, one of which pays half on the last."""
    frame = make_history(days=10)
    frame = frame[frame["slot_id"] == "p1:s1"].assign(pending_revenue_micros=0.0, clicks=500.0)
    frame["brand_id"] = frame["brand_id"].replace({"b1": "a", "b2": "b"})
    pays = np.where((frame["brand_id"] == "b") & (frame["day"] == frame["day"].max()), 100_000.0, 200_000.0)
    return TrainingSet.of(frame.assign(revenue_micros=pays * 500.0).reset_index(drop=True), 0.8)


ODD: dict[str, dict[str, Any]] = {
    "as usual": {},
    "one day": {"days": 1},
    "200 brands": {"many": 200, "days": 90},
    "no trees": {"importance": [], "shap": {"rows": 0, "base": None, "expected_micros": None, "features": []}},
    "nothing judged": {
        "deciles": [],
        "overall": dict.fromkeys(METRICS, None) | {"rows": 0, "exposure": 0.0},
        "histories_alone": None,
        "brand_days": [],
        "brands": {},
    },
    "no revenue": {
        "brand_days": [{"brand_id": "b", "day": "2020-01-01", "predicted_micros": 1.0, "realised_micros": 0.0}],
        "deciles": [{"decile": 1, "predicted_micros": 0.0, "realised_micros": 0.0}],
    },
    "no breaks": {"payout_breaks": [], "payouts": []},
    "a correction below zero": {
        "payouts": [{"brand_id": "b", "per": "click", "days": ["2020-01-01", "2020-01-02"], "micros": [-5.0, 1.0]}]
    },
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_a_page_is_whole_whatever_there_is_to_say(odd: dict[str, Any]) -> None:
    text = backtest_report.render(EVIL, found(**odd))
    page = Page(text)
    assert page.sections == ["figures", "calibration", "days", "error", "importance", "shap", "breaks"]
    assert EVIL not in text and EVIL in "".join(page.text)
    assert text == backtest_report.render(EVIL, found(**odd)), "the same for the same input"


def test_the_page_shows_the_figures_of_the_report() -> None:
    said = found(many=3, days=5)
    said["shap"]["features"][0]["dots"] = [[0.1234, 0.5], [-0.2, None]]
    calibration, days, error, importance, shap, payout = Page(backtest_report.render("f.csv", said)).charts
    assert calibration["series"][0]["points"] == [[n * 10.0, n * 9.0] for n in range(1, 11)]
    for place, side in enumerate(("realised", "predicted")):
        assert days["series"][place]["name"] == side
        sums = {one["day"]: 0.0 for one in said["brand_days"]}
        for one in said["brand_days"]:
            sums[one["day"]] += one[f"{side}_micros"] / 1e6
        assert days["series"][place]["points"] == [list(of_day) for of_day in sums.items()]
    assert {(error["rows"][row], error["columns"][column], *figures) for row, column, *figures in error["cells"]} == {
        (one["brand_id"], one["day"], one["predicted_micros"] / 1e6, one["realised_micros"] / 1e6)
        for one in said["brand_days"]
    }
    assert [(one["name"], one["value"], one["text"]) for one in importance["bars"]] == [
        (EVIL, 0.75, "75.0%"),
        ("b", 0.25, "25.0%"),
    ]
    assert shap["rows"] == [{"name": EVIL, "text": "× 1.221", "dots": [[0.1234, 0.5], [-0.2, None]]}]
    assert payout["series"][0]["points"] == [[day, 0.2] for day in said["payouts"][0]["days"][:-1]] + [
        [said["payouts"][0]["days"][-1], 0.1]
    ]
    assert payout["marks"] == [[said["payout_breaks"][0]["day"], "0.2 → 0.1"]]


def test_the_tables_show_the_figures_of_the_report() -> None:
    tables = Page(backtest_report.render("f.csv", found(many=2))).tables
    assert ["lightgbm trees", "3", "3,000", "0.500", "2.5", "1.000"] in tables[0]
    assert ["xgboost trees (chosen)", "3", "3,000", "0.500", "2", "1.000"] in tables[0]
    assert ["past averages alone, without trees", "3", "3,000", "0.500", "4", "1.000"] in tables[0]
    assert tables[1][1:] == [[f"{EVIL}-{n}", "3", "3,000", "0.500", "2", "1.000"] for n in range(2)]
    assert ["1", "9.0"] not in tables[2] and ["10.0", "9.0"] in tables[2], "each plot's figures as a table"
    assert [EVIL, "2020-01-03", "click", "0.2", "0.1", "−50%"] in tables[-2]


def test_many_brands_are_the_ones_with_most_revenue_and_a_word_of_the_others() -> None:
    drawn = charts.error(found(many=20)["brand_days"])
    assert drawn is not None
    assert drawn["rows"] == [f"{EVIL}-{number}" for number in range(19, 7, -1)] and drawn["left_out"]["brands"] == 8
    some = charts.error(found(many=12)["brand_days"], brands=200)
    assert some is not None and some["left_out"]["brands"] == 188
    assert "12 brands with most revenue; 8 more are left out" in backtest_report.render("f.csv", found(many=20))


def test_the_axes_of_a_calibration_are_logarithmic_only_where_they_can_be() -> None:
    def logarithmic(*predicted: float) -> bool:
        drawn = charts.calibration([{"predicted_micros": value, "realised_micros": 900.0} for value in predicted])
        return drawn is not None and drawn["log"]

    assert logarithmic(1.0, 1000.0) and not logarithmic(0.0, 1000.0) and not logarithmic(500.0, 1000.0)


def test_a_break_is_told_with_what_was_paid_before_and_after() -> None:
    (one,) = found()["payout_breaks"]
    assert break_in_a_line(one | {"brand_id": "b"}).startswith(
        "the payout of b broke on 2020-01-03: 0.2 → 0.1 a click (−50%)"
    )


def test_what_brands_paid_is_revenue_by_clicks_a_day(broken_payouts: TrainingSet) -> None:
    breaks = broken_payouts.payout_breaks()
    assert [(one.brand_id, round(one.before_micros), round(one.after_micros)) for one in breaks] == [
        ("b", 200_000, 100_000)
    ]
    (series,) = payouts(broken_payouts, breaks)
    assert series["brand_id"] == "b" and series["per"] == "click"
    assert series["micros"][-1] == pytest.approx(100_000) and series["micros"][0] == pytest.approx(200_000)
    assert payout_breaks(breaks, breaks[0].day + 1) == []
    assert payout_breaks(breaks, breaks[0].day)[0]["day"] == series["days"][-1]


def test_sums_by_brand_and_day_are_those_of_the_rows(broken_payouts: TrainingSet) -> None:
    rows = np.arange(len(broken_payouts.days))
    sums = brand_days(broken_payouts, rows, broken_payouts.target * 2)
    assert len(sums) == 2 * 10
    last = [one for one in sums if one["brand_id"] == "b"][-1]
    assert last["realised_micros"] == pytest.approx(1000 * 100_000) == last["predicted_micros"] / 2
    assert brand_days(broken_payouts, rows[:0], np.zeros(0)) == []


def test_tenths_have_equal_exposure() -> None:
    found = deciles(np.arange(100.0), np.arange(100.0) + 1, np.ones(100))
    assert [one["realised_micros"] for one in found] == [4.5 + 10 * decile for decile in range(10)]
    assert deciles(np.ones(2), np.ones(2), np.zeros(2)) == []
