"""The API: the routes of one ingress replica, and the background tasks that run while it lives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from db.session import Database
from ledger.client.ledger_client import LedgerClient
from serve_app.http.access_log import AccessLog
from serve_app.http.auth import Authenticator
from serve_app.http.problem_details import not_found
from serve_app.http.request_middleware import RequestMiddleware
from serve_app.http.request_reader import RequestReader
from serve_app.http.response_coalescing import SCORE
from serve_app.monitor import Monitor
from serve_app.prediction.predictions import Predictions
from serve_app.routes import brands, models, performance, portfolios, reservations, roas
from serve_app.routes.docs import DocsRoutes
from serve_app.routes.model_versions import ModelVersions
from serve_app.routes.ops import OpsRoutes
from serve_app.scoring import endpoint as scoring
from serve_app.scoring.score_log import ScoreLog
from serve_app.settings import Settings

FIRST_BEAT_S = 5.0
"""How long a starting replica waits for the ledger to send the brands' terms."""
OPERATIONS = (
    *scoring.OPERATIONS,
    *reservations.OPERATIONS,
    *performance.OPERATIONS,
    *roas.OPERATIONS,
    *brands.OPERATIONS,
    *portfolios.OPERATIONS,
    *models.OPERATIONS,
)
"""The documented routes, in the order of /docs."""

Handler = Callable[[Request], Awaitable[Response]]


class Api:
    """One ingress replica without Ray Serve: an ASGI application, made of what it needs."""

    def __init__(
        self,
        settings: Settings,
        predictions: Predictions,
        ledger: LedgerClient,
        database: Database,
        monitor: Monitor,
        authenticator: Authenticator,
        versions: ModelVersions,
    ) -> None:
        self._predictions, self._ledger, self._monitor = predictions, ledger, monitor
        self._authenticator = authenticator
        self._most_requests = settings.serve.max_ongoing_requests
        self._access_log = AccessLog()
        self._score_log = ScoreLog(
            database,
            settings.score.log_sample,
            settings.score.log_rows_per_s,
            max(1, int(settings.score.log_rows_per_s * settings.score.log_caller_share)),
            monitor.tally.dropped,
        )
        requests = RequestReader(authenticator, settings.http)
        self._score = scoring.ScoreEndpoint(settings, predictions, ledger, monitor, authenticator, self._score_log)
        self._performance = performance.PerformanceRoutes(
            requests, ledger, monitor.tally, settings.general.history_from
        )
        self._reservations = reservations.ReservationRoutes(requests, ledger)
        self._roas = roas.RoasRoutes(requests, predictions, ledger, database)
        self._brands = brands.BrandRoutes(requests, ledger, settings.new_brand)
        self._portfolios = portfolios.PortfolioRoutes(requests, ledger, settings.general.currency)
        self._models = models.ModelRoutes(requests, versions)
        self._ops = OpsRoutes(requests, predictions, ledger, monitor, versions, settings.http.is_loopback)
        self._docs = DocsRoutes(OPERATIONS)

    def _routes(self) -> list[Route]:
        brand = _show_or_change(self._brands.show, self._brands.change)
        portfolio = _show_or_change(self._portfolios.show, self._portfolios.change)
        return [
            Route(SCORE, self._score, methods=["POST"]),
            Route("/api/reservations/release", self._reservations.release, methods=["POST"]),
            Route("/api/performance", self._performance.report, methods=["POST"]),
            Route("/api/roas", self._roas.show, methods=["GET"]),
            Route("/api/brands", self._brands.page, methods=["GET"]),
            Route("/api/brands/{brand_id}", brand, methods=["GET", "PUT", "PATCH"]),
            Route("/api/portfolios/{portfolio_id}", portfolio, methods=["GET", "PUT", "PATCH"]),
            Route("/api/models", self._models.page, methods=["GET"]),
            Route("/api/models/{version}/activate", self._models.activate, methods=["POST"]),
            Route("/metrics", self._ops.metrics, methods=["GET"]),
            Route("/healthz", self._ops.healthz, methods=["GET"]),
            Route("/readyz", self._ops.readyz, methods=["GET"]),
            Route("/openapi.json", self._docs.openapi, methods=["GET"]),
            Route("/docs", self._docs.docs, methods=["GET"]),
            Route("/docs/{name}", self._docs.file, methods=["GET"]),
            Route("/", self._docs.root, methods=["GET"]),
        ]

    def app(self, adds_request_id: bool = True) -> ASGIApp:
        """The ASGI application; its lifespan runs the background tasks. `adds_request_id`: see `RequestMiddleware`."""
        router = Router(self._routes(), redirect_slashes=False, default=_no_route, lifespan=self._lifespan)

        async def routed(scope: Scope, receive: Receive, send: Send) -> None:
            is_hot = scope["type"] == "http" and scope["path"] == SCORE and scope["method"] == "POST"
            await (self._score if is_hot else router)(scope, receive, send)

        return RequestMiddleware(routed, self._access_log, adds_request_id, self._most_requests)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Any) -> AsyncIterator[None]:
        loops = (
            self._ledger.keep_beating(),
            self._monitor.keep_flushing(),
            self._score_log.keep_flushing(),
            self._access_log.keep_flushing(),
            self._authenticator.keep_fresh(),
        )
        tasks = [asyncio.create_task(loop) for loop in loops]
        await asyncio.gather(self._ledger.beat_within(FIRST_BEAT_S), self._predictions.start())
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._ledger.close()
            await self._predictions.close()
            await self.flush()

    async def flush(self) -> None:
        """Write what waits in memory: access log, score log and counters."""
        self._access_log.flush()
        await self._score_log.flush()
        await self._monitor.flush()


def _show_or_change(show: Handler, change: Handler) -> Handler:
    """One handler for all methods, so that a 405 for any other names them all in `Allow`."""

    async def handler(request: Request) -> Response:
        return await (change if request.method in ("PUT", "PATCH") else show)(request)

    return handler


async def _no_route(scope: Scope, _receive: Receive, _send: Send) -> None:
    if scope["type"] == "http":
        raise not_found("route; /docs lists all of them")
