"""Reports in a real browser: whole names, plots drawn, nothing wider than a phone, nothing run that a name holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.servers.chromium import CHROMIUM
from tests.unit.training.conftest import make_history
from tests.unit.training.reports.browser import looked_at
from tests.unit.training.reports.test_backtest_report import ODD, found
from tests.unit.training.reports.test_night_report import DUEL, brands, named, told
from training.reports import backtest_report, night_report
from training.settings import ModelSettings

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
PHONES = [360, 390]
NAMES = {
    "a script": "</script><script>window.ran = true</script><img src=x onerror='window.ran = true'>",
    "right to left": "מותג-ישראלי-١٢٣-עסקים",
    "emoji": "👩‍👩‍👧‍👦" * 20,
    "128 characters": "partner:" + "x" * 120,
    "128 wide characters": "漢" * 128,
    "a template": "{{ 7 * 7 }}{% for %}",
}


def assert_seen(page: dict[str, Any], plots: int) -> None:
    assert page["inner"] == page["width"] >= page["scroll"], "scrolls sideways"
    assert page["fetched"] == 0 and not page["ran"]
    assert len(page["plots"]) == plots
    for plot in page["plots"]:
        assert plot["drawn"] and plot["wide"] and not plot["broken"] and not plot["overlap"], plot
        assert plot["stepped"], "the arrow keys show a figure"


def test_a_name_neither_breaks_a_page_nor_runs(settings: ModelSettings, tmp_path: Path) -> None:
    one = make_history(days=5)
    one = one[one["brand_id"] == "b1"]
    frame = pd.concat([named(one, brand_id=name, device_type=name) for name in NAMES.values()], ignore_index=True)
    broken = {"day": "2020-04-05", "before_micros": 2e5, "after_micros": 1e5, "per": "click"}
    paid = {"per": "click", "days": ["2020-04-04", "2020-04-05"], "micros": [2e5, 1e5]}
    report = told(frame, settings.model_copy(update={"trees": 5})) | {
        "reason": "; ".join(NAMES.values()),
        "warnings": list(NAMES.values()),
        "payout_breaks": [broken | {"brand_id": name} for name in NAMES.values()],
        "payouts": [paid | {"brand_id": name} for name in NAMES.values()],
        "duels": {"newest_day": [DUEL | {"brand_id": name} for name in NAMES.values()], "week": []},
    }
    text = night_report.render(report)
    for page in looked_at([text], [*PHONES, 1280], tmp_path):
        assert_seen(page, 7 + len(NAMES))
        assert page["plots"][0]["stepped"].startswith("\u200b\u2068"), "names are isolated from what follows"
    assert "{{ 7 * 7 }}" in text and "49{%" not in text


def test_a_night_of_few_and_of_many_brands_fits_and_is_shown_by_touch(settings: ModelSettings, tmp_path: Path) -> None:
    texts = [night_report.render(told(brands(many), settings)) for many in (1, 200)]
    for page in looked_at(texts, [*PHONES, 768, 1280], tmp_path):
        assert_seen(page, 7)
        shown = [plot["touched"] for plot in page["plots"] if plot["touched"]]
        assert any("predicted" in words and "ratio" in words for words in shown), "the map tells a cell's figures"


def test_a_backtest_fits_whatever_there_is_to_say(tmp_path: Path) -> None:
    texts = [backtest_report.render("online_ads.csv.gz", found(**odd)) for odd in ODD.values()]
    seen = looked_at(texts, [*PHONES, 1280], tmp_path)
    for number, page in enumerate(seen):
        assert_seen(page, texts[number // 3].count('class="plot"'))


def test_the_page_and_its_plots_are_dark_where_the_reader_prefers_it(tmp_path: Path) -> None:
    text = backtest_report.render("f.csv", found())
    (light,), (dark,) = (looked_at([text], [390], tmp_path, dark=dark) for dark in (False, True))
    assert light["paper"] == "rgb(244, 246, 248)" and dark["paper"] == "rgb(14, 19, 23)"
    assert light["plots"][0]["colour"] != dark["plots"][0]["colour"]
