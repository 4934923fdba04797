"""Computes what the gate decides on: both versions' metrics on the newest day, the week before it and golden rows."""

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
"""Days before the newest that are needed to say how many rows a day usually has."""
LEAST_GOLDEN = 3
"""Golden rows that a brand needs to be compared by itself."""
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
    """What the gate decides on.

    Args:
        newest: day, since 1970.
        held_out: the challenger's trees as fitted without the newest day; None if there is no other day.
        model: the challenger as it would go live.
        champion: the live version; None if there is none.
        today: UTC; the newest day is expected to be complete only if it is before today.
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
    """(k,) micros per exposure that a version predicts for these rows as a replica would, with its own tables."""
    frame = data.frame.iloc[rows]
    hours = frame["hour"].to_numpy(np.int64)
    at = frame["day"].to_numpy(np.int64) * 86_400 + np.where(hours < 0, NOON_S, hours * 3600)
    ids = [frame[name].tolist() for name in ID_COLUMNS]
    return model.predict(Columns.of(ids, frame["placement_score"].to_numpy(np.float64), at)).revenue_micros


def predicted_as_of(model: Model, data: TrainingSet, rows: Integers) -> Floats:
    """(k,) micros per exposure that a version's trees predict for these rows from the histories of the day before each,
    with ids coded by the version's own vocabulary. Its tables, which know later days, are not used.
    """
    matrix = data.matrix[rows]
    for position, column in enumerate(CODED):
        code_of = {word: code for code, word in enumerate(model.encoder.vocabulary[column])}
        codes = np.array([code_of.get(word, -1) for word in data.keys.vocabulary[column]], np.float32)
        matrix[:, CODES_FROM + position] = codes[data.keys.ids[column][rows]]
    answer: Floats = data.heads[rows, 0] * model.trees.predict(matrix)
    return answer


def rows_of_week(data: TrainingSet, newest: int, champion: Model) -> Integers:
    """Rows of the newest day and the week before it, as far as both versions were trained on them."""
    last = min(day_number(champion.trained_through), newest)
    return np.flatnonzero((data.days > newest - WEEK_DAYS - 1) & (data.days <= last) & (data.exposure > 0))


def count_rows(days: Integers, newest: int, champion: Model, today: dt.date) -> RowCounts:
    """How much history there is, against what the champion was trained on and what is usual.

    Args:
        days: (n,) of the history's rows, since 1970.
        newest: day, since 1970.
        today: UTC; a newest day that is not over is not compared with others.
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
        # A night that is run for an earlier date rightly has less history than the champion.
        learned=int(learned) if learned is not None and through <= newest else None,
    )


def score_shifts(model: Model, champion: Model) -> tuple[float | None, BrandShift | None]:
    """(median |log(challenger ÷ champion)| over the champion's golden rows, None if it has none; the same of the brand
    where it is largest, None if no brand has LEAST_GOLDEN of them)."""
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
    """Both sides' metrics for each brand that has gate_brand_exposure impressions among these rows."""
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
