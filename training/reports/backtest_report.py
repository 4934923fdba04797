"""report.html of a backtest, and the parts that it shares with a night's: a page with nothing from elsewhere. Pure.

A page says what its report.json says, and nothing else.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from training.reports.plots import COLOURS, MUTED, Bar, Cell, Line, Swarm, bars, cut, heat, nothing, plot, swarm
from training.reports.report_data import RECENT_DAYS, signed

SHOWN_BRANDS = 12
SHOWN_DAYS = 62
SHOWN_BREAKS = 30
SHOWN_ROWS = 50
"""Brands in the table of figures."""
STYLE = """
:root { color-scheme: light; --paper: #fff; --ink: #1c2733; --soft: #5a6875; --line: #dde3e9; --muted: #8795a1;
  --good: #1b6e3c; --bad: #b03a12; --c0: #0067a8; --c1: #d05a00; --c2: #00805c; --c3: #8f4f8a }
@media screen and (prefers-color-scheme: dark) { :root { color-scheme: dark; --paper: #14191f; --ink: #e4e9ee;
  --soft: #a3afba; --line: #323c46; --muted: #8795a1; --good: #63c98d; --bad: #ff9466; --c0: #5db2ee; --c1: #ff9a4d;
  --c2: #45c79d; --c3: #d79ad2 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 50rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .25rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .25rem }
h3 { font-size: .95rem; margin: 1rem 0 .1rem; font-weight: 600 }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-weight: 600; color: var(--soft); white-space: nowrap } th.word, td.word { text-align: left }
td.word { overflow-wrap: break-word } svg { max-width: 100%; height: auto; display: block; margin: .5rem 0 }
text { font: 11px system-ui, sans-serif; fill: var(--soft) } .grid { stroke: var(--line); fill: none }
.empty { fill: none; stroke: var(--line) } .note { color: var(--soft); margin: .25rem 0 } .good { color: var(--good) }
.bad { color: var(--bad) } .verdict { font-weight: 600; font-size: 1.05rem } nav { color: var(--soft); font-size: 14px }
a { color: var(--c0) } ul { padding-left: 1.2rem } .pair { display: flex; flex-wrap: wrap; gap: 0 1rem }
@media screen and (max-width: 46rem) { section { overflow-x: auto } svg { max-width: none } }
@media print { body { margin: 0; max-width: none; font-size: 12px } nav { display: none }
  section { break-inside: avoid } rect, circle { print-color-adjust: exact } }
"""
FEATURE_WORDS = (
    "Exposures say how much stands behind everybody, brand, partner, slot and so on: log of the impressions, faded "
    "with a half-life of 1 or 10 days. Factors: by what a level differs from the one above it. log_revenue: what the "
    "histories expect; log_ctr, log_cvr and log_roas likewise; momentum: quick ÷ slow histories."
)


class Section(NamedTuple):
    """A part of a page; the body is HTML."""

    id: str
    heading: str
    body: str


def page(title: str, head: str, sections: Sequence[Section]) -> str:
    """
    Args:
        title: not escaped yet.
        head: HTML below the title.
    """
    links = " · ".join(f'<a href="#{section.id}">{section.heading}</a>' for section in sections)
    body = "\n".join(
        f'<section id="{section.id}">\n<h2>{section.heading}</h2>\n{section.body}\n</section>' for section in sections
    )
    name = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>\n{head}\n"
        f"<nav>{links}</nav>\n{body}\n</body>\n</html>\n"
    )


def render(name: str, found: Mapping[str, Any]) -> str:
    """
    Args:
        name: of the file that was walked.
        found: what report.json says.
    """
    head = (
        f'<p class="note">{found["from"]} to {found["to"]}, a day at a time, each day predicted from the days before '
        "it. Revenue per impression, weighted by impressions.</p>"
    )
    sections = [
        Section("figures", "How good", _figures(found)),
        calibration(found["deciles"]),
        Section("days", "Revenue by day", by_day(found["brand_days"])),
        error_by_brand_and_day(found["brand_days"]),
        importance(found["importance"], "Of the trees of the last day."),
        shap(found["shap"], "The last day"),
        payout_breaks(found["payout_breaks"], found["payouts"]),
    ]
    return page(f"Backtest of {name}", head, sections)


def _figures(found: Mapping[str, Any]) -> str:
    engines = found["engines"]
    mark = " (chosen)" if len(engines) > 1 else ""
    rows = {f"{name} trees{mark if name == found['engine'] else ''}": of for name, of in engines.items()}
    rows["histories alone, without trees"] = found["histories_alone"]
    if len(engines) > 1:
        words = f"Of {' and '.join(engines)}, {found['engine']} has the lower Tweedie deviance: its predictions are"
        words += " those of predictions.csv and of this page."
    else:
        words = f"By {found['engine']}, the only engine that was asked for."
    brands = dict(sorted(found["brands"].items(), key=lambda one: -(one[1]["exposure"] if one[1] else 0.0)))
    shown = dict(list(brands.items())[:SHOWN_ROWS])
    more = (
        f'<p class="note">{len(brands) - len(shown)} more brands in report.json.</p>'
        if len(brands) > len(shown)
        else ""
    )
    gain = _gain(found["histories_alone"], found["overall"])
    return (
        f'<p class="note">{words} The histories are what the trees start from{gain}.</p>'
        f"{figures(rows, 'by')}<h3>By brand</h3>{figures(shown, 'brand')}{more}"
    )


def _gain(alone: Mapping[str, Any] | None, overall: Mapping[str, Any] | None) -> str:
    before, after = (None if one is None else one["deviance"] for one in (alone, overall))
    if not before or after is None:
        return ""
    return f": the trees change their deviance by {signed(after / before - 1, 1)}"


def figures(rows: Mapping[str, Mapping[str, Any] | None], first: str) -> str:
    """A table of metrics by name."""
    body = [
        [name, *([f"{of['rows']:,}", f"{of['exposure']:,.0f}"] if of else ["–", "–"]), *_three(of)]
        for name, of in rows.items()
    ]
    return table([first, "rows", "impressions", "R²", "Tweedie deviance", "predicted ÷ realised"], body)


def _three(of: Mapping[str, Any] | None) -> list[str]:
    forms = {"r2": "{:.3f}", "deviance": "{:.4g}", "calibration": "{:.3f}"}
    return ["–" if of is None or of[name] is None else form.format(of[name]) for name, form in forms.items()]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """
    Args:
        words: so many columns, from the left, are words, the others numbers.
    """

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = [' class="word"' if position < words else "" for position in range(len(cells))]
        return "".join(f"<{tag}{kind}>{html.escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{line("th", head)}</tr></thead><tbody>{body}</tbody></table></div>'


def calibration(deciles: Sequence[Mapping[str, float]], words: str = "") -> Section:
    points = [(one["predicted_micros"], one["realised_micros"]) for one in deciles]
    if not points or max(max(point) for point in points) <= 0:
        return Section("calibration", "Calibration", nothing("There is nothing to judge predictions by."))
    ends = [value for point in points for value in point]
    lines = [
        Line("predicted = realised", [(min(ends), min(ends)), (max(ends), max(ends))], MUTED, dashed=True),
        Line("tenths of the impressions", points, COLOURS[0]),
    ]
    note = f"{words} Micros of revenue per impression, by tenths of the impressions from the lowest prediction to the "
    note += "highest. On the dashed line, predicted equals realised."
    drawn = plot(lines, "predicted", "realised", logs=True, width=480, height=400)
    return Section("calibration", "Calibration", f'<p class="note">{note.strip()}</p>{drawn}')


def by_day(brand_days: Sequence[Mapping[str, Any]], words: str = "") -> str:
    """Predicted and realised revenue of all that is given."""
    days = sorted({one["day"] for one in brand_days})[-SHOWN_DAYS:]
    totals = {name: dict.fromkeys(days, 0.0) for name in ("realised", "predicted")}
    for one in brand_days:
        for name, of_day in totals.items():
            if one["day"] in of_day:
                of_day[one["day"]] += one[f"{name}_micros"] / 1e6
    lines = [
        Line(name, list(enumerate(of_day.values())), colour)
        for (name, of_day), colour in zip(totals.items(), COLOURS, strict=False)
    ]
    note = f'<p class="note">All brands, units of currency{_last(days, brand_days)}. {words}</p>'
    return note + plot(lines, "day", "revenue", ticks=[day[5:] for day in days], height=260)


def _last(days: Sequence[str], brand_days: Sequence[Mapping[str, Any]]) -> str:
    return f"; the last {len(days)} days" if len({one["day"] for one in brand_days}) > len(days) else ""


def error_by_brand_and_day(
    brand_days: Sequence[Mapping[str, Any]], words: str = "", brands: int | None = None
) -> Section:
    """
    Args:
        words: who predicted.
        brands: how many there are, if only some are given.
    """
    days = sorted({one["day"] for one in brand_days})[-SHOWN_DAYS:]
    earned: dict[str, float] = {}
    for one in brand_days:
        earned[one["brand_id"]] = earned.get(one["brand_id"], 0.0) + one["realised_micros"]
    chosen = sorted(earned, key=lambda brand: (-earned[brand], brand))[:SHOWN_BRANDS]
    row_of = {brand: row for row, brand in enumerate(chosen)}
    column_of = {day: column for column, day in enumerate(days)}
    cells = {
        (row_of[one["brand_id"]], column_of[one["day"]]): _cell(one)
        for one in brand_days
        if one["brand_id"] in row_of and one["day"] in column_of
    }
    of = len(earned) if brands is None else brands
    note = f"{words} Predicted ÷ realised revenue: blue is too low, orange too high{_last(days, brand_days)}."
    note += f" The {len(chosen)} brands with most revenue; {of - len(chosen)} more." if of > len(chosen) else ""
    drawn = heat(chosen, [day[5:] for day in days], cells)
    return Section("error", "Error by brand and day", f'<p class="note">{note.strip()} Hover for figures.</p>{drawn}')


def _cell(one: Mapping[str, Any]) -> Cell:
    said, was = one["predicted_micros"], one["realised_micros"]
    place = f"{one['brand_id']}, {one['day']}: predicted {said / 1e6:,.4g}, realised {was / 1e6:,.4g}"
    if was <= 0 or said <= 0:  # without revenue there is no ratio, and without a past nothing was predicted
        return Cell(None, place)
    return Cell(said / was, f"{place}, ratio {said / was:.2f}, log ratio {math.log(said / was):+.2f}")


def importance(shares: Sequence[Mapping[str, Any]], words: str) -> Section:
    used = [one for one in shares if one["share"] > 0][:20]
    rows = [Bar(one["feature"], one["share"], f"{one['share']:.1%}") for one in used]
    if not rows:
        return Section(
            "importance", "Feature importance", nothing("The trees do not split: nothing was to be learned.")
        )
    more = len([one for one in shares if one["share"] > 0]) - len(rows)
    note = f"{words} Each feature's share of what all splits gain." + (
        f" {more} smaller ones are left out." if more else ""
    )
    drawn = f'<p class="note">{note}</p>{bars(rows, "share of the gain")}<p class="note">{FEATURE_WORDS}</p>'
    return Section("importance", "Feature importance", drawn)


def shap(found: Mapping[str, Any], words: str) -> Section:
    heading = "How the trees correct the histories (SHAP)"
    if not found["features"]:
        return Section("shap", heading, nothing("The trees leave every expectation as it is."))
    rows = [
        Swarm(one["feature"], f"× {math.exp(one['mean_abs']):.3f}", [(x, rank) for x, rank in one["dots"]])
        for one in found["features"]
    ]
    note = f"{words}, {found['rows']} of its rows, a dot each: by what factor a feature moves the prediction away from "
    note += "what the histories expect"
    if found["expected_micros"] is not None:
        note += f" ({found['expected_micros']:,.4g} micros per impression in the mean)"
    if found["base"] is not None:
        note += f". The trees begin with × {math.exp(found['base']):.3f} for every row"
    note += ". Right: the mean change up or down."
    return Section("shap", heading, f'<p class="note">{note}</p>{swarm(rows, "SHAP values by feature")}')


def payout_breaks(breaks: Sequence[Mapping[str, Any]], payouts: Sequence[Mapping[str, Any]]) -> Section:
    heading = "Payout breaks"
    if not breaks:
        return Section("breaks", heading, nothing("No brand's payout has broken with its past."))
    newest = list(reversed(breaks))[:SHOWN_BREAKS]
    rows = [
        [
            one["brand_id"],
            one["day"],
            one["per"],
            f"{one['before_micros'] / 1e6:.4g}",
            f"{one['after_micros'] / 1e6:.4g}",
            signed(one["after_micros"] / one["before_micros"] - 1),
        ]
        for one in newest
    ]
    drawn = [_payout(series, breaks) for series in payouts]
    note = (
        "What a brand pays for a click (an impression, where nobody clicks) has changed overnight: its histories begin "
    )
    note += f"anew. Units of currency; a break of the last {RECENT_DAYS} days is an alert."
    if len(breaks) > len(newest):
        note += f" The newest {len(newest)} of {len(breaks)}."
    figures = table(["brand", "day", "per", "before", "after", "change"], rows, 3)
    return Section("breaks", heading, f'<p class="note">{note}</p>{figures}<div class="pair">{"".join(drawn)}</div>')


def _payout(series: Mapping[str, Any], breaks: Sequence[Mapping[str, Any]]) -> str:
    days, micros = series["days"][-SHOWN_DAYS:], series["micros"][-SHOWN_DAYS:]
    place = {day: float(position) for position, day in enumerate(days)}
    marks = [
        (place[one["day"]], f"{one['day']}: {one['before_micros'] / 1e6:.4g} → {one['after_micros'] / 1e6:.4g}")
        for one in breaks
        if one["brand_id"] == series["brand_id"] and one["day"] in place
    ]
    # A correction below zero is no payout.
    points = [(float(position), max(value, 0.0) / 1e6) for position, value in enumerate(micros)]
    line = Line(series["brand_id"], points, COLOURS[0])
    y_name = f"{cut(series['brand_id'])}: revenue per {series['per']}"
    ticks = [day[5:] for day in days]
    return f"<div>{plot([line], 'day', y_name, ticks=ticks, marks=marks, width=370, height=200)}</div>"
