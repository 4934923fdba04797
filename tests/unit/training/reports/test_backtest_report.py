"""Pages of reports: whole, from nowhere else, and what an id says is never HTML."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests.unit.training.conftest import make_history
from tests.unit.training.pages import Page, sections_of
from training.fitting.dataset import TrainingSet
from training.reports import backtest_report, plots
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
    assert sections_of(text) == ["figures", "calibration", "days", "error", "importance", "shap", "breaks"]
    assert "<script" not in text and EVIL in "".join(Page(text).text)


def test_many_brands_are_the_ones_with_most_revenue_and_a_word_of_the_others() -> None:
    section = backtest_report.error_by_brand_and_day(found(many=20)["brand_days"]).body
    assert section.count("-19</title>") == 1 and "-7</title>" not in section, "rows with least revenue are left out"
    assert "12 brands with most revenue; 8 more" in section
    some = backtest_report.error_by_brand_and_day(found(many=12)["brand_days"], brands=200).body
    assert "188 more" in some


def test_a_cell_of_the_heat_map_says_its_figures() -> None:
    one = {"brand_id": "b", "day": "2020-01-01", "predicted_micros": 4e6, "realised_micros": 2e6}
    unknown = [{"day": "2020-01-02", "realised_micros": 0.0}, {"day": "2020-01-03", "predicted_micros": 0.0}]
    section = backtest_report.error_by_brand_and_day([one, *(one | other for other in unknown)]).body
    said = "b, 2020-01-01: predicted 4, realised 2, ratio 2.00, log ratio +0.69"
    assert f'fill="{plots.HEAT[-1]}"><title>{said}<' in section
    assert 'class="empty"><title>b, 2020-01-02: predicted 4, realised 0<' in section
    assert 'class="empty"><title>b, 2020-01-03: predicted 0, realised 2<' in section


def test_labels_of_days_do_not_overlap() -> None:
    for days in (1, 9, 31, 62):
        labels = [f"01-{day:02}" for day in range(days)]
        lines = [plots.Line("a", [(float(day), 1.0) for day in range(days)], "red")]
        for drawn in (plots.plot(lines, "day", "y", ticks=labels), plots.heat(["b"], labels, {})):
            places = [float(x) for x in re.findall(r'<text x="([\d.]+)"[^>]*>01-\d\d<', drawn)]
            assert places and all(np.diff(places) > 5 * plots.CHARACTER)


def test_both_axes_of_a_calibration_are_logarithmic_only_where_they_can_be() -> None:
    far = plots.plot([plots.Line("a", [(1.0, 2.0), (1000.0, 900.0)], "red")], "x", "y", logs=True)
    assert all(f">{tick}</text>" in far for tick in ("1", "10", "100", "1k"))
    zero = plots.plot([plots.Line("a", [(0.0, 2.0), (1000.0, 900.0)], "red")], "x", "y", logs=True)
    assert ">250</text>" in zero and ">10</text>" not in zero


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
