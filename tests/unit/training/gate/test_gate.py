"""Every rule of the gate, passed and failed, on figures that were made up for it."""

import math

import pytest

from training.gate.gate import BrandMetrics, BrandShift, Comparison, RowCounts, SideBySide, decide, report
from training.gate.metrics import Metrics
from training.settings import ModelSettings

NAN = float("nan")
MEAN = 1000.0  # micros an impression: what is noise stays below 0.003, for a brand 0.3


def judged(deviance, calibration=1.0, exposure=1e6):
    return Metrics(100, exposure, 0.9, deviance, calibration)


def duel(challenger, champion):
    return SideBySide(challenger, champion, MEAN)


def compared(day=None, week=None, **rest):
    """Both sides as good as each other, but for what is given."""
    even = duel(judged(1.0), judged(1.0))
    return Comparison(True, day or even, week or even, **rest)


def brand(challenger, champion, brand_id="brand-7"):
    return BrandMetrics(brand_id, challenger, champion, MEAN)


BETTER = duel(judged(0.5), judged(1.0))

DAY = [
    ("as good", duel(judged(1.0), judged(1.0)), None),
    ("better", duel(judged(0.9), judged(1.0)), None),
    ("a hair worse", duel(judged(1.01), judged(1.0)), None),
    ("worse", duel(judged(1.1), judged(1.0)), "newest day"),
    ("worse than perfect, within rounding", duel(judged(0.002), judged(-1e-13)), None),
    ("worse than perfect", duel(judged(0.01), judged(-1e-13)), "newest day"),
    ("far too high", duel(judged(0.9, calibration=2.5), judged(1.0)), "calibration on the newest day"),
    ("far too low", duel(judged(0.9, calibration=0.3), judged(1.0)), "calibration on the newest day"),
    ("nothing predicted", duel(judged(0.9, calibration=0.0), judged(1.0)), "calibration on the newest day"),
    ("too high, the champion more", duel(judged(0.9, calibration=2.5), judged(1.0, calibration=3.0)), None),
    ("nothing was earned", duel(judged(0.9, calibration=NAN), judged(1.0, calibration=NAN)), None),
    ("too little to judge by", duel(judged(9.0, calibration=0.0, exposure=1.0), judged(1.0, exposure=1.0)), None),
    ("the champion has seen it", duel(judged(9.0), None), None),
    ("one day of history", duel(None, judged(1.0)), "newest day"),
]

WEEK = [
    ("as good", compared(week=duel(judged(1.05), judged(1.0))), None),
    ("unlearned", compared(week=duel(judged(1.2), judged(1.0))), "week"),
    ("inflated", compared(week=duel(judged(1.0, 2.5), judged(1.0))), "calibration on the week"),
    ("no day that both know", compared(week=SideBySide(None, None)), None),
    ("too little to judge by", compared(week=duel(judged(9.0, exposure=1.0), judged(1.0, exposure=1.0))), None),
    ("unlearned, yet clearly better on the newest day", compared(BETTER, duel(judged(1.2, 2.5), judged(1.0))), None),
]

BRANDS = [
    ("as good", [brand(judged(1.2), judged(1.0))], None),
    (
        "one broke",
        [brand(judged(1.0), judged(1.0)), brand(judged(2.0), judged(1.0), "brand-9")],
        "worst brand on the newest day",
    ),
    ("worse than perfect, within a tenth", [brand(judged(0.3), judged(0.0))], None),
    ("inflated", [brand(judged(1.0, 3.5), judged(1.0))], "worst brand's calibration on the newest day"),
    (
        "inflated, beside one that moved more and is inside",
        [brand(judged(1.0, 2.9), judged(1.0)), brand(judged(1.0, 3.5), judged(1.0, 2.0), "brand-9")],
        "worst brand's calibration on the newest day",
    ),
    ("inflated, the champion more", [brand(judged(1.0, 3.5), judged(1.0, 4.0))], None),
    ("without revenue", [brand(judged(1.0, NAN), judged(1.0, NAN))], None),
]

ROWS = [
    ("nothing to compare with", RowCounts(10), None),
    ("all there", RowCounts(100, 100.0, 900, 900), None),
    ("some went", RowCounts(100, 100.0, 460, 900), None),
    ("half the history went", RowCounts(100, 100.0, 440, 900), "rows of the history"),
    ("a quiet day", RowCounts(30, 100.0, 900, 900), None),
    ("hardly any of the day came", RowCounts(20, 100.0, 900, 900), "rows of the newest day"),
]

