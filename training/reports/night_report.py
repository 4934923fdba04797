"""The night's report: is the new version live and why, how good is it, and how do the brands stand.

`STATE/reports/<version>.html` and `.json`, beside the models and not among them: a version's directory holds what was
published and nothing else. Reports go when their version's files go.
"""

from __future__ import annotations

import datetime as dt
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
from training.reports import charts
from training.reports.backtest_report import metric_rows, shared
from training.reports.page import render as render_page
from training.reports.report_data import (
    brand_days,
    deciles,
    importance,
    number,
    payout_breaks,
    payouts,
    shap,
)

DAYS = 28
WINDOWS_DAYS = (7, DAYS)
MOST_BRANDS = 50
"""Brands whose comparison is kept."""
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
    return seen[np.argsort(-earned[seen], kind="stable")][: charts.SHOWN_BRANDS].astype(np.int64)


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
    named = {"newest_day": "newest day", "week": "week"}
    sides = {
        f"{words}, {side}": found[name][side]
        for name, words in named.items()
        for side in ("challenger", "champion")
        if found[name][side] is not None
    }
    return render_page(
        "night.html",
        found=found,
        sides=metric_rows(sides),
        duels={words: charts.deviances(found["duels"][name]) for name, words in named.items()},
        checks=[[one["check"], "passed" if one["passed"] else "failed", one["detail"]] for one in found["checks"]],
        revenue=charts.revenue(found["day_totals"]),
        error=charts.error(found["brand_days"], found["brands"]),
        roas=charts.roas(found["money"], WINDOWS_DAYS),
        windows=WINDOWS_DAYS,
        money=[_money_row(one) for one in found["money"]],
        **shared(found),
    )


def _money_row(one: Mapping[str, Any]) -> list[str]:
    return [
        one["brand_id"],
        *(f"{one[f'{name}_micros_{DAYS}d'] / 1e6:,.2f}" for name in ("revenue", "cost")),
        *(charts.figure(one[f"roas_{days}d"]) for days in WINDOWS_DAYS),
        charts.figure(one["target_roas"]),
        charts.figure(one["kappa"]) + (" (not used)" if one["converged"] is False else ""),
        charts.figure(one["lambda"]),
    ]
