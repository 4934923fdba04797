"""What every step of a night has at hand."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

from db.session import Database
from db.state import State
from training.fitting.dataset import TrainingSet
from training.fitting.engines import Boosters
from training.nightly.checkpoints import Checkpoints
from training.progress import Progress
from training.registry.publish import ModelRegistry
from training.settings import ModelSettings

Fitter = Callable[[TrainingSet, int, ModelSettings], Boosters]
"""(data, newest day, settings) → trees: in process, or on Ray Train."""


@dataclass(frozen=True, slots=True)
class Night:
    """One run of the pipeline; it holds `night_lock`."""

    registry: ModelRegistry
    settings: ModelSettings
    fitter: Fitter
    checkpoints: Checkpoints
    progress: Progress
    date: dt.date | None = None
    """The days before it are learned from; None: all there are."""
    verifies: bool = True
    """Whether it looks, after the swap, for the version in every place."""

    @property
    def database(self) -> Database:
        return self.registry.database

    @property
    def state(self) -> State:
        return self.registry.state
