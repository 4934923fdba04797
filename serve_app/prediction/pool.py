"""Calls the predictor pool from an ingress."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.prediction import codec
from serve_app.prediction.expectation import Expectation
from serve_app.prediction.predictor import Live, Slot
from training.model.model import Columns, Explanation

POLL_TIMEOUT_S = 5.0


class PredictorPool:
    """`Predictions` that are made by replicas of their own.

    Args:
        poll_s: seconds between questions for the pool's version, so that an older one's predictions do not stay cached.
    """

    predict_now = None

    def __init__(self, handle: DeploymentHandle[Any], poll_s: float) -> None:
        self._handle, self._poll_s = handle, poll_s
        self._polling: asyncio.Task[None] | None = None
        self.version: str | None = None

    async def start(self) -> None:
        self._polling = asyncio.get_running_loop().create_task(self._poll())

    async def close(self) -> None:
        if self._polling is not None:
            self._polling.cancel()

    async def _poll(self) -> None:
        while True:
            with contextlib.suppress(RayError, RayServeException, TimeoutError):
                async with asyncio.timeout(POLL_TIMEOUT_S):
                    await self.live()
            await asyncio.sleep(self._poll_s)

    async def predict(self, columns: Columns) -> Expectation:
        found = codec.unpack_expectation(await self._handle.predict_packed.remote(codec.pack(columns)))
        self.version = found.model_version
        return found

    async def explain(self, columns: Columns) -> tuple[Expectation, Explanation]:
        return await self._handle.explain.remote(columns)  # type: ignore[no-any-return]

    async def slot(self, columns: Columns) -> Slot:
        return await self._handle.slot.remote(columns)  # type: ignore[no-any-return]

    async def live(self) -> Live | None:
        live: Live | None = await self._handle.live.remote()
        self.version = None if live is None else live.version
        return live
