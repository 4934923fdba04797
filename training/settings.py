"""Settings of training and gate, `PACELINE_MODEL_<NAME>`; `serve_app/settings.py` includes this section."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, SecretStr

from db.environment import Environment
from db.section import Count, Section

Engine = Literal["lightgbm", "xgboost"]
Share = Annotated[float, Field(ge=0, le=1)]


class ModelSettings(Section, frozen=True):
    engine: Engine = "lightgbm"
    """The trees' library; `training.backtest --engines lightgbm,xgboost` tells which is better on a history."""
    trees: Annotated[int, Field(ge=1, le=5000)] = 60
    """Boosting rounds."""
    leaves: Annotated[int, Field(ge=2, le=1024)] = 15
    """Most leaves of a tree."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    """How much of each tree is taken."""
    tweedie_power: Annotated[float, Field(gt=1, lt=2)] = 1.5
    """Variance power of the objective: 1 is Poisson, 2 is gamma."""
    min_rows_in_leaf: Count = 200
    """Rows that a leaf needs at least."""
    weight_half_life_days: PositiveFloat = 30.0
    """Age at which a training row counts half; histories have half-lives of their own."""
    pending_share: Share = 0.8
    """Share of pending revenue that is expected to be approved where no brand has decided anything yet."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Ray Train workers of the nightly fit; more than one need `PACELINE_STATE` on storage that all nodes share."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of a fit in process; a Ray Train worker has one."""
    gate_deviance: PositiveFloat = 1.02
    """A challenger's deviance on the newest day may be at most this many times the champion's."""
    gate_week_deviance: PositiveFloat = 1.1
    """The same on the week before, which both have learned from."""
    gate_exposure: PositiveFloat = 1000.0
    """Impressions that the newest day must have to be judged by; below, the challenger goes live."""
    gate_calibration: Annotated[float, Field(gt=1)] = 2.0
    """Predicted ÷ realised revenue must lie between 1 ÷ this and this, or nearer to 1 than the champion's."""
    gate_brand_deviance: PositiveFloat = 1.5
    """A single brand's deviance, on the newest day and on the week, may be at most this many times the champion's."""
    gate_brand_calibration: Annotated[float, Field(gt=1)] = 3.0
    """A single brand's predicted ÷ realised revenue must lie between 1 ÷ this and this, or nearer to 1 than before."""
    gate_brand_exposure: PositiveFloat = 10_000.0
    """Impressions from which a brand is judged by itself."""
    gate_history_rows: Share = 0.5
    """Of the rows that the champion learned from, the share that must still be there."""
    gate_day_rows: Share = 0.25
    """The newest day, once it is over, must have this share of the rows that are usual in its week."""
    gate_score_shift: Annotated[float, Field(gt=1)] = 2.0
    """How many times higher or lower the champion's golden rows may be predicted, in the median."""
    gate_brand_score_shift: Annotated[float, Field(gt=1)] = 6.0
    """The same of a single brand's golden rows."""
    keep: Count = 30
    """Newest versions whose files are kept, beside the live one and its parent."""
    registry: Path | None = None
    """Git repository that gets each published `roas_model.json`; without it, `registry/` in the state folder."""
    key: SecretStr | None = None
    """Signs model manifests; without it, a key in the state folder."""


class _Model(Environment):
    model: ModelSettings = ModelSettings()


def model_settings() -> ModelSettings:
    """From the environment. Raises: BadSetting."""
    return _Model.load().model
