"""report.html of a backtest: it says what its report.json says, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.reports import charts
from training.reports.page import render as render_page
from training.reports.report_data import RECENT_DAYS, signed

METRICS = {"rows": ",", "exposure": ",.0f", "r2": ".3f", "deviance": ".4g", "calibration": ".3f"}


def render(name: str, found: Mapping[str, Any]) -> str:
    """
    Args:
        name: of the file that was walked.
        found: what report.json says.
    """
    engines = found["engines"]
    mark = " (chosen)" if len(engines) > 1 else ""
    rows = {f"{engine} trees{mark if engine == found['engine'] else ''}": of for engine, of in engines.items()}
    brands = dict(sorted(found["brands"].items(), key=lambda one: -(one[1]["exposure"] if one[1] else 0.0)))
    before, after = (of["deviance"] if of else None for of in (found["histories_alone"], found["overall"]))
    return render_page(
        "backtest.html",
        name=name,
        found=found,
        gain=signed(after / before - 1, 1) if before and after is not None else "",
        engines=metric_rows(rows | {"past averages alone, without trees": found["histories_alone"]}),
        brands=metric_rows(brands),
        revenue=charts.revenue(found["brand_days"]),
        error=charts.error(found["brand_days"]),
        **shared(found),
    )


def shared(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the pages of backtests and nights both show."""
    return {
        "calibration": charts.calibration(found["deciles"]),
        "importance": charts.importance(found["importance"]),
        "shap": charts.shap(found["shap"]["features"]),
        "payouts": [charts.payout(series, found["payout_breaks"]) for series in found["payouts"]],
        "breaks": [break_row(one) for one in reversed(found["payout_breaks"])],
        "recent_days": RECENT_DAYS,
    }


def metric_rows(named: Mapping[str, Mapping[str, Any] | None]) -> list[Sequence[str]]:
    """Name, rows, impressions, R², deviance and calibration of each."""
    return [
        [name, *(charts.figure(None if of is None else of[metric], form) for metric, form in METRICS.items())]
        for name, of in named.items()
    ]


def break_row(one: Mapping[str, Any]) -> Sequence[str]:
    before, after = one["before_micros"], one["after_micros"]
    return [
        one["brand_id"],
        one["day"],
        one["per"],
        *(f"{micros / 1e6:.4g}" for micros in (before, after)),
        signed(after / before - 1),
    ]
