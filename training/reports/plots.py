"""Plots as inline SVG, with nothing from elsewhere. Pure.

Colours are variables of the page's style sheet (`backtest_report.STYLE`), so that a page may be light or dark. What
carries a meaning is blue or orange, which colour-blind people see, too; exact values are titles, shown on hover.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 26, 40
NAMES = 190
"""Width of the names beside bars, swarms and heat maps."""
COLOURS = ("var(--c0)", "var(--c1)", "var(--c2)", "var(--c3)")
MUTED = "var(--muted)"
CHARACTER = 6.3
"""Mean width of a character of the labels."""
ROW = 22
HEAT = ("#08519c", "#3182bd", "#6baed6", "#bdd7e7", "#f0f0f0", "#fdd0a2", "#fd8d3c", "#e6550d", "#a63603")
HEAT_BOUNDS = (1 / 2, 1 / 1.5, 1 / 1.25, 1 / 1.1, 1.1, 1.25, 1.5, 2.0)
HEAT_WORDS = ("< 0.5", "0.5–0.67", "0.67–0.8", "0.8–0.91", "0.91–1.1", "1.1–1.25", "1.25–1.5", "1.5–2", "> 2")
SWARM = ("#2166ac", "#67a9cf", "#a0a0a0", "#ef8a62", "#b2430e")
"""Of a feature's value, from its lowest to its highest fifth."""
EQUAL = 5e-4
"""A ratio whose logarithm is smaller is shown as 1.000."""
LOG_FROM = 20.0
"""Spread of values from which axes that may be logarithmic are."""


class Line(NamedTuple):
    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False


class Cell(NamedTuple):
    ratio: float | None  # None: there is none
    title: str


class Bar(NamedTuple):
    name: str
    value: float
    text: str  # beside the bar
    title: str = ""
    second: float | None = None  # a thinner bar below
    mark: float | None = None  # a tick across, such as a target


class Swarm(NamedTuple):
    name: str
    text: str
    dots: Sequence[tuple[float, float | None]]  # (x, rank of the feature's value from 0 to 1, None where not known)


class Axis(NamedTuple):
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where the value lies between the ends, 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        if not self.log:
            return [self.low + (self.high - self.low) * step / 4 for step in range(5)]
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        steps = (1.0, 2.0, 5.0) if last - first <= 2 else (1.0,)
        found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        return [value for value in found if self.low * 0.999 <= value <= self.high * 1.001]


