"""Predicts each past day from the days before it, and reports how well (`backtest.py` is the command).

Every day is predicted by trees that are fitted on the days before it, by the same functions as the nightly run.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from db.files import atomic_write
from training.arrays import Flags, Floats, Integers
from training.etl.csv_reader import Unreadable, read_file
from training.etl.reader import day_number, day_of, from_import
from training.fitting.dataset import TrainingSet
from training.fitting.engines import fit_before, predicted
from training.gate.gate import as_json
from training.gate.metrics import Metrics, metrics_of
from training.progress import Say
from training.reports.backtest_report import render
from training.reports.report_data import brand_days, deciles, importance, payout_breaks, payouts, shap
from training.settings import Engine, ModelSettings
from training.trees.engines import Reference

PREDICTED = ("predicted_revenue_micros", "predicted_ctr", "predicted_cvr")


class WalkForward(NamedTuple):
    """Predictions for the days asked for, per exposure."""

    rows: Integers  # their positions in the training set
    revenue_micros: Floats
    ctr: Floats
    cvr: Floats
    without_history: int  # days that have no day with data before them, and get no prediction
    trees: Reference | None  # of the last day; None: no day had a history


def walk_forward(data: TrainingSet, first: int, last: int, settings: ModelSettings, say: Say = print) -> WalkForward:
    """Predict each day from the days before it.

    Args:
        first, last: days since 1970, both included.
    """
    revenue = np.zeros(len(data.days))
    without_history = 0
    trees: Reference | None = None
    for day in np.unique(data.days[(data.days >= first) & (data.days <= last)]).tolist():
        if not data.before(day).any():
            without_history += 1
            continue
        rows = np.flatnonzero(data.days == day)
        trees = fit_before(data, day, settings)
        revenue[rows] = predicted(data, rows, trees)
        found = metrics_of(data.target[rows], revenue[rows], data.exposure[rows], settings.tweedie_power)
        say(f"  {day_of(day)}: {found.rows} rows, R² {found.r2:.3f}, calibration {found.calibration:.3f}")
    wanted = np.flatnonzero((data.days >= first) & (data.days <= last))
    heads = data.heads[wanted]
    return WalkForward(wanted, revenue[wanted], heads[:, 1], heads[:, 2], without_history, trees)


def walk_with(
    engines: Sequence[Engine], data: TrainingSet, first: int, last: int, settings: ModelSettings, say: Say = print
) -> dict[Engine, WalkForward]:
    """The same days predicted by each engine, on the same histories; the best first, by Tweedie deviance."""
    walks: dict[Engine, WalkForward] = {}
    for engine in engines:
        if len(engines) > 1:
            say(f"{engine}:")
        walks[engine] = walk_forward(data, first, last, settings.model_copy(update={"engine": engine}), say)

    def deviance(engine: Engine) -> float:
        found = _judged(data, walks[engine], walks[engine].revenue_micros, settings).deviance
        return math.inf if math.isnan(found) else found

    return {engine: walks[engine] for engine in sorted(walks, key=deviance)}


def _judged(data: TrainingSet, walk: WalkForward, revenue_micros: Floats, settings: ModelSettings) -> Metrics:
    return metrics_of(data.target[walk.rows], revenue_micros, data.exposure[walk.rows], settings.tweedie_power)


def report(data: TrainingSet, walks: Mapping[Engine, WalkForward], settings: ModelSettings) -> dict[str, Any]:
    """The content of report.json.

    Args:
        walks: by engine; the first one's predictions are reported.
    """
    engine, walk = next(iter(walks.items()))
    rows = walk.rows
    truth, exposure = data.target[rows], data.exposure[rows]
    brands = data.frame["brand_id"].to_numpy()[rows]
    days = data.days[rows]

    def of(chosen: Flags) -> dict[str, Any] | None:
        return as_json(metrics_of(truth[chosen], walk.revenue_micros[chosen], exposure[chosen], settings.tweedie_power))

    newest = rows[days == days.max()]
    nothing_fitted: dict[str, Any] = {"rows": 0, "base": None, "expected_micros": None, "features": []}
    broken = data.payout_breaks()
    return {
        "from": day_of(days.min()).isoformat(),
        "to": day_of(days.max()).isoformat(),
        "overall": of(np.ones(len(rows), np.bool_)),
        "engine": engine,
        "engines": {
            name: as_json(_judged(data, walk, walk.revenue_micros, settings)) for name, walk in sorted(walks.items())
        },
        "histories_alone": as_json(_judged(data, walk, data.heads[rows, 0], settings)),
        "brands": {brand: of(brands == brand) for brand in sorted(set(brands.tolist()))},
        "days": {day_of(day).isoformat(): of(days == day) for day in np.unique(days).tolist()},
        "deciles": deciles(truth, walk.revenue_micros, exposure),
        "brand_days": brand_days(data, rows, walk.revenue_micros),
        "importance": [] if walk.trees is None else importance(walk.trees),
        "shap": nothing_fitted if walk.trees is None else shap(walk.trees, data, newest),
        "payout_breaks": payout_breaks(broken),
        "payouts": payouts(data, broken),
        "days_without_history": walk.without_history,
        "settings": settings.model_dump(mode="json", exclude={"key"}),
    }


def run(
    source: Path,
    first: dt.date,
    last: dt.date,
    out: Path,
    settings: ModelSettings,
    say: Say = print,
    engines: Sequence[Engine] = (),
) -> dict[str, Any]:
    """Predict, compute metrics, and write predictions.csv, report.json and report.html.

    Args:
        engines: to compare; the predictions are those of the best. None given: the engine of the settings.

    Returns:
        The content of report.json.

    Raises:
        Unreadable: the file is not a performance file, or has no rows for those days.
        OSError: the files cannot be written.
    """
    started = time.monotonic()
    read = read_file(source, say, keep=True)
    say(f"{read.rows:,} rows, {len(read.rejects):,} rejected")
    frame = from_import(read.frame, daily=read.daily)
    days = frame["day"].to_numpy(np.int64)
    if not ((days >= day_number(first)) & (days <= day_number(last))).any():
        known = f"it covers {day_of(days.min())} to {day_of(days.max())}" if len(days) else "it has no usable row"
        raise Unreadable(f"{source} has no row from {first} to {last}; {known}")
    # Days after the last one asked for are not used.
    past = np.flatnonzero(days <= day_number(last))
    past = past[np.argsort(days[past], kind="stable")]
    data = TrainingSet.of(frame.iloc[past].reset_index(drop=True), settings.pending_share)
    walks = walk_with(engines or [settings.engine], data, day_number(first), day_number(last), settings, say)
    walk = next(iter(walks.values()))
    found = report(data, walks, settings) | {
        "rows": read.rows,
        "rejected": len(read.rejects),
        "cut_off": read.cut_off,
        "seconds": round(time.monotonic() - started, 2),
    }
    out.mkdir(parents=True, exist_ok=True)
    _write_predictions(out / "predictions.csv", read.header, read.kept, past[walk.rows], walk)
    atomic_write(out / "report.json", json.dumps(found, indent=1) + "\n")
    atomic_write(out / "report.html", render(source.name, found))
    return found


def _write_predictions(
    path: Path, header: list[str], kept: list[list[str]], lines: Integers, walk: WalkForward
) -> None:
    """Write the file's rows with the predictions beside them, in the order of the file."""
    order = np.argsort(lines)
    columns = (values[order].tolist() for values in (walk.revenue_micros, walk.ctr, walk.cvr))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*header, *PREDICTED])
        rows = (kept[line] for line in lines[order].tolist())
        writer.writerows([*row, *values] for row, *values in zip(rows, *columns, strict=True))
