"""What every step of a nightly run needs: registry, settings, checkpoints, progress."""

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
    """One run of the pipeline, made while `night_lock` is held."""

    registry: ModelRegistry
    settings: ModelSettings
    fitter: Fitter
    checkpoints: Checkpoints
    progress: Progress
    date: dt.date | None = None
    """Train on the days before it; None: on all days."""
    verifies: bool = True
    """Whether the last step checks that the version is live everywhere."""

    @property
    def database(self) -> Database:
        return self.registry.database

    @property
    def state(self) -> State:
        return self.registry.state