SHIFT = [
    ("as before", compared(score_shift=0.1), None),
    ("nearly twice", compared(score_shift=math.log(1.9)), None),
    ("five times", compared(score_shift=math.log(5.0)), "score shift"),
    ("five times, and clearly better", compared(BETTER, score_shift=math.log(5.0)), None),
    ("a brand five times", compared(brand_shift=BrandShift("brand-7", math.log(5.0))), None),
    ("a brand ten times", compared(brand_shift=BrandShift("brand-7", math.log(10.0))), "brand's score shift"),
    (
        "a brand ten times, and clearly better",
        compared(BETTER, brand_shift=BrandShift("brand-7", math.log(10.0))),
        None,
    ),
]

CASES = [
    *((f"day: {story}", compared(day), lost) for story, day, lost in DAY),
    *((f"week: {story}", given, lost) for story, given, lost in WEEK),
    *((f"brands: {story}", compared(brands=brands), lost) for story, brands, lost in BRANDS),
    *(
        (f"brands of the week: {story}", compared(week_brands=brands), lost and lost.replace("newest day", "week"))
        for story, brands, lost in BRANDS
    ),
    (
        "brands of the week: one broke, and clearly better on the newest day",
        compared(BETTER, week_brands=[brand(judged(2.0, 3.5), judged(1.0))]),
        None,
    ),
    *((f"rows: {story}", compared(rows=rows), lost) for story, rows, lost in ROWS),
    *((f"shift: {story}", given, lost) for story, given, lost in SHIFT),
]


@pytest.mark.parametrize(("given", "lost"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_rule_fails_alone_and_says_so(given, lost):
    verdict = decide(given, ModelSettings())
    assert [check.check for check in verdict.checks if not check.passed] == ([] if lost is None else [lost])
    assert verdict.accepted is (lost is None)
    assert verdict.reason


def test_without_a_champion_something_must_be_live():
    alone = Comparison(
        False, SideBySide(judged(9.0, calibration=9.0), None), SideBySide(None, None), rows=RowCounts(1, 100.0, 1, 100)
    )
    assert decide(alone, ModelSettings()).accepted


def test_all_that_failed_is_told_with_its_figures():
    worst = [brand(judged(7.0), judged(1.0), "brand-9")]
    verdict = decide(
        compared(duel(judged(2.0), judged(1.0)), rows=RowCounts(1, 100.0, 90, 90), brands=worst), ModelSettings()
    )
    assert not verdict.accepted
    for words in ("1 rows, usually a day has 100", "deviance 2 on the newest day", "deviance 7 for brand-9"):
        assert words in verdict.reason


@pytest.mark.parametrize(
    ("name", "loose", "given"),
    [
        ("gate_deviance", 2.0, compared(duel(judged(1.5), judged(1.0)))),
        ("gate_week_deviance", 2.0, compared(week=duel(judged(1.5), judged(1.0)))),
        ("gate_calibration", 4.0, compared(duel(judged(1.0, 3.0), judged(1.0)))),
        ("gate_brand_deviance", 3.0, compared(brands=[brand(judged(2.0), judged(1.0))])),
        ("gate_brand_calibration", 5.0, compared(brands=[brand(judged(1.0, 4.0), judged(1.0))])),
        ("gate_history_rows", 0.1, compared(rows=RowCounts(100, 100.0, 200, 900))),
        ("gate_day_rows", 0.1, compared(rows=RowCounts(20, 100.0, 900, 900))),
        ("gate_score_shift", 9.0, compared(score_shift=math.log(5.0))),
        ("gate_brand_score_shift", 12.0, compared(brand_shift=BrandShift("brand-7", math.log(10.0)))),
    ],
)
def test_every_bound_is_a_setting(name, loose, given):
    assert not decide(given, ModelSettings()).accepted
    assert decide(given, ModelSettings(**{name: loose})).accepted


def test_the_report_has_the_whole_comparison_and_no_nan():
    given = compared(
        duel(judged(1.0, NAN), judged(1.0, NAN)),
        rows=RowCounts(20, 100.0, 900, 900),
        brands=[brand(judged(1.0), judged(1.0)), brand(judged(1.3), judged(1.0), "brand-9")],
        score_shift=0.2,
    )
    found = report(given, decide(given, ModelSettings()), ModelSettings())
    assert found["accepted"] is False and "20 rows" in found["reason"]
    assert found["newest_day"]["challenger"]["calibration"] is None
    assert found["week"]["champion"]["deviance"] == 1.0
    assert found["worst_brand"]["brand_id"] == "brand-9" and found["brands_compared"] == 2
    assert found["rows"] == {"newest": 20, "usual": 100.0, "known": 900, "learned": 900}
    assert found["score_shift"] == 0.2
    assert [check["check"] for check in found["checks"] if not check["passed"]] == ["rows of the newest day"]
