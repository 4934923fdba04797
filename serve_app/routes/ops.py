"""Routes for operators and their monitoring: /metrics, /healthz, /readyz."""

from __future__ import annotations

import asyncio
import contextlib

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response

from ledger.client.ledger_client import LedgerClient
from serve_app.http.json_response import json_response
from serve_app.http.problem_details import unavailable
from serve_app.http.request_reader import RequestReader
from serve_app.monitor import CONTENT_TYPE, Monitor
from serve_app.prediction.predictions import Predictions
from serve_app.prediction.predictor import Live
from serve_app.routes.model_versions import ModelVersions

LOOK_S = 1.5
"""Seconds to wait for the live version and for the last night: a silent pool or database must not block a probe."""


class OpsRoutes:
    """
    Args:
        are_metrics_open: whether /metrics needs no token.
    """

    def __init__(
        self,
        requests: RequestReader,
        predictions: Predictions,
        ledger: LedgerClient,
        monitor: Monitor,
        versions: ModelVersions,
        are_metrics_open: bool,
    ) -> None:
        self._requests, self._predictions, self._ledger = requests, predictions, ledger
        self._monitor, self._versions, self._are_metrics_open = monitor, versions, are_metrics_open

    async def metrics(self, request: Request) -> Response:
        """Counters and gauges of the whole application, as Prometheus reads them."""
        if not self._are_metrics_open:
            await self._requests.caller(request, "admin")
        live = await self._live()
        try:
            model = (live.version, live.made_at) if live else None
            text = await self._monitor.render(model, *await self._last_night(), self._requests.keys)
        except (RedisError, OSError):
            raise unavailable("Redis, which holds the counters, does not answer", "redis-unavailable") from None
        return Response(text, media_type=CONTENT_TYPE)

    async def healthz(self, _request: Request) -> Response:
        """200 as long as the process answers."""
        return json_response({"status": "ok"})

    async def readyz(self, _request: Request) -> Response:
        """200 when bids can be scored and won; else 503, which says what is missing."""
        missing = [] if self._ledger.terms.version >= 0 else ["ledger"]
        live = await self._live()
        if live is None:
            missing.append("model")
        if missing:
            raise unavailable(f"not ready: no {' and no '.join(missing)} yet", "starting")
        assert live is not None
        return json_response({"status": "ready", "model_version": live.version, "simulated": live.simulated})

    async def _live(self) -> Live | None:
        """The version that predicts; None if there is none or the predictor does not answer."""
        try:
            async with asyncio.timeout(LOOK_S):
                return await self._predictions.live()
        except (RayError, RayServeException, TimeoutError):
            return None

    async def _last_night(self) -> tuple[str | None, list[str]]:
        """(how the last night ended, brands whose payouts broke); (None, []) if the database does not answer, so that
        the other figures are shown all the same."""
        with contextlib.suppress(SQLAlchemyError, OSError, TimeoutError):
            async with asyncio.timeout(LOOK_S):
                return await self._versions.last_night(), await self._versions.broken_payouts()
        return None, []
