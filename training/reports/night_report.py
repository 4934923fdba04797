"""The night's report: is the new version live and why, how good is it, and how do the brands stand.

`STATE/reports/<version>.html` and `.json`, beside the models and not among them: a version's directory holds what was
published and nothing else. Reports go when their version's files go.
"""

from __future__ import annotations

import datetime as dt
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import select

from db.files import atomic_write
from db.session import Database
from db.state import State
from db.tables import brands
from training.arrays import Integers
from training.etl.reader import day_of
from training.features.histories import REVENUE
from training.fitting.dataset import PayoutBreak, TrainingSet
from training.fitting.engines import Boosters, predicted
from training.gate.gate import BrandMetrics, Comparison, as_json
from training.model.model import Model
from training.registry.activations import LivePrice, as_of
from training.reports.backtest_report import (
    SHOWN_BRANDS,
    Section,
    by_day,
    calibration,
    error_by_brand_and_day,
    figures,
    page,
    table,
)
from training.reports.backtest_report import importance as importance_section
from training.reports.backtest_report import payout_breaks as breaks_section
from training.reports.backtest_report import shap as shap_section
from training.reports.plots import Bar, bars, nothing, ratios
from training.reports.report_data import brand_days, deciles, importance, number, payout_breaks, payouts, shap

DAYS = 28
WINDOWS_DAYS = (7, DAYS)
MOST_BRANDS = 50
"""Brands whose comparison is kept."""
FAR = 3.0
"""So many times what is usual, or wanted, a ROAS is drawn at most; its figure stands beside it."""
Plain = dict[str, Any]


class Ended(NamedTuple):
    """How the night went, beside its data and trees."""

    model: Model
    live: str | None
    by_brand: dict[str, list[Plain]]  # see `metrics_by_brand`
    fits: Sequence[Mapping[str, Any]]  # λ: rows of `lambda_fits`
    problems: Sequence[str]
    warnings: Sequence[str]


class Standing(NamedTuple):
    """What the database says of the brands."""

    targets: Mapping[str, float]
    prices: Mapping[str, LivePrice]


def metrics_by_brand(compared: Comparison) -> dict[str, list[Plain]]:
    """Challenger and champion by brand, on the newest day and on the week: the brands with most impressions."""

    def of(brands: Sequence[BrandMetrics]) -> list[Plain]:
        chosen = sorted(brands, key=lambda brand: (-brand.champion.exposure, brand.brand_id))[:MOST_BRANDS]
        return [
            {"brand_id": brand.brand_id, "challenger": as_json(brand.challenger), "champion": as_json(brand.champion)}
            for brand in chosen
        ]

    return {"newest_day": of(compared.brands), "week": of(compared.week_brands)}


async def standing_of(database: Database) -> Standing:
    """Every brand's target, and its λ now."""
    async with database.read() as connection:
        rows = await connection.execute(select(brands.c.brand_id, brands.c.target_roas))
        targets = {row.brand_id: float(row.target_roas) for row in rows}
    then = await as_of(database, dt.datetime.now(dt.UTC))
    return Standing(targets, {price.brand_id: price for price in then.prices})


def write_report(state: State, found: Plain) -> Path:
    """The page and its figures, as JSON; those of versions whose files are gone go, too.

    Args:
        found: what `report` gives.

    Returns:
        The page.

    Raises:
        OSError: the folder cannot be written.
    """
    state.reports.mkdir(parents=True, exist_ok=True)
    path = state.reports / f"{found['version']}.html"
    atomic_write(path.with_suffix(".json"), json.dumps(found, indent=1, allow_nan=False) + "\n")
    atomic_write(path, render(found))
    for other in state.reports.iterdir():
        if other.stem != found["version"] and not (state.models / other.stem).is_dir():
            other.unlink()
    return path


def report(
    data: TrainingSet,
    newest: int,
    boosters: Boosters,
    broken: Sequence[PayoutBreak],
    ended: Ended,
    standing: Standing,
) -> Plain:
    """What the report's JSON says.

    Args:
        broken: all of `data.payout_breaks()`.
    """
    manifest = ended.model.manifest
    gate = manifest["metrics"]["gate"]
    recent = np.arange(np.searchsorted(data.days, newest - DAYS, side="right"), len(data.days))
    day = recent[data.days[recent] == newest]
    chosen = most_earning(data, recent)
    foreseen = recent[data.days[recent] > data.days[0]]  # of the first day nobody expected anything
    shown = foreseen[np.isin(data.keys.ids[0][foreseen], chosen)]
    return {
        "version": ended.model.version,
        "live": ended.live,
        "parent": manifest["parent"],
        "accepted": gate["accepted"],
        "reason": gate["reason"],
        "checks": gate["checks"],
        "problems": list(ended.problems),
        "warnings": list(ended.warnings),
        "trained_through": day_of(newest).isoformat(),
        "rows": len(data.days),
        "days": len(np.unique(data.days)),
        "simulated": ended.model.simulated,
        "engine": manifest["engine"],
        "newest_day": gate["newest_day"],
        "week": gate["week"],
        "duels": ended.by_brand,
        "brands_compared": gate["brands_compared"],
        "deciles": []
        if boosters.held_out is None
        else deciles(data.target[day], predicted(data, day, boosters.held_out), data.exposure[day]),
        "brands": len(np.unique(data.keys.ids[0][recent])),
        "brand_days": brand_days(data, shown, data.heads[shown, 0]),
        "day_totals": _totals(data, foreseen),
        "importance": importance(boosters.final),
        "shap": shap(boosters.final, data, day),
        "payout_breaks": payout_breaks(broken),
        "payouts": payouts(data, broken),
        "money": money(data, newest, chosen, ended.fits, standing),
    }


