"""What the gate decides on: challenger and champion on the newest day, on the week before it, and on golden rows."""

from __future__ import annotations

import datetime as dt

import numpy as np

from training.arrays import Floats, Integers
from training.columns import ID_COLUMNS
from training.etl.reader import day_number
from training.features.layout import CODED, CODES_FROM
from training.fitting.dataset import TrainingSet
from training.fitting.engines import predicted
from training.gate.gate import BrandMetrics, BrandShift, Comparison, RowCounts, SideBySide
from training.gate.metrics import LEAST_PREDICTION_MICROS, metrics_of
from training.model.model import Columns, Model, golden_columns
from training.settings import ModelSettings
from training.trees.engines import Reference

WEEK_DAYS = 7
LEAST_DAYS = 3
"""Days before the newest that say what is usual."""
LEAST_GOLDEN = 3
"""Golden rows from which a brand is looked at by itself."""
NOON_S = 43_200


def compare(
    data: TrainingSet,
    newest: int,
    held_out: Reference | None,
    model: Model,
    champion: Model | None,
    settings: ModelSettings,
    today: dt.date,
) -> Comparison:
    """
    Args:
        held_out: the challenger's trees as fitted without the newest day; None where there is no other.
        model: the challenger as it would go live.
        today: a newest day that is not over is not expected to be whole.
    """
    day = np.flatnonzero(data.days == newest)
    challenged = None if held_out is None else predicted(data, day, held_out)
    if champion is None:
        return Comparison(False, _side_by_side(data, day, challenged, None, settings), SideBySide(None, None))
    week = rows_of_week(data, newest, champion)
    has_seen = day_number(champion.trained_through) >= newest
    defended = None if has_seen else predicted_by(champion, data, day)
    of_week = predicted_as_of(model, data, week), predicted_as_of(champion, data, week)
    return Comparison(
        True,
        _side_by_side(data, day, challenged, defended, settings),
        _side_by_side(data, week, *of_week, settings),
        _brands(data, day, challenged, defended, settings),
        _brands(data, week, *of_week, settings),
        count_rows(data.days, newest, champion, today),
        *score_shifts(model, champion),
    )


def predicted_by(model: Model, data: TrainingSet, rows: Integers) -> Floats:
    """(k,) what a version predicts for these rows as a replica would, with its own tables."""
    frame = data.frame.iloc[rows]
    hours = frame["hour"].to_numpy(np.int64)
    at = frame["day"].to_numpy(np.int64) * 86_400 + np.where(hours < 0, NOON_S, hours * 3600)
    ids = [frame[name].tolist() for name in ID_COLUMNS]
    return model.predict(Columns.of(ids, frame["placement_score"].to_numpy(np.float64), at)).revenue_micros


def predicted_as_of(model: Model, data: TrainingSet, rows: Integers) -> Floats:
    """(k,) what a version's trees predict for rows as they were known the day before: each id by its own code.

    The trees alone: what a version makes of its last day besides is no matter of the days before.
    """
    matrix = data.matrix[rows]
    for position, column in enumerate(CODED):
        code_of = {word: code for code, word in enumerate(model.encoder.vocabulary[column])}
        codes = np.array([code_of.get(word, -1) for word in data.keys.vocabulary[column]], np.float32)
        matrix[:, CODES_FROM + position] = codes[data.keys.ids[column][rows]]
    answer: Floats = data.heads[rows, 0] * model.trees.predict(matrix)
    return answer


def rows_of_week(data: TrainingSet, newest: int, champion: Model) -> Integers:
    """Rows of the week that ends with the newest day, of days that both versions have learned from."""
    last = min(day_number(champion.trained_through), newest)
    return np.flatnonzero((data.days > newest - WEEK_DAYS - 1) & (data.days <= last) & (data.exposure > 0))


def count_rows(days: Integers, newest: int, champion: Model, today: dt.date) -> RowCounts:
    """
    Args:
        days: (n,) of the history's rows.
    """
    number, counts = np.unique(days, return_counts=True)
    before = counts[(number < newest) & (number >= newest - WEEK_DAYS)]
    is_over = newest < day_number(today)
    through = day_number(champion.trained_through)
    learned = champion.manifest.get("training", {}).get("rows")
    return RowCounts(
        newest=int((days == newest).sum()),
        usual=float(np.median(before)) if is_over and len(before) >= LEAST_DAYS else None,
        known=int((days <= through).sum()),
        # A night of an earlier date knows less than the champion, and should.
        learned=int(learned) if learned is not None and through <= newest else None,
    )


def score_shifts(model: Model, champion: Model) -> tuple[float | None, BrandShift | None]:
    """Median |log(challenger ÷ champion)| over the champion's golden rows, and of the brand where it is most.

    None: it has no such rows; no brand has enough of them.
    """
    golden = champion.manifest.get("golden")
    if not golden or not golden["revenue_micros"]:
        return None, None
    then = np.maximum(np.array(golden["revenue_micros"], np.float64), LEAST_PREDICTION_MICROS)
    now = np.maximum(model.predict(golden_columns(golden)).revenue_micros, LEAST_PREDICTION_MICROS)
    moved = np.abs(np.log(now / then))
    names, owner = np.unique(np.array(golden["ids"][0], dtype=str), return_inverse=True)
    shifts = [
        BrandShift(str(names[index]), float(np.median(moved[owner == index])))
        for index in np.flatnonzero(np.bincount(owner) >= LEAST_GOLDEN)
    ]
    return float(np.median(moved)), max(shifts, key=lambda brand: brand.shift, default=None)


def _side_by_side(
    data: TrainingSet, rows: Integers, challenged: Floats | None, defended: Floats | None, settings: ModelSettings
) -> SideBySide:
    truth, exposure = data.target[rows], data.exposure[rows]
    challenger, champion = (
        None
        if predictions is None or not len(rows)
        else metrics_of(truth, predictions, exposure, settings.tweedie_power)
        for predictions in (challenged, defended)
    )
    total = float(exposure.sum())
    return SideBySide(challenger, champion, float((truth * exposure).sum()) / total if total > 0 else 0.0)


def _brands(
    data: TrainingSet, rows: Integers, challenged: Floats | None, defended: Floats | None, settings: ModelSettings
) -> list[BrandMetrics]:
    """Those with enough impressions among these rows to be judged by."""
    if challenged is None or defended is None:
        return []
    brands = data.frame["brand_id"].to_numpy()[rows]
    names, owner = np.unique(brands.astype(str), return_inverse=True)
    exposure = np.bincount(owner, weights=data.exposure[rows])
    found = []
    for index in np.flatnonzero(exposure >= settings.gate_brand_exposure):
        own = np.flatnonzero(owner == index)
        sides = _side_by_side(data, rows[own], challenged[own], defended[own], settings)
        assert sides.challenger is not None and sides.champion is not None
        found.append(BrandMetrics(str(names[index]), sides.challenger, sides.champion, sides.mean_micros))
    return found
