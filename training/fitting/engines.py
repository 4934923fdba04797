"""Fits trees that correct the expectation of the histories; the same function in this process and on Ray Train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from db.errors import UserError
from training.arrays import Floats, Integers
from training.features.layout import FEATURES
from training.fitting.dataset import Examples, TrainingSet
from training.settings import ModelSettings
from training.trees.engines import LightGbmTrees, Reference, XgboostTrees

LEAF_PENALTY = 1.0
FEATURE_SHARE = 0.7
"""Share of the features that each tree may use."""
MOST_BINS = 255
SEED = 1


class FitFailed(UserError):
    """The trees could not be fitted; the text is the reason."""


def fit(
    examples: Examples,
    settings: ModelSettings,
    *,
    threads: int | None = None,
    network: dict[str, Any] | None = None,
) -> Reference:
    """Tweedie trees, grown by the engine of the settings.

    Args:
        threads: None: as in the settings.
        network: LightGBM's parameters of a distributed fit, from Ray Train; XGBoost needs none.
    """
    return ENGINES[settings.engine](examples, settings, threads or settings.threads, network or {})


def _lightgbm(examples: Examples, settings: ModelSettings, threads: int, network: dict[str, Any]) -> Reference:
    import lightgbm as lgb

    parameters = {
        "objective": "tweedie",
        "tweedie_variance_power": settings.tweedie_power,
        "num_leaves": settings.leaves,
        "learning_rate": settings.learning_rate,
        "min_data_in_leaf": settings.min_rows_in_leaf,
        "lambda_l2": LEAF_PENALTY,
        "feature_fraction": FEATURE_SHARE,
        "max_bin": MOST_BINS,
        "num_threads": threads,
        "deterministic": True,
        "force_row_wise": True,
        "seed": SEED,
        "verbose": -1,
    }
    data = lgb.Dataset(
        examples.matrix,
        examples.target,
        weight=examples.weight,
        init_score=examples.offset,
        feature_name=list(FEATURES),
        free_raw_data=True,
    )
    booster = lgb.train(parameters | network, data, num_boost_round=settings.trees)
    if network:
        booster.free_network()
    return LightGbmTrees(booster)


def _xgboost(examples: Examples, settings: ModelSettings, threads: int, _network: dict[str, Any]) -> Reference:
    import xgboost as xgb

    data = xgb.DMatrix(
        examples.matrix,
        examples.target,
        weight=examples.weight,
        base_margin=examples.offset,
        feature_names=list(FEATURES),
        nthread=threads,
    )
    parameters = {
        "objective": "reg:tweedie",
        "tweedie_variance_power": settings.tweedie_power,
        "max_leaves": settings.leaves,
        "max_depth": 0,
        "grow_policy": "lossguide",
        "learning_rate": settings.learning_rate,
        "min_child_weight": settings.min_rows_in_leaf,  # weights and curvatures are about 1 a row
        "lambda": LEAF_PENALTY,
        "colsample_bytree": FEATURE_SHARE,
        "max_bin": MOST_BINS + 1,
        "base_score": 1.0,  # the trees' own sum begins at 0
        "nthread": threads,
        "seed": SEED,
        "verbosity": 0,
    }
    return XgboostTrees(xgb.train(parameters, data, num_boost_round=settings.trees))


ENGINES: dict[str, Callable[[Examples, ModelSettings, int, dict[str, Any]], Reference]] = {
    LightGbmTrees.engine: _lightgbm,
    XgboostTrees.engine: _xgboost,
}


class Boosters(NamedTuple):
    """The trees that a night fits."""

    final: Reference  # on all days
    held_out: Reference | None  # without the newest day, for the gate; None if there is no other day


def fit_in_process(data: TrainingSet, newest: int, settings: ModelSettings) -> Boosters:
    """Both fits of a night, on the days through `newest` (since 1970) and on those before it."""
    held_out = fit_before(data, newest, settings) if data.before(newest).any() else None
    return Boosters(fit_before(data, newest + 1, settings), held_out)


def fit_before(data: TrainingSet, day: int, settings: ModelSettings) -> Reference:
    """Fit in this process on the days before `day` (since 1970)."""
    return fit(data.examples(day, settings), settings)


def predicted(data: TrainingSet, rows: Integers, trees: Reference) -> Floats:
    """(k,) predicted revenue per exposure of these rows in micros, as of the day before each."""
    found: Floats = data.heads[rows, 0] * trees.predict(data.matrix[rows])
    return found
