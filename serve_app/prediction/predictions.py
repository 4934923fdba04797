"""What the routes ask predictions of: a predictor in this process, or a pool in others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from serve_app.prediction.expectation import Expectation
from serve_app.prediction.predictor import Live, Slot
from training.model.model import Columns, Explanation


class Predictions(Protocol):
    """What predicts raises NoModel while there is no model, and RayError or RayServeException where a pool is lost."""

    @property
    def version(self) -> str | None:
        """Which version predicts, as far as this process knows."""

    async def start(self) -> None:
        """Begin to follow the live version."""

    async def close(self) -> None:
        """Follow it no longer."""

    async def predict(self, columns: Columns) -> Expectation:
        """What winning each row would bring."""
        ...

    @property
    def predict_now(self) -> Callable[[Columns], Expectation | None] | None:
        """The same without a call to another process (None: there is no model yet); None: it takes a call."""

    async def explain(self, columns: Columns) -> tuple[Expectation, Explanation]:
        """The same prediction, with every feature's share in the raw score."""
        ...

    async def slot(self, columns: Columns) -> Slot:
        """What GET /api/roas tells of its one row."""
        ...

    async def live(self) -> Live | None:
        """The version that predicts; None: there is none."""
        ...
