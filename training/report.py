"""report.html: one page without anything from elsewhere. Pure."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 560, 260, 64, 34, 12, 12
COLOURS = ("#1f5fa8", "#c2571a", "#2f7d4f", "#7a4ea3", "#a8324a", "#4d6b78", "#8a6d1c", "#37789c")
MOST_BRANDS = 8
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #dde3e9 }
th:first-child, td:first-child { text-align: left } svg { max-width: 100%; height: auto }
text { font: 11px system-ui, sans-serif; fill: #44515e } .note { color: #5a6875 }
"""


class Line:
    def __init__(self, name: str, points: Sequence[tuple[float, float]], colour: str, dashed: bool = False) -> None:
        self.name, self.points, self.colour, self.dashed = name, points, colour, dashed


def render(name: str, found: dict[str, Any]) -> str:
    """
    Args:
        name: of the file that was walked.
        found: what report.json says.
    """
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Backtest of {html.escape(name)}</title>",
        f"<style>{STYLE}</style><h1>Backtest of {html.escape(name)}</h1>",
        f"<p>{found['from']} to {found['to']}, a day at a time, each day predicted from the days before it. "
        "Revenue per impression, weighted by impressions.</p>",
        _table({"all": found["overall"]} | found["brands"]),
        "<h2>Calibration by decile of the prediction</h2>",
        "<p class=note>Micros of revenue per impression. On the dashed line, predicted equals realised.</p>",
        _calibration(found["deciles"]),
        "<h2>Predicted and realised revenue by day</h2>",
        "<p class=note>All brands, units of currency.</p>",
        _by_day(found["brand_days"]),
        "<h2>Error by brand and day</h2>",
        f"<p class=note>Predicted ÷ realised revenue, the {MOST_BRANDS} brands with most revenue. 1 is right.</p>",
        _by_brand(found["brand_days"]),
    ]
    return "\n".join(parts) + "\n"


def _table(rows: dict[str, Any]) -> str:
    head = "<tr><th>brand<th>rows<th>impressions<th>R²<th>Tweedie deviance<th>predicted ÷ realised"
    body = []
    for name, metrics in rows.items():
        cells = [html.escape(name), f"{metrics['rows']:,}", f"{metrics['exposure']:,.0f}"]
        cells += [
            "–" if metrics[field] is None else f"{metrics[field]:.3f}" for field in ("r2", "deviance", "calibration")
        ]
        body.append("<tr>" + "".join(f"<td>{cell}" for cell in cells))
    return f"<table>{head}{''.join(body)}</table>"


def _calibration(deciles: list[dict[str, float]]) -> str:
    points = [(one["predicted_micros"], one["realised_micros"]) for one in deciles]
    most = max((max(point) for point in points), default=1.0)
    lines = [
        Line("realised", points, COLOURS[0]),
        Line("predicted = realised", [(0.0, 0.0), (most, most)], "#8795a1", dashed=True),
    ]
    return plot(lines, "predicted", "realised", dots=True)


def _by_day(brand_days: list[dict[str, Any]]) -> str:
    days = sorted({one["day"] for one in brand_days})
    place = {day: float(position) for position, day in enumerate(days)}
    totals = {name: dict.fromkeys(days, 0.0) for name in ("realised", "predicted")}
    for one in brand_days:
        for name, of_day in totals.items():
            of_day[one["day"]] += one[f"{name}_micros"] / 1e6
    lines = [
        Line(name, [(place[day], value) for day, value in of_day.items()], colour, dashed)
        for (name, of_day), colour, dashed in zip(totals.items(), COLOURS, (False, True), strict=False)
    ]
    return plot(lines, "day", "revenue", ticks=days)


def _by_brand(brand_days: list[dict[str, Any]]) -> str:
    days = sorted({one["day"] for one in brand_days})
    place = {day: float(position) for position, day in enumerate(days)}
    earned: dict[str, float] = {}
    for one in brand_days:
        earned[one["brand_id"]] = earned.get(one["brand_id"], 0.0) + one["realised_micros"]
    chosen = sorted(earned, key=lambda brand: -earned[brand])[:MOST_BRANDS]
    lines = []
    for brand, colour in zip(chosen, COLOURS, strict=False):
        points = [
            (place[one["day"]], min(one["predicted_micros"] / one["realised_micros"], 3.0))
            for one in brand_days
            if one["brand_id"] == brand and one["realised_micros"] > 0
        ]
        lines.append(Line(brand, points, colour))
    lines.append(Line("right", [(0.0, 1.0), (max(len(days) - 1.0, 1.0), 1.0)], "#8795a1", dashed=True))
    return plot(lines, "day", "predicted ÷ realised (cut at 3)", ticks=days)


def plot(lines: Sequence[Line], x_name: str, y_name: str, *, ticks: Sequence[str] = (), dots: bool = False) -> str:
    """An inline SVG. Axes start at zero; `ticks` names the x positions 0, 1, 2 …"""
    points = [point for line in lines for point in line.points]
    most_x = max((x for x, _ in points), default=1.0) or 1.0
    most_y = nice(max((y for _, y in points), default=1.0) or 1.0)
    if not ticks:
        most_x = nice(most_x)

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + x / most_x * (WIDTH - LEFT - RIGHT)
        return round(across, 1), round(HEIGHT - BOTTOM - y / most_y * (HEIGHT - BOTTOM - TOP), 1)

    height = HEIGHT + 18 * math.ceil(len(lines) / 3) + 8
    label = html.escape(f"{y_name} by {x_name}")
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" aria-label="{label}">']
    for step in range(5):
        value = most_y * step / 4
        _, y = at(0, value)
        parts.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#e4e9ee"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{short(value)}</text>')
    if ticks:
        every = max(1, math.ceil(len(ticks) / 8))
        named = [(float(position), ticks[position][5:]) for position in range(0, len(ticks), every)]
    else:
        named = [(most_x * step / 4, short(most_x * step / 4)) for step in range(5)]
    low = HEIGHT - BOTTOM + 15
    parts += [f'<text x="{at(x, 0)[0]}" y="{low}" text-anchor="middle">{name}</text>' for x, name in named]
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{html.escape(x_name)}</text>')
    parts.append(f'<text x="{LEFT + 4}" y="{TOP + 2}">{html.escape(y_name)}</text>')
    for position, line in enumerate(lines):
        placed = [at(x, y) for x, y in line.points]
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        path = "M" + "L".join(f"{x} {y}" for x, y in placed) if placed else ""
        parts.append(f'<path d="{path}" fill="none" stroke="{line.colour}" stroke-width="1.6"{dash}/>')
        if dots and not line.dashed:
            parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{line.colour}"/>' for x, y in placed]
        x, y = LEFT + position % 3 * 165, HEIGHT + 12 + position // 3 * 18
        parts.append(f'<path d="M{x} {y - 4}h18" stroke="{line.colour}" stroke-width="2"{dash}/>')
        parts.append(f'<text x="{x + 24}" y="{y}">{html.escape(line.name[:22])}</text>')
    return "".join(parts) + "</svg>"


def nice(value: float) -> float:
    """The next round number.

    >>> nice(37.0), nice(0.012)
    (40.0, 0.012)
    """
    if value <= 0 or not math.isfinite(value):
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return float(
        next(step for step in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10) if step * unit >= value * (1 - 1e-9)) * unit
    )


def short(value: float) -> str:
    """
    >>> short(12500.0), short(0.25)
    ('12.5k', '0.25')
    """
    if abs(value) >= 1000:
        return f"{value / 1000:g}k" if abs(value) < 1e6 else f"{value / 1e6:g}M"
    return f"{value:.3g}"