def most_earning(data: TrainingSet, rows: Integers) -> Integers:
    """Codes of the brands with most revenue among these rows, the first one first."""
    earned = np.bincount(data.keys.ids[0][rows], weights=data.numbers[rows, REVENUE])
    seen = np.unique(data.keys.ids[0][rows])
    return seen[np.argsort(-earned[seen], kind="stable")][:SHOWN_BRANDS].astype(np.int64)


def _totals(data: TrainingSet, rows: Integers) -> list[Plain]:
    days, of_day = np.unique(data.days[rows], return_inverse=True)
    sums = [
        np.bincount(of_day, weights=values * data.exposure[rows], minlength=len(days)).tolist()
        for values in (data.heads[rows, 0], data.target[rows])
    ]
    return [
        {"day": day_of(day).isoformat(), "predicted_micros": foreseen, "realised_micros": realised}
        for day, foreseen, realised in zip(days.tolist(), *sums, strict=True)
    ]


def money(
    data: TrainingSet, newest: int, chosen: Integers, fits: Sequence[Mapping[str, Any]], standing: Standing
) -> list[Plain]:
    """How these brands stand: ROAS over each window from what has a known cost, target, λ of the night and by day."""
    fit_of = {fit["brand_id"]: fit for fit in fits}
    recent = slice(int(np.searchsorted(data.days, newest - max(WINDOWS_DAYS), side="right")), None)
    codes, day, revenue = data.keys.ids[0][recent], data.days[recent], data.numbers[recent, REVENUE]
    cost = data.frame["cost_micros"].to_numpy(np.float64)[recent]
    known = ~np.isnan(cost)
    found: list[Plain] = []
    for code in chosen.tolist():
        brand = data.keys.vocabulary[0][code]
        own = known & (codes == code)
        fit, price = fit_of.get(brand), standing.prices.get(brand)
        one: Plain = {"brand_id": brand, "target_roas": standing.targets.get(brand)}
        for days in WINDOWS_DAYS:
            rows = own & (day > newest - days)
            spent, earned = float(cost[rows].sum()), float(revenue[rows].sum())
            one |= {f"revenue_micros_{days}d": earned, f"cost_micros_{days}d": spent}
            one |= {f"roas_{days}d": number(earned / spent) if spent > 0 else None}
        one["kappa"] = None if fit is None else number(fit["kappa"])
        one["converged"] = None if fit is None else bool(fit["converged"])
        one["lambda"] = None if price is None or price.lambda_ is None else number(price.lambda_)
        found.append(one)
    return found


def render(found: Mapping[str, Any]) -> str:
    """
    Args:
        found: what the report's JSON says.
    """
    sections = [
        Section("verdict", "Champion and challenger", _comparison(found)),
        calibration(
            found["deciles"],
            f"What the night's trees, fitted without the newest day, say of {found['trained_through']}.",
        ),
        Section(
            "days", f"Revenue of {DAYS} days", by_day(found["day_totals"], "Predicted by the histories, without trees.")
        ),
        error_by_brand_and_day(
            found["brand_days"], "What the histories expected the day before, without trees.", found["brands"]
        ),
        Section("money", "ROAS and λ by brand", _money(found)),
        breaks_section(found["payout_breaks"], found["payouts"]),
        importance_section(found["importance"], "Of the version's trees."),
        shap_section(found["shap"], f"On {found['trained_through']}"),
    ]
    return page(f"Night of {found['version']}", _head(found), sections)


def _head(found: Mapping[str, Any]) -> str:
    kind, word = ("good", "accepted") if found["accepted"] else ("bad", "rejected at the gate")
    days = f"{found['days']:,} day{'' if found['days'] == 1 else 's'}"
    learned = f"Learned from {found['rows']:,} rows of {days} through {found['trained_through']}"
    learned += f"{' (simulated market)' if found['simulated'] else ''}, by {found['engine']}."
    parts = [
        f'<p class="verdict {kind}">{_text(f"{word}: " + found["reason"])}</p>',
        f'<p class="note">{_text(found["live"])} is live. {_text(learned)}</p>',
    ]
    for name in ("problems", "warnings"):
        if found[name]:
            lines = "".join(f"<li>{_text(line)}</li>" for line in found[name])
            parts.append(f"<p>{name.capitalize()}:</p><ul>{lines}</ul>")
    return "\n".join(parts)


