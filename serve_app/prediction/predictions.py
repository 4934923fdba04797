"""The interface of whatever predicts: the model in this process, or a pool of predictor replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from serve_app.prediction.expectation import Expectation
from serve_app.prediction.predictor import Live, Slot
from training.model.model import Columns, Explanation


class Predictions(Protocol):
    """Methods that predict raise NoModel while there is no model, and RayError or RayServeException if a pool fails."""

    @property
    def version(self) -> str | None:
        """Which version predicts, as far as this process knows."""

    async def start(self) -> None:
        """Begin to follow the live version."""

    async def close(self) -> None:
        """Stop following it."""

    async def predict(self, columns: Columns) -> Expectation:
        """What winning each of the n rows would bring."""
        ...

    @property
    def predict_now(self) -> Callable[[Columns], Expectation | None] | None:
        """`predict` without waiting, which returns None while there is no model; None where the model is elsewhere."""

    async def explain(self, columns: Columns) -> tuple[Expectation, Explanation]:
        """The same prediction, with every feature's share in the raw score."""
        ...

    async def slot(self, columns: Columns) -> Slot:
        """The figures of GET /api/roas for a single row."""
        ...

    async def live(self) -> Live | None:
        """The version that predicts; None before the first."""
        ...
