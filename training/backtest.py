"""Walk forward a day at a time: `python -m training.backtest --csv FILE --from D1 --to D2 --out DIR`.

Every day is predicted by trees that were fitted on the days before it, by the night's own functions.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from db import BadSetting
from training.arrays import Floats, Integers
from training.etl import Unreadable, read_file
from training.fit import TrainingSet, fit_before, predicted
from training.history import day_number, day_of, from_import
from training.metrics import judge
from training.nightly import Say, plain
from training.report import render
from training.settings import ModelSettings, model_settings

PREDICTED = ("predicted_revenue_micros", "predicted_ctr", "predicted_cvr")
DECILES = 10


class Walk(NamedTuple):
    """Predictions of the days asked for."""

    rows: Integers  # of the training set
    revenue_micros: Floats
    ctr: Floats
    cvr: Floats
    without_history: int  # days that nothing came before


def walk_forward(data: TrainingSet, first: int, last: int, settings: ModelSettings, say: Say = print) -> Walk:
    """
    Args:
        first, last: days since 1970, both included.
    """
    revenue = np.zeros(len(data.days))
    without_history = 0
    for day in np.unique(data.days[(data.days >= first) & (data.days <= last)]).tolist():
        if not data.before(day).any():
            without_history += 1
            continue
        rows = np.flatnonzero(data.days == day)
        revenue[rows] = predicted(data, rows, fit_before(data, day, settings))
        found = judge(data.target[rows], revenue[rows], data.exposure[rows], settings.tweedie_power)
        say(f"  {day_of(day)}: {found.rows} rows, R² {found.r2:.3f}, calibration {found.calibration:.3f}")
    wanted = np.flatnonzero((data.days >= first) & (data.days <= last))
    heads = data.heads[wanted]
    return Walk(wanted, revenue[wanted], heads[:, 1], heads[:, 2], without_history)


def report(data: TrainingSet, walk: Walk, settings: ModelSettings) -> dict[str, Any]:
    """What report.json says."""
    rows = walk.rows
    truth, exposure = data.target[rows], data.exposure[rows]
    brands = data.frame["brand_id"].to_numpy()[rows]
    days = data.days[rows]

    def of(chosen: np.ndarray[Any, Any]) -> dict[str, Any] | None:
        found = judge(truth[chosen], walk.revenue_micros[chosen], exposure[chosen], settings.tweedie_power)
        return plain(found)

    frame = pd.DataFrame(
        {
            "brand_id": brands,
            "day": days,
            "predicted": walk.revenue_micros * exposure,
            "realised": truth * exposure,
        }
    )
    sums = frame.groupby(["brand_id", "day"], as_index=False)[["predicted", "realised"]].sum()
    brand_days = zip(*(sums[name].tolist() for name in ("brand_id", "day", "predicted", "realised")), strict=True)
    return {
        "from": day_of(days.min()).isoformat(),
        "to": day_of(days.max()).isoformat(),
        "overall": of(np.ones(len(rows), np.bool_)),
        "brands": {brand: of(brands == brand) for brand in sorted(set(brands.tolist()))},
        "days": {day_of(day).isoformat(): of(days == day) for day in np.unique(days).tolist()},
        "deciles": deciles(truth, walk.revenue_micros, exposure),
        "brand_days": [
            {
                "brand_id": brand,
                "day": day_of(day).isoformat(),
                "predicted_micros": predicted,
                "realised_micros": realised,
            }
            for brand, day, predicted, realised in brand_days
        ],
        "days_without_history": walk.without_history,
        "settings": settings.model_dump(mode="json", exclude={"key"}),
    }


def deciles(truth: Floats, predicted: Floats, exposure: Floats) -> list[dict[str, float]]:
    """Ten groups of equal exposure by prediction: mean predicted and realised micros per exposure."""
    order = np.argsort(predicted, kind="stable")
    cumulated = np.cumsum(exposure[order])
    if not len(cumulated) or cumulated[-1] <= 0:
        return []
    group = np.minimum((cumulated - exposure[order] / 2) / cumulated[-1] * DECILES, DECILES - 1).astype(int)
    found = []
    for decile in np.unique(group).tolist():
        chosen = order[group == decile]
        weight = exposure[chosen].sum()
        if weight > 0:
            means = [float((values[chosen] * exposure[chosen]).sum() / weight) for values in (predicted, truth)]
            found.append({"decile": decile + 1, "predicted_micros": means[0], "realised_micros": means[1]})
    return found


def run(
    source: Path, first: dt.date, last: dt.date, out: Path, settings: ModelSettings, say: Say = print
) -> dict[str, Any]:
    """Predict, judge, write the three files.

    Raises:
        Unreadable: the file is no performance file, or has no row of those days.
    """
    started = time.monotonic()
    read = read_file(source, say, keep=True)
    say(f"{read.rows:,} rows, {len(read.rejects):,} rejected")
    frame = from_import(read.frame, daily=read.daily)
    days = frame["day"].to_numpy(np.int64)
    if not ((days >= day_number(first)) & (days <= day_number(last))).any():
        known = f"it covers {day_of(days.min())} to {day_of(days.max())}" if len(days) else "it has no good row"
        raise Unreadable(f"{source} has no row from {first} to {last}; {known}")
    # Days after the last one asked for are never looked at.
    past = np.flatnonzero(days <= day_number(last))
    past = past[np.argsort(days[past], kind="stable")]
    data = TrainingSet.of(frame.iloc[past].reset_index(drop=True), settings.pending_share)
    walk = walk_forward(data, day_number(first), day_number(last), settings, say)
    found = report(data, walk, settings) | {
        "rows": read.rows,
        "rejected": len(read.rejects),
        "cut_off": read.cut_off,
        "seconds": round(time.monotonic() - started, 2),
    }
    out.mkdir(parents=True, exist_ok=True)
    _write_predictions(out / "predictions.csv", read.header, read.kept, past[walk.rows], walk)
    (out / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    (out / "report.html").write_text(render(source.name, found), encoding="utf-8")
    return found


def _write_predictions(path: Path, header: list[str], kept: list[list[str]], lines: Integers, walk: Walk) -> None:
    """In the order of the file, whose lines they are."""
    order = np.argsort(lines)
    columns = (values[order].tolist() for values in (walk.revenue_micros, walk.ctr, walk.cvr))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*header, *PREDICTED])
        rows = (kept[line] for line in lines[order].tolist())
        writer.writerows([*row, *said] for row, *said in zip(rows, *columns, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.backtest", description="Walk forward a day at a time.")
    parser.add_argument("--csv", type=Path, required=True, help="a performance file in the canonical format")
    parser.add_argument("--from", dest="first", type=dt.date.fromisoformat, required=True, help="first day, UTC")
    parser.add_argument("--to", dest="last", type=dt.date.fromisoformat, required=True, help="last day, included")
    parser.add_argument("--out", type=Path, required=True, help="folder of predictions.csv, report.json, report.html")
    chosen = parser.parse_args(arguments)
    try:
        found = run(
            chosen.csv, chosen.first, chosen.last, chosen.out, model_settings(), lambda line: print(line, flush=True)
        )
    except (BadSetting, Unreadable) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cannot write {chosen.out}: {error.strerror or error}", file=sys.stderr)
        return 1
    overall = found["overall"]
    print(
        f"R² {overall['r2']:.3f}, calibration {overall['calibration']:.3f}, deviance {overall['deviance']:.4g}, "
        f"{overall['rows']:,} rows, {found['seconds']:.1f} s → {chosen.out}"
        if None not in overall.values()
        else f"{overall['rows']:,} rows, {found['seconds']:.1f} s → {chosen.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