def _text(words: object) -> str:
    return html.escape(str(words))


def _comparison(found: Mapping[str, Any]) -> str:
    named = {"newest_day": "newest day", "week": "week"}
    rows = {
        f"{words}, {side}": found[name][side]
        for name, words in named.items()
        for side in ("challenger", "champion")
        if found[name][side] is not None
    }
    champion = found["parent"] or "none: there was nothing to compare with"
    parts = [f'<p class="note">The champion is {_text(champion)}. On the newest day, the challenger is judged by trees '
             "that have not seen it.</p>"]  # fmt: skip
    parts.append(figures(rows, "") if rows else nothing("There was nothing to judge by."))
    for name, words in named.items():
        shown = [one for one in found["duels"][name] if _ratio(one) is not None][:SHOWN_BRANDS]
        if not shown:
            continue
        more = found["brands_compared"] - len(shown) if name == "newest_day" else 0
        note = "Tweedie deviance, challenger ÷ champion: below 1, to the left, the challenger is better."
        note += f" {more} brands with fewer impressions are left out." if more > 0 else ""
        drawn = ratios(
            [(one["brand_id"], _ratio(one) or 1.0, _title(one)) for one in shown], f"deviance on the {words}"
        )
        parts.append(f'<h3>By brand, {words}</h3><p class="note">{note}</p>{drawn}')
    if found["checks"]:
        checks = [[one["check"], "passed" if one["passed"] else "lost", one["detail"]] for one in found["checks"]]
        parts.append(f"<h3>The gate</h3>{table(['check', '', 'figures'], checks, 3)}")
    return "".join(parts)


def _ratio(one: Mapping[str, Any]) -> float | None:
    challenger, champion = one["challenger"]["deviance"], one["champion"]["deviance"]
    both = challenger and champion and challenger > 0 and champion > 0
    return challenger / champion if both else None


def _title(one: Mapping[str, Any]) -> str:
    return (
        f"{one['brand_id']}: deviance {one['challenger']['deviance']:.4g}, champion {one['champion']['deviance']:.4g}"
    )


def _money(found: Mapping[str, Any]) -> str:
    rows = found["money"]
    longer = f"roas_{DAYS}d"
    drawn = [one for one in rows if one[longer] is not None]
    more = found["brands"] - len(rows)
    note = "Revenue ÷ cost of what has a known cost, pending revenue at the share that is expected to be approved. "
    note += f"The {len(rows)} brands with most revenue; {more} more. " if more > 0 else ""
    parts = []
    if drawn:
        words = f"Thick, and in figures: {WINDOWS_DAYS[0]} days; thin: {DAYS} days; across: the target."
        usual = float(np.median([one[longer] for one in drawn]))
        far = FAR * max([one["target_roas"] or 0.0 for one in drawn] + [usual])
        parts = [f'<p class="note">{note}{words}</p>', bars([_roas(one, far) for one in drawn], "ROAS by brand")]
    else:
        parts = [nothing("No cost is known: there is no ROAS.")]
    cells = [
        [
            one["brand_id"],
            *(f"{one[f'{name}_micros_{DAYS}d'] / 1e6:,.2f}" for name in ("revenue", "cost")),
            *(_figure(one[name]) for name in (f"roas_{WINDOWS_DAYS[0]}d", longer, "target_roas")),
            _figure(one["kappa"]) + (" (not used)" if one["converged"] is False else ""),
            _figure(one["lambda"]),
        ]
        for one in rows
    ]
    head = ["brand", f"revenue {DAYS} d", f"cost {DAYS} d", f"ROAS {WINDOWS_DAYS[0]} d", f"ROAS {DAYS} d", "target"]
    words = "λ of the night is κ, fitted to the logged opportunities; λ now is what bids are scored with (none: not "
    words += "recorded within two days). Revenue and cost: of what has a known cost."
    return "".join([*parts, table([*head, "λ of the night", "λ now"], cells), f'<p class="note">{words}</p>'])


def _roas(one: Mapping[str, Any], far: float) -> Bar:
    short, longer = one[f"roas_{WINDOWS_DAYS[0]}d"], one[f"roas_{DAYS}d"]
    target = one["target_roas"]
    title = f"{one['brand_id']}: {_figure(short)} in {WINDOWS_DAYS[0]} days, {_figure(longer)} in {DAYS} days"
    text = _figure(short) + (" …" if max(short or 0.0, longer) > far else "")
    return Bar(
        one["brand_id"], min(short or 0.0, far), text, f"{title}, target {_figure(target)}", min(longer, far), target
    )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