def plot(
    lines: Sequence[Line],
    x_name: str,
    y_name: str,
    *,
    ticks: Sequence[str] = (),
    marks: Sequence[tuple[float, str]] = (),
    logs: bool = False,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> str:
    """
    Args:
        ticks: names of the x positions 0, 1, 2 …; none where x is a number.
        marks: (x, title) of vertical lines.
        logs: both axes are logarithmic, if the values are positive and far apart; else axes start at zero.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        return nothing("There is nothing to draw.")
    frame = _Frame(*_axes(points, logs, bool(ticks)), width - RIGHT, height - BOTTOM)
    parts = [_text(4, 14, y_name), *_grid(frame, ticks)]
    parts.append(_text(frame.right, height - 6, x_name, "end"))
    for x, title in marks:
        place = frame.at(x, frame.up.low)[0]
        way = f"M{place} {TOP}V{frame.low}"
        parts.append(f'<path d="{way}" stroke="{COLOURS[1]}" stroke-width="2" stroke-dasharray="2 3">')
        parts.append(f"<title>{html.escape(title)}</title></path>")
    for line in lines:
        parts += _drawn(frame, line, ticks)
    drawn, legend_height = _legend(lines, width, height) if len(lines) > 1 else ("", 0)
    return _svg(width, height + legend_height, f"{y_name} by {x_name}", [*parts, drawn])


class _Frame(NamedTuple):
    """Where a plot's values lie on the page."""

    across: Axis
    up: Axis
    right: int
    low: int

    def at(self, x: float, y: float) -> tuple[float, float]:
        left = LEFT + self.across.share(x) * (self.right - LEFT)
        return round(left, 1), round(self.low - self.up.share(y) * (self.low - TOP), 1)


def _grid(frame: _Frame, ticks: Sequence[str]) -> list[str]:
    """Lines across, and the names on both axes."""
    parts = []
    for value in frame.up.ticks():
        _, y = frame.at(frame.across.low, value)
        line = f'<path d="M{LEFT} {y}H{frame.right}" class="grid"/>'
        parts.append(line + _text(LEFT - 6, y + 4, short(value), "end"))
    if ticks:
        every = max(1, math.ceil(len(ticks) * 46 / (frame.right - LEFT)))
        named = [(float(position), ticks[position]) for position in range(0, len(ticks), every)]
    else:
        named = [(value, short(value)) for value in frame.across.ticks()]
    below = [_text(frame.at(x, frame.up.low)[0], frame.low + 16, name, "middle") for x, name in named]
    return [*parts, *below]


def _drawn(frame: _Frame, line: Line, ticks: Sequence[str]) -> list[str]:
    """The line, and its points unless it is dashed."""
    parts = []
    placed = [frame.at(x, y) for x, y in line.points]
    if len(placed) > 1:
        path = "M" + "L".join(f"{x} {y}" for x, y in placed)
        parts.append(f'<path d="{path}" fill="none" {_stroke(line)}/>')
    if line.dashed:
        return parts
    for (x, y), point in zip(placed, line.points, strict=True):
        where = ticks[int(point[0])] if ticks else short(point[0])
        title = html.escape(f"{line.name}, {where}: {short(point[1])}")
        parts.append(f'<circle cx="{x}" cy="{y}" r="2.6" fill="{line.colour}"><title>{title}</title></circle>')
    return parts


def _axes(points: Sequence[tuple[float, float]], logs: bool, named: bool) -> tuple[Axis, Axis]:
    """(x, y). Both are the same on a plot that may be logarithmic: it compares like with like."""
    values = [value for point in points for value in point]
    most = nice(max(values))
    if logs and min(values) > 0 and max(values) / min(values) > LOG_FROM:
        axis = Axis(round_down(min(values)), nice(max(values)), True)
        return axis, axis
    if logs:
        return Axis(0.0, most), Axis(0.0, most)
    most_x = max((x for x, _ in points), default=1.0) or 1.0
    return Axis(0.0, most_x if named else nice(most_x)), Axis(0.0, nice(max(y for _, y in points)))


def _stroke(line: Line) -> str:
    return f'stroke="{line.colour}" stroke-width="1.8"' + (' stroke-dasharray="5 4"' if line.dashed else "")


def _legend(lines: Sequence[Line], width: int, top: int) -> tuple[str, int]:
    """(what is drawn below a plot, its height)."""
    parts, x, y = [], float(LEFT), top + 12
    for line in lines:
        wide = 30 + CHARACTER * len(cut(line.name)) + 18
        if x > LEFT and x + wide > width:
            x, y = float(LEFT), y + 18
        parts.append(f'<path d="M{x:.0f} {y - 4}h22" {_stroke(line)}/>' + _text(x + 28, y, cut(line.name)))
        x += wide
    return "".join(parts), y - top + 8


def heat(rows: Sequence[str], columns: Sequence[str], cells: Mapping[tuple[int, int], Cell]) -> str:
    """Ratios by row and column: blue where they are too low, orange where too high, pale where right.

    Args:
        cells: by (row, column); what is not among them stays empty.
    """
    if not rows or not columns:
        return nothing("There is nothing to compare.")
    cell = min(26.0, (WIDTH - NAMES - RIGHT) / len(columns))
    below = len(rows) * ROW + 6
    parts = [_name(row * ROW, name) for row, name in enumerate(rows)]
    for (row, column), found in sorted(cells.items()):
        fill = f'fill="{heat_colour(found.ratio)}"' if found.ratio is not None else 'class="empty"'
        place = f'x="{NAMES + column * cell + 0.5:.1f}" y="{row * ROW + 1}" width="{cell - 1:.1f}" height="{ROW - 2}"'
        parts.append(f"<rect {place} {fill}><title>{html.escape(found.title)}</title></rect>")
    every = max(1, math.ceil(44 / cell))
    shown = range(0, len(columns), every)
    parts += [_text(NAMES + (column + 0.5) * cell, below + 12, columns[column], "middle") for column in shown]
    swatch, y = (WIDTH - 10) / (len(HEAT) + 1), below + 34
    for position, (colour, words) in enumerate([*zip(HEAT, HEAT_WORDS, strict=True), ("", "no figure")]):
        fill = f'fill="{colour}"' if colour else 'class="empty"'
        parts.append(f'<rect x="{position * swatch + 2:.1f}" y="{y}" width="{swatch - 6:.1f}" height="12" {fill}/>')
        parts.append(_text((position + 0.5) * swatch, y + 26, words, "middle"))
    return _svg(WIDTH, y + 34, "predicted ÷ realised by brand and day", parts)


def heat_colour(ratio: float) -> str:
    """
    >>> heat_colour(1.0) == HEAT[4], heat_colour(0.1) == HEAT[0], heat_colour(3.0) == HEAT[-1]
    (True, True, True)
    """
    return HEAT[sum(ratio >= bound for bound in HEAT_BOUNDS)]


def bars(rows: Sequence[Bar], label: str) -> str:
    """Horizontal bars from zero, each with its text."""
    if not rows:
        return nothing("There is nothing to show.")
    values = [max(row.value, row.second or 0.0, row.mark or 0.0) for row in rows]
    most = max(values) if max(values) > 0 else 1.0
    room = WIDTH - NAMES - CHARACTER * max(len(row.text) for row in rows) - 22
    parts = []
    for place, row in enumerate(rows):
        top = place * ROW
        thick = ROW - 8 if row.second is None else 9
        title = f"<title>{html.escape(row.title or f'{row.name}: {row.text}')}</title>"
        wide = max(row.value, 0.0) / most * room
        parts.append(_name(top, row.name))
        parts.append(
            f'<rect x="{NAMES}" y="{top + 4}" width="{wide:.1f}" height="{thick}" fill="{COLOURS[0]}">{title}</rect>'
        )
        if row.second is not None:
            second = max(row.second, 0.0) / most * room
            shape = f'x="{NAMES}" y="{top + 14}" width="{second:.1f}" height="4"'
            parts.append(f'<rect {shape} fill="{COLOURS[0]}" opacity=".5">{title}</rect>')
        if row.mark is not None:
            x = NAMES + row.mark / most * room
            parts.append(
                f'<path d="M{x:.1f} {top + 1}v{ROW - 2}" stroke="{COLOURS[1]}" stroke-width="3">{title}</path>'
            )
        end = max(row.value, row.second or 0.0, row.mark or 0.0, 0.0) / most * room
        parts.append(_text(NAMES + end + 7, top + 15, row.text))
    return _svg(WIDTH, len(rows) * ROW + 4, label, parts)


def ratios(rows: Sequence[tuple[str, float, str]], label: str) -> str:
    """Bars to both sides of 1 on a logarithmic scale: less is blue, more is orange.

    Args:
        rows: (name, ratio > 0, title).
    """
    if not rows:
        return nothing("There is nothing to compare.")
    most = max(max(abs(math.log(ratio)) for _, ratio, _ in rows), math.log(1.05))
    half = (WIDTH - NAMES - RIGHT) / 2 - 44
    middle = NAMES + half + 44
    parts = [f'<path d="M{middle} 0V{len(rows) * ROW}" stroke="{MUTED}"/>']
    for place, (name, ratio, title) in enumerate(rows):
        wide = math.log(ratio) / most * half
        colour = MUTED if abs(math.log(ratio)) < EQUAL else COLOURS[0 if wide < 0 else 1]
        x, top = middle + min(wide, 0.0), place * ROW
        shape = f'x="{x:.1f}" y="{top + 4}" width="{max(abs(wide), 1):.1f}" height="{ROW - 8}"'
        parts.append(_name(top, name))
        parts.append(f'<rect {shape} fill="{colour}"><title>{html.escape(title)}</title></rect>')
        beside = middle + wide + (6 if wide > 0 else -6)
        parts.append(_text(beside, top + 15, f"{ratio:.3f}", "start" if wide > 0 else "end"))
    return _svg(WIDTH, len(rows) * ROW + 4, label, parts)


def swarm(rows: Sequence[Swarm], label: str) -> str:
    """Each row's dots along x, side by side where they are dense; x is a logarithm and labelled as a factor."""
    dots = [x for row in rows for x, _ in row.dots]
    if not dots:
        return nothing("There is nothing to show.")
    most = max(max(abs(x) for x in dots), 0.01) * 1.03
    room, tall = WIDTH - NAMES - 70 - RIGHT, 30
    middle = NAMES + room / 2
    parts = []
    for step in (-1.0, -0.5, 0.0, 0.5, 1.0):
        x = middle + step * room / 2
        parts.append(f'<path d="M{x:.1f} 0V{len(rows) * tall}" class="grid"/>')
        parts.append(_text(x, len(rows) * tall + 15, f"× {math.exp(step * most):.2f}", "middle"))
    for place, row in enumerate(rows):
        centre = place * tall + tall / 2
        parts.append(_name(place * tall + 4, row.name))
        parts.append(_text(WIDTH - RIGHT, centre + 4, row.text, "end"))
        taken: dict[int, int] = {}
        for x, rank in row.dots:
            across = middle + x / most * room / 2
            before = taken.get(column := round(across / 3), 0)
            taken[column] = before + 1
            off = (before + 1) // 2 * 2.4 * (1 if before % 2 else -1)
            y = centre + max(-tall / 2 + 2, min(tall / 2 - 2, off))
            parts.append(f'<circle cx="{across:.1f}" cy="{y:.1f}" r="1.9" {_of_rank(rank)}/>')
    y = len(rows) * tall + 34
    for position in range(len(SWARM)):
        look = _of_rank(position / (len(SWARM) - 1))
        parts.append(f'<circle cx="{NAMES + 60 + position * 22}" cy="{y - 4}" r="4" {look}/>')
    parts.append(f'<circle cx="{NAMES + 220}" cy="{y - 4}" r="4" {_of_rank(None)}/>')
    parts.append(_text(NAMES + 50, y, "low value", "end"))
    parts.append(_text(NAMES + 158, y, "high"))
    parts.append(_text(NAMES + 230, y, "not known"))
    return _svg(WIDTH, y + 8, label, parts)


def _of_rank(rank: float | None) -> str:
    if rank is None:
        return f'fill="none" stroke="{MUTED}"'
    return f'fill="{SWARM[min(int(rank * len(SWARM)), len(SWARM) - 1)]}"'


def nothing(words: str) -> str:
    """In place of a plot."""
    return f'<p class="note">{html.escape(words)}</p>'


def _svg(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    return f'<svg {size} role="img" aria-label="{html.escape(label)}">{"".join(parts)}</svg>'


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(words)}</text>'


def _name(top: float, name: str) -> str:
    """Beside a row; cut where it is long, whole on hover."""
    text = f"<title>{html.escape(name)}</title>{html.escape(cut(name))}"
    return f'<text x="{NAMES - 8}" y="{top + 15:.1f}" text-anchor="end">{text}</text>'


def cut(name: str, most: int = 27) -> str:
    """In the middle: names of one kind often begin alike.

    >>> cut("a-brand-with-a-long-name-17", 10)
    'a-br…me-17'
    """
    if len(name) <= most:
        return name
    begins = (most - 1) // 2
    return f"{name[:begins]}…{name[begins + 1 - most :]}"


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


def round_down(value: float) -> float:
    """The round number before a positive one.

    >>> round_down(37.0)
    20.0
    """
    unit = 10.0 ** math.floor(math.log10(value))
    return max(step for step in (1.0, 2.0, 5.0) if step * unit <= value * (1 + 1e-9)) * unit


def short(value: float) -> str:
    """
    >>> short(12500.0), short(0.25), short(1234567.0)
    ('12.5k', '0.25', '1.23M')
    """
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"
