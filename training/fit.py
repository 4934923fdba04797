"""The one fitting function, in process or on Ray Train."""

from __future__ import annotations

from typing import Any, NamedTuple

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
import pandas as pd

from training.features import (
    EXPOSURE,
    FEATURES,
    REVENUE,
    Encoder,
    Floats,
    Integers,
    Keys,
    Singles,
    as_of_the_day_before,
    measures,
    ticks,
)
from training.settings import ModelSettings

LEAST_TARGET_MICROS = 1e-6
Bools = npt.NDArray[np.bool_]


class FitFailed(Exception):
    """The trees could not be fitted; the text is the reason."""


class TrainingSet(NamedTuple):
    """A history turned into what the trees learn from."""

    frame: pd.DataFrame  # the history, see `training.read_history`
    keys: Keys
    numbers: Floats  # (n, measures)
    matrix: Singles  # (n, features), as of the day before each row's
    heads: Floats  # (n, 4), the columns of `features.Heads`, likewise
    target: Floats  # (n,) revenue per exposure in micros, ≥ 0
    days: Integers  # (n,)

    @classmethod
    def of(cls, frame: pd.DataFrame, pending_share: float) -> TrainingSet:
        keys = Keys.of(frame)
        numbers = measures(frame, pending_share)
        return cls(
            frame,
            keys,
            numbers,
            *as_of_the_day_before(frame, keys, numbers),
            target(frame, numbers),
            frame["day"].to_numpy(np.int64),
        )

    @property
    def exposure(self) -> Floats:
        return self.numbers[:, EXPOSURE]

    def before(self, day: int) -> Bools:
        """(n,) rows that may teach a model which has seen no `day`."""
        usable: Bools = (self.days < day) & (self.exposure > 0)
        return usable

    def encoder(self, through: int) -> Encoder:
        """The tables as of the end of day `through`."""
        known = np.flatnonzero(self.days <= through)
        if len(known) == len(self.days):
            return Encoder.fitted(self.frame, self.keys, self.numbers, through)
        frame = self.frame.iloc[known]
        return Encoder.fitted(frame, Keys.of(frame, self.keys.vocabulary), self.numbers[known], through)


def target(frame: pd.DataFrame, numbers: Floats) -> Floats:
    """(n,) revenue per exposure, ≥ 0.

    In hourly rows a click's revenue may fall into an hour without impressions: it is spread over the day's
    hours of the same tuple, or the sparse hours would teach the trees too little.
    """
    revenue, exposure = numbers[:, REVENUE], numbers[:, EXPOSURE]
    if (frame["hour"].to_numpy() >= 0).any():
        keys = Keys.of(frame).levels[-1] * 100_000 + frame["day"].to_numpy(np.int64)
        _, groups = np.unique(keys, return_inverse=True)
        orphaned = np.bincount(groups, weights=np.where(exposure > 0, 0.0, revenue))[groups]
        of_day = np.bincount(groups, weights=exposure)[groups]
        revenue = revenue + np.where(of_day > 0, orphaned * exposure / np.maximum(of_day, 1e-9), 0.0)
    rate: Floats = np.maximum(revenue, 0.0) / np.maximum(exposure, 1e-9)
    return np.where(exposure > 0, rate, 0.0)


def weights(data: TrainingSet, day: int, settings: ModelSettings) -> Floats:
    """(n,) exposure, halved for every half-life of age among the days before `day`."""
    clock = ticks(data.days)
    ages = np.maximum(clock[data.days < day].max(initial=0) - clock, 0)
    recency: Floats = 0.5 ** (ages / settings.weight_half_life_days)
    return data.exposure * recency


def parameters(settings: ModelSettings, threads: int) -> dict[str, Any]:
    return {
        "objective": "tweedie",
        "tweedie_variance_power": settings.tweedie_power,
        "num_leaves": settings.leaves,
        "learning_rate": settings.learning_rate,
        "min_data_in_leaf": settings.min_rows_in_leaf,
        "num_threads": threads,
        "deterministic": True,
        "force_row_wise": True,
        "seed": 1,
        "verbose": -1,
    }


def fit(
    rows: Singles,
    target: Floats,
    weight: Floats,
    settings: ModelSettings,
    *,
    threads: int | None = None,
    network: dict[str, Any] | None = None,
) -> lgb.Booster:
    """Tweedie trees of revenue per exposure.

    Args:
        rows: (n, features) by `features.as_of_the_day_before`.
        target: (n,) micros per exposure, ≥ 0.
        weight: (n,) > 0.
        network: LightGBM's parameters of a distributed fit, from Ray Train.
    """
    if not target.any():
        # LightGBM refuses labels that sum to nothing; no revenue at all is a history like any other.
        target = np.full_like(target, LEAST_TARGET_MICROS)
    data = lgb.Dataset(rows, target, weight=weight, feature_name=list(FEATURES), free_raw_data=True)
    settings_of_fit = parameters(settings, threads or settings.threads) | (network or {})
    return lgb.train(settings_of_fit, data, num_boost_round=settings.trees)


class Boosters(NamedTuple):
    """What a night fits."""

    final: lgb.Booster  # on every day
    held_out: lgb.Booster | None  # without the newest day; None when there is no other


def fit_in_process(data: TrainingSet, newest: int, settings: ModelSettings) -> Boosters:
    held_out = fit_before(data, newest, settings) if data.before(newest).any() else None
    return Boosters(fit_before(data, newest + 1, settings), held_out)


def fit_before(data: TrainingSet, day: int, settings: ModelSettings) -> lgb.Booster:
    """Fit in process on the days before `day`."""
    rows = data.before(day)
    return fit(data.matrix[rows], data.target[rows], weights(data, day, settings)[rows], settings)
