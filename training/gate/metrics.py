"""Metrics of predicted revenue per exposure: R², Tweedie deviance, calibration. Pure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from training.arrays import Floats

LEAST_PREDICTION_MICROS = 1e-3


class Metrics(NamedTuple):
    """How good predictions are, weighted by exposure."""

    rows: int
    exposure: float  # impressions
    r2: float  # NaN where the truth is constant
    deviance: float  # Tweedie, per unit of exposure; less is better
    calibration: float  # predicted ÷ realised revenue, NaN without revenue


def metrics_of(truth: Floats, predicted: Floats, exposure: Floats, power: float = 1.5) -> Metrics:
    """The metrics of some rows; those without exposure do not count.

    Args:
        truth, predicted: (n,) micros per exposure; a negative truth (a correction) counts as zero.
        exposure: (n,) ≥ 0, the weights.
        power: Tweedie variance power, between 1 and 2.

    >>> metrics_of(np.array([1.0, 3.0]), np.array([1.0, 3.0]), np.ones(2)).r2
    1.0
    """
    seen = exposure > 0
    y, p, w = np.maximum(truth[seen], 0.0), predicted[seen], exposure[seen]
    if not len(y):
        return Metrics(0, 0.0, float("nan"), float("nan"), float("nan"))
    spread = float(np.average((y - np.average(y, weights=w)) ** 2, weights=w))
    r2 = 1 - float(np.average((y - p) ** 2, weights=w)) / spread if spread > 0 else float("nan")
    earned = float((y * w).sum())
    calibration = float((p * w).sum()) / earned if earned > 0 else float("nan")
    return Metrics(len(y), float(w.sum()), r2, deviance(y, p, w, power), calibration)


def deviance(truth: Floats, predicted: Floats, weight: Floats, power: float = 1.5) -> float:
    """Weighted mean of the Tweedie deviance. Arguments as of `metrics_of`; `weight`: (n,)."""
    q = np.maximum(predicted, LEAST_PREDICTION_MICROS)
    one, two = 1 - power, 2 - power
    each = 2 * (truth**two / (one * two) - truth * q**one / one + q**two / two)
    return float(np.average(each, weights=weight))
