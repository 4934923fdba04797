"""What the plots of a report show, as plain data that `templates/charts.js` draws with Observable Plot. Pure.

Each function gives None where there is nothing to draw. Money is in units of currency, but for micros per impression.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

SHOWN_BRANDS = 12
SHOWN_DAYS = 62
SHOWN_FEATURES = 20
LOG_FROM = 20.0
"""Spread of values from which axes that may be logarithmic are."""
FAR = 3.0
"""So many times what is usual, or wanted, a ROAS is drawn at most; its figure stands beside it."""
Rows = Sequence[Mapping[str, Any]]
Chart = dict[str, Any]
SIDES = ("predicted", "realised")


def six(value: float) -> float:
    """Six digits are more than a page shows.

    >>> six(1234567.8)
    1234570.0
    """
    return float(f"{value:.6g}")


def figure(value: float | None, form: str = ".3f") -> str:
    """
    >>> figure(None), figure(2.0), figure(1234.5, ",.1f")
    ('–', '2.000', '1,234.5')
    """
    return "–" if value is None else format(value, form)


def calibration(deciles: Rows) -> Chart | None:
    points = [[six(one["predicted_micros"]), six(one["realised_micros"])] for one in deciles]
    values = [value for point in points for value in point]
    if not values or max(values) <= 0:
        return None
    low, high = min(values), max(values)
    series = [
        {"name": "a tenth of the impressions", "colour": "c0", "points": points},
        {"name": "predicted = realised", "colour": "muted", "dashed": True, "points": [[low, low], [high, high]]},
    ]
    unit = "(micros per impression)"
    log = low > 0 and high / low > LOG_FROM
    return {"kind": "lines", "x": f"predicted {unit}", "y": f"realised {unit}", "log": log, "series": series}


def revenue(brand_days: Rows) -> Chart | None:
    """Realised and predicted revenue by day, of all that is given."""
    days = sorted({one["day"] for one in brand_days})
    if not days:
        return None
    sums = {name: dict.fromkeys(days, 0.0) for name in ("realised", "predicted")}
    for one in brand_days:
        for name, of_day in sums.items():
            of_day[one["day"]] += one[f"{name}_micros"] / 1e6
    shown = days[-SHOWN_DAYS:]
    series = [
        {"name": name, "colour": f"c{place}", "points": [[day, six(of_day[day])] for day in shown]}
        for place, (name, of_day) in enumerate(sums.items())
    ]
    left_out = len(days) - len(shown)
    return {"kind": "lines", "x": "day", "y": "revenue (units of currency)", "series": series, "left_out": left_out}


def error(brand_days: Rows, brands: int | None = None) -> Chart | None:
    """Predicted and realised revenue by brand and day, of the brands with most revenue.

    Args:
        brands: how many there are, if only some are given.
    """
    days = sorted({one["day"] for one in brand_days})
    earned: dict[str, float] = {}
    for one in brand_days:
        earned[one["brand_id"]] = earned.get(one["brand_id"], 0.0) + one["realised_micros"]
    if not days:
        return None
    rows = sorted(earned, key=lambda brand: (-earned[brand], brand))[:SHOWN_BRANDS]
    columns = days[-SHOWN_DAYS:]
    row_of, column_of = ({name: place for place, name in enumerate(names)} for names in (rows, columns))
    cells = [
        [row_of[one["brand_id"]], column_of[one["day"]], *(six(one[f"{name}_micros"] / 1e6) for name in SIDES)]
        for one in brand_days
        if one["brand_id"] in row_of and one["day"] in column_of
    ]
    left_out = {"days": len(days) - len(columns), "brands": max((brands or len(earned)) - len(rows), 0)}
    return {"kind": "heat", "rows": rows, "columns": columns, "cells": cells, "left_out": left_out}


def importance(shares: Rows) -> Chart | None:
    used = [one for one in shares if one["share"] > 0]
    bars = [
        {"name": one["feature"], "value": six(one["share"]), "text": f"{one['share']:.1%}"}
        for one in used[:SHOWN_FEATURES]
    ]
    left_out = len(used) - len(bars)
    return {"kind": "bars", "x": "share of the gain (%)", "bars": bars, "left_out": left_out} if bars else None


def shap(features: Rows) -> Chart | None:
    rows = [
        {"name": one["feature"], "text": f"× {math.exp(one['mean_abs']):.3f}", "dots": one["dots"]} for one in features
    ]
    return {"kind": "swarm", "x": "factor by which the prediction moves", "rows": rows} if rows else None


def payout(series: Mapping[str, Any], breaks: Rows) -> Chart:
    """What a brand paid by day, and the days on which that changed."""
    days, micros = series["days"][-SHOWN_DAYS:], series["micros"][-SHOWN_DAYS:]
    # A correction below zero is no payout.
    points = [[day, six(max(value, 0.0) / 1e6)] for day, value in zip(days, micros, strict=True)]
    marks = [
        [one["day"], f"{one['before_micros'] / 1e6:.4g} → {one['after_micros'] / 1e6:.4g}"]
        for one in breaks
        if one["brand_id"] == series["brand_id"] and one["day"] in days
    ]
    lines = [{"name": series["brand_id"], "colour": "c0", "points": points}]
    y = f"revenue per {series['per']} (units of currency)"
    return {"kind": "lines", "x": "day", "y": y, "low": True, "series": lines, "marks": marks}


def deviances(duels: Rows) -> Chart | None:
    """The challenger's deviance ÷ the champion's, by brand."""
    bars = []
    for one in duels:
        challenger, champion = one["challenger"]["deviance"] or 0.0, one["champion"]["deviance"] or 0.0
        if challenger > 0 and champion > 0:
            ratio = challenger / champion
            title = f"challenger {challenger:.4g}\nchampion {champion:.4g}\nratio {ratio:.3f}"
            bars.append({"name": one["brand_id"], "value": six(ratio), "text": f"{ratio:.3f}", "title": title})
    chart = {"kind": "bars", "x": "challenger's deviance ÷ champion's", "ratio": True, "bars": bars[:SHOWN_BRANDS]}
    return chart if bars else None


def roas(money: Rows, windows_days: tuple[int, int]) -> Chart | None:
    """ROAS by brand over two windows, and its target."""
    short, longer = (f"roas_{days}d" for days in windows_days)
    known = [one for one in money if one[longer] is not None]
    if not known:
        return None
    far = FAR * max(
        [one["target_roas"] or 0.0 for one in known] + [sorted(one[longer] for one in known)[len(known) // 2]]
    )
    bars = []
    for one in known:
        values = [one[short] or 0.0, one[longer]]
        title = [f"{days} days: {figure(one[f'roas_{days}d'])}" for days in windows_days]
        bars.append(
            {
                "name": one["brand_id"],
                "value": six(min(values[0], far)),
                "second": six(min(values[1], far)),
                "mark": one["target_roas"],
                "text": figure(one[short]) + (" …" if max(values) > far else ""),
                "title": "\n".join([*title, f"target: {figure(one['target_roas'])}"]),
            }
        )
    return {"kind": "bars", "x": "ROAS (revenue ÷ cost)", "bars": bars}
