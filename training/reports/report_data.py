"""What the reports say of a history and of trees, as JSON can say it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from training.arrays import Floats, Integers
from training.etl.reader import day_of
from training.features.histories import CLICKS, EXPOSURE, REVENUE
from training.features.keys import starts_of
from training.features.layout import FEATURES
from training.features.payout_breaks import by_day
from training.fitting.dataset import PayoutBreak, TrainingSet
from training.trees.engines import Reference

DECILES = 10
SAMPLE = 160
"""Rows whose SHAP values are shown."""
SAMPLE_SEED = 1
SHOWN_FEATURES = 12
SHOWN_PAYOUTS = 6
RECENT_DAYS = 3
"""So long a payout that broke is called so: an operator may miss a night."""


def number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return float(value) if math.isfinite(value) else None


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


def brand_days(data: TrainingSet, rows: Integers, predicted: Floats) -> list[dict[str, Any]]:
    """Revenue of each brand on each day, predicted and realised.

    Args:
        rows: (k,) of the training set.
        predicted: (k,) revenue per exposure in micros.
    """
    days = np.unique(data.days[rows])
    exposure = data.exposure[rows]
    places = data.keys.ids[0][rows].astype(np.int64) * len(days) + np.searchsorted(days, data.days[rows])
    found, groups = np.unique(places, return_inverse=True)
    sums = [
        np.bincount(groups, weights=values * exposure, minlength=len(found)).tolist()
        for values in (predicted, data.target[rows])
    ]
    brands = [data.keys.vocabulary[0][code] for code in (found // max(len(days), 1)).tolist()]
    names = [day_of(days[code]).isoformat() for code in (found % max(len(days), 1)).tolist()]
    return [
        {"brand_id": brand, "day": day, "predicted_micros": foreseen, "realised_micros": realised}
        for brand, day, foreseen, realised in zip(brands, names, *sums, strict=True)
    ]


def importance(trees: Reference) -> list[dict[str, Any]]:
    """Each feature's share of the gain of all splits, the largest first."""
    gains = trees.importance()
    total = float(gains.sum())
    shares = gains / total if total > 0 else np.zeros(len(gains))
    order = np.argsort(-shares, kind="stable").tolist()
    return [{"feature": FEATURES[position], "share": float(shares[position])} for position in order]


def shap(trees: Reference, data: TrainingSet, rows: Integers) -> dict[str, Any]:
    """How the trees correct what the histories expect: SHAP values of a sample of these rows, on the log scale.

    Returns:
        `base` and, of the features that move most, `mean_abs` and `dots`: (value, rank of the feature's value among the
        sample from 0 to 1, None where it is not known) of each row.
    """
    rows = rows[data.exposure[rows] > 0]
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng(SAMPLE_SEED).choice(rows, SAMPLE, replace=False))
    if not len(rows):
        return {"rows": 0, "base": None, "features": []}
    matrix = data.matrix[rows]
    values = trees.contributions(matrix)
    mean = np.abs(values[:, :-1]).mean(axis=0)
    order = [position for position in np.argsort(-mean, kind="stable").tolist() if mean[position] > 0]
    return {
        "rows": len(rows),
        "base": number(values[0, -1]),
        "expected_micros": number(np.average(data.heads[rows, 0], weights=data.exposure[rows])),
        "features": [
            {
                "feature": FEATURES[position],
                "mean_abs": float(mean[position]),
                "dots": [
                    [round(value, 4), rank]
                    for value, rank in zip(values[:, position].tolist(), _ranks(matrix[:, position]), strict=True)
                ],
            }
            for position in order[:SHOWN_FEATURES]
        ],
    }


def _ranks(values: npt.NDArray[Any]) -> list[float | None]:
    """Place of each among the distinct values, 0 to 1; equal values share theirs, and a lone one is in the middle."""
    distinct = np.unique(values[~np.isnan(values)])
    if len(distinct) < 2:
        return [None if math.isnan(value) else 0.5 for value in values.tolist()]
    places = np.searchsorted(distinct, values) / (len(distinct) - 1)
    return [
        None if math.isnan(value) else round(place, 2) for value, place in zip(values, places.tolist(), strict=True)
    ]


def payout_breaks(broken: Sequence[PayoutBreak], since: int | None = None) -> list[dict[str, Any]]:
    """
    Args:
        since: a day since 1970, from which on; None: all.
    """
    return [one._asdict() | {"day": day_of(one.day).isoformat()} for one in broken if since is None or one.day >= since]


def signed(share: float, digits: int = 0) -> str:
    """
    >>> signed(-0.25)
    '−25%'
    """
    return f"{share:+.{digits}%}".replace("-", "−")


def break_in_a_line(one: Mapping[str, Any]) -> str:
    """A break in a line, for an operator."""
    change = one["after_micros"] / one["before_micros"] - 1
    before, after = one["before_micros"] / 1e6, one["after_micros"] / 1e6
    return (
        f"the payout of {one['brand_id']} broke on {one['day']}: {before:.4g} → {after:.4g} a {one['per']} "
        f"({signed(change)}); its histories begin anew"
    )


def payouts(data: TrainingSet, broken: Sequence[PayoutBreak]) -> list[dict[str, Any]]:
    """What the brands whose payouts broke last paid day by day."""
    per = {one.brand_id: one.per for one in broken}
    latest = list(dict.fromkeys(one.brand_id for one in reversed(broken)))[:SHOWN_PAYOUTS]
    starts = starts_of(data.days)
    days = data.days[starts[:-1]]
    day_of_row = np.repeat(np.arange(len(days)), np.diff(starts))
    found = []
    for brand in latest:
        rows = data.keys.ids[0] == data.keys.vocabulary[0].index(brand)
        units = CLICKS if per[brand] == "click" else EXPOSURE
        revenue, number_of = (
            by_day(day_of_row[rows], np.zeros(int(rows.sum()), np.int32), data.numbers[rows, column], len(days), 1)[
                :, 0
            ]
            for column in (REVENUE, units)
        )
        some = np.flatnonzero(number_of > 0)
        found.append(
            {
                "brand_id": brand,
                "per": per[brand],
                "days": [day_of(days[position]).isoformat() for position in some.tolist()],
                "micros": (revenue[some] / number_of[some]).tolist(),
            }
        )
    return found
