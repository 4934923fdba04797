"""The routes, in the order in which a day uses them. Each handler reads as the way of its request."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import math
from collections.abc import AsyncIterator
from typing import Any

from fastapi.openapi.docs import get_swagger_ui_html
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from db.brands import BrandSettings, PortfolioSettings
from db.session import Database
from ledger.client.ledger_client import LedgerClient
from ledger.domain.messages import Event
from serve_app import schemas
from serve_app.http.access_log import AccessLog
from serve_app.http.auth import Authenticator, Caller
from serve_app.http.openapi import Operation, document
from serve_app.http.parsing import parse, parse_over, parse_query, path_id
from serve_app.http.problem_details import Problem, encode, not_found, unavailable
from serve_app.http.request_middleware import RequestMiddleware, read_body
from serve_app.http.response_coalescing import SCORE
from serve_app.monitor import CONTENT_TYPE, Monitor
from serve_app.prediction.cache import Predictions
from serve_app.prediction.columns import columns_of
from serve_app.prediction.predictor import Live
from serve_app.routes import roas_actuals
from serve_app.routes.model_versions import Versions
from serve_app.scoring.endpoint import Scoring
from serve_app.scoring.score_log import ScoreLog
from serve_app.scoring.upstream_errors import database_problems, known_terms, ledger_problems, prediction_problems
from serve_app.settings import Settings
from training.model.bundle import ModelRefused, ModelUnavailable
from training.registry.publish import UnknownVersion

logger = logging.getLogger("paceline.ingress")
VERSION = "0.1.0"
LEDGER_WAIT_S, POOL_WAIT_S, LIVE_WAIT_S = 10.0, 5.0, 1.5
PERFORMANCE_MARGIN_S = 30.0
FIRST_BEAT_S = 5.0
SHOWN_WITHIN_S = 1.0
"""Figures that are shown wait so long for what the replicas have not told the ledger yet."""
HEARD_WITHIN_S = 2.0
"""A change waits so long for the replicas to hear of it."""


class Api:
    """One ingress replica, without Serve: an ASGI application over its collaborators."""

    def __init__(
        self,
        settings: Settings,
        predictions: Predictions,
        ledger: LedgerClient,
        database: Database,
        monitor: Monitor,
        authenticator: Authenticator,
        versions: Versions,
    ) -> None:
        self._settings = settings
        self._predictions, self._ledger, self._database = predictions, ledger, database
        self._monitor, self._authenticator, self._versions = monitor, authenticator, versions
        score = settings.score
        self._score_log = ScoreLog(database, score.log_sample, score.log_rows_per_s, monitor.tally.dropped)
        self._access_log = AccessLog()
        self._scoring = Scoring(settings, predictions, ledger, monitor, authenticator, self._score_log)
        self._openapi = encode(document("Paceline", VERSION, DESCRIPTION, OPERATIONS))

    def app(self, names: bool = True) -> ASGIApp:
        """The application. Its lifespan runs the background work. `names`: see `RequestMiddleware`."""
        routes = [
            Route(SCORE, self._scoring, methods=["POST"]),
            Route("/api/performance", self.performance, methods=["POST"]),
            Route("/api/roas", self.roas, methods=["GET"]),
            Route("/api/brands", self.brands, methods=["GET"]),
            Route("/api/brands/{brand_id}", self.brand, methods=["GET", "PUT"]),
            Route("/api/portfolios/{portfolio_id}", self.portfolio, methods=["GET", "PUT"]),
            Route("/api/models", self.models, methods=["GET"]),
            Route("/api/models/{version}/activate", self.activate, methods=["POST"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/healthz", self.healthz, methods=["GET"]),
            Route("/readyz", self.readyz, methods=["GET"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
            Route("/docs", self.docs, methods=["GET"]),
        ]
        router = Router(routes, redirect_slashes=False, default=_no_route, lifespan=self._lifespan)

        async def routed(scope: Scope, receive: Receive, send: Send) -> None:
            is_hot = scope["type"] == "http" and scope["path"] == SCORE and scope["method"] == "POST"
            await (self._scoring if is_hot else router)(scope, receive, send)

        return RequestMiddleware(routed, self._access_log, names, self._settings.serve.max_ongoing_requests)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Any) -> AsyncIterator[None]:
        loops = (
            self._ledger.keep_beating(),
            self._monitor.keep_flushing(),
            self._score_log.keep_flushing(),
            self._access_log.keep_flushing(),
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
        """Write what waits for its second: logs and counters."""
        self._access_log.flush()
        await self._score_log.flush()
        await self._monitor.flush()

    async def _caller(self, request: Request) -> Caller:
        return await self._authenticator.caller(request.headers.get("authorization"))

    async def _body(self, request: Request) -> bytes:
        http = self._settings.http
        return await read_body(request.scope, request.receive, http.body_most_bytes, http.body_timeout_s)

    async def _admin(self, request: Request) -> tuple[Caller, bytes]:
        caller = await self._caller(request)
        body = await self._body(request)
        caller.require("admin")
        return caller, body

    async def _live(self) -> Live | None:
        """What the pool serves; None while it does not answer."""
        try:
            async with asyncio.timeout(LIVE_WAIT_S):
                return await self._predictions.live()
        except (RayError, RayServeException, TimeoutError):
            return None

    # POST /api/performance

    async def performance(self, request: Request) -> Response:
        caller = await self._caller(request)
        body = await self._body(request)
        caller.require("admin", "partner", "brand")
        wanted = parse(schemas.PerformanceRequest, body)
        refused = [_refusal(caller, event) for event in wanted.events]
        allowed = [event for event, refusal in zip(wanted.events, refused, strict=True) if refusal is None]
        with ledger_problems():
            recorded = iter(
                await self._ledger.record(PERFORMANCE_MARGIN_S, [_event(item, caller) for item in allowed])
                if allowed
                else []
            )
        items = []
        for event, refusal in zip(wanted.events, refused, strict=True):
            status, code, message = ("rejected", *refusal) if refusal else next(recorded)[1:]
            item = {"event_id": event.event_id, "status": status}
            items.append(item | {"code": code, "message": message} if code else item)
        counted = {
            name: sum(item["status"] == name for item in items)
            for name in ("accepted", "duplicate", "conflict", "rejected")
        }
        self._monitor.tally.events({status: number for status, number in counted.items() if number})
        return reply(
            {
                "accepted": counted["accepted"],
                "duplicates": counted["duplicate"],
                "rejected": counted["rejected"] + counted["conflict"],
                "items": items,
            }
        )

    # GET /api/roas

    async def roas(self, request: Request) -> Response:
        caller = await self._caller(request)
        caller.require("admin", "partner", "brand")
        query = parse_query(schemas.RoasQuery, request)
        if not (caller.owns_brand(query.brand_id) or caller.owns_partner(query.partner_id)):
            raise not_found("brand")
        brand = known_terms(self._ledger).get(query.brand_id)
        if brand is None:
            raise not_found("brand")
        now = (query.at or dt.datetime.now(dt.UTC)).astimezone(dt.UTC)
        days = int(query.window.removesuffix("d"))
        where = roas_actuals.Where(
            query.brand_id,
            query.partner_id,
            query.slot_id,
            query.device_type if "device_type" in query.model_fields_set else None,
            query.creative_type if "creative_type" in query.model_fields_set else None,
        )
        place = query.brand_id, query.partner_id, query.slot_id
        key = *place, query.device_type, query.creative_type, query.placement_score
        with prediction_problems():
            async with asyncio.timeout(POOL_WAIT_S):
                slot = await self._predictions.slot(columns_of([key], int(now.timestamp())))
        with database_problems():
            found = await roas_actuals.window(self._database, where, now.date(), days)
        with ledger_problems():
            actual_roas = await self._ledger.slot_roas(
                LEDGER_WAIT_S, query.brand_id, found.days, days, _share_of_day(now)
            )
        return reply(
            {
                "brand_id": query.brand_id,
                "partner_id": query.partner_id,
                "slot_id": query.slot_id,
                "window": query.window,
                "currency": brand.currency,
                "predicted_roas": slot.revenue_micros / slot.cost_micros if slot.cost_micros else None,
                "predicted_revenue_micros": slot.revenue_micros,
                "predicted_cost_micros": slot.cost_micros,
                "target_roas": brand.target_roas,
                "lambda": brand.lambda_,
                "model_version": slot.model_version,
                "actual": {
                    "impressions": found.impressions,
                    "clicks": found.clicks,
                    "conversions": found.conversions,
                    "cost_micros": found.cost_micros,
                    "revenue_micros": found.revenue_micros,
                    "pending_revenue_micros": found.pending_revenue_micros,
                    "roas": None if math.isnan(actual_roas) else actual_roas,
                },
                "confidence": {"impressions": slot.impressions, "level": slot.level},
            }
        )

    # Administration

    async def brands(self, request: Request) -> Response:
        (await self._caller(request)).require("admin")
        page = parse_query(schemas.PageQuery, request)
        await self._ledger.summon_within(SHOWN_WITHIN_S)
        with ledger_problems():
            found, cursor = await self._ledger.list_brands(LEDGER_WAIT_S, page.cursor, page.limit)
        return reply({"brands": found, "next_cursor": cursor})

    async def brand(self, request: Request) -> Response:
        return await (self._put_brand if request.method == "PUT" else self._get_brand)(request)

    async def portfolio(self, request: Request) -> Response:
        return await (self._put_portfolio if request.method == "PUT" else self._get_portfolio)(request)

    async def _get_brand(self, request: Request) -> Response:
        caller = await self._caller(request)
        caller.require("admin", "brand")
        brand_id = request.path_params["brand_id"]
        caller.must_own_brand(brand_id)
        await self._ledger.summon_within(SHOWN_WITHIN_S)
        with ledger_problems():
            return reply(await self._ledger.get_brand(LEDGER_WAIT_S, brand_id))

    async def _put_brand(self, request: Request) -> Response:
        _, body = await self._admin(request)
        brand_id = path_id(request, "brand_id")
        settings = parse_over(BrandSettings, self._settings.new_brand.model_dump(), body)
        with ledger_problems():
            shown = await self._ledger.put_brand(LEDGER_WAIT_S, brand_id, settings)
        await self._ledger.summon_within(HEARD_WITHIN_S)  # whoever has put a brand may score it next, wherever
        return reply(shown)

    async def _get_portfolio(self, request: Request) -> Response:
        (await self._caller(request)).require("admin")
        await self._ledger.summon_within(SHOWN_WITHIN_S)
        with ledger_problems():
            return reply(await self._ledger.get_portfolio(LEDGER_WAIT_S, request.path_params["portfolio_id"]))

    async def _put_portfolio(self, request: Request) -> Response:
        _, body = await self._admin(request)
        portfolio_id = path_id(request, "portfolio_id")
        defaults = {**PortfolioSettings().model_dump(), "currency": self._settings.general.currency}
        settings = parse_over(PortfolioSettings, defaults, body)
        with ledger_problems():
            shown = await self._ledger.put_portfolio(LEDGER_WAIT_S, portfolio_id, settings)
        await self._ledger.summon_within(HEARD_WITHIN_S)
        return reply(shown)

    async def models(self, request: Request) -> Response:
        (await self._caller(request)).require("admin")
        query = parse_query(schemas.ModelsQuery, request)
        with database_problems():
            as_of = None if query.at is None else await self._versions.as_of(query.at, query.brand_id)
            return reply({"models": await self._versions.all(), "as_of": as_of})

    async def activate(self, request: Request) -> Response:
        await self._admin(request)
        version = request.path_params["version"]
        if not schemas.ID_PATTERN.fullmatch(version):
            raise not_found("model version")
        try:
            with database_problems():
                return reply(await self._versions.activate(version))
        except UnknownVersion:
            raise not_found("model version") from None
        except ModelRefused as error:
            raise Problem(409, str(error), "model-refused") from None
        except ModelUnavailable as error:
            logger.warning("%s", error)
            raise unavailable("the model's files cannot be had just now; try again", "model-unavailable") from None

    # Open routes

    async def metrics(self, request: Request) -> Response:
        if not self._settings.http.is_loopback:
            (await self._caller(request)).require("admin")
        live = await self._live()
        try:
            model = (live.version, live.made_at) if live else None
            text = await self._monitor.render(model, *await self._last_night())
        except (RedisError, OSError):
            raise unavailable("Redis is not available", "redis-unavailable") from None
        return Response(text, media_type=CONTENT_TYPE)

    async def _last_night(self) -> tuple[str | None, list[str]]:
        """(how it ended, brands whose payouts broke); nothing while the database is away, too: the other figures are
        shown all the same."""
        with contextlib.suppress(SQLAlchemyError, OSError, TimeoutError):
            async with asyncio.timeout(LIVE_WAIT_S):
                return await self._versions.last_night(), await self._versions.broken_payouts()
        return None, []

    async def healthz(self, _request: Request) -> Response:
        return reply({"status": "ok"})

    async def readyz(self, _request: Request) -> Response:
        missing = [] if self._ledger.terms.version >= 0 else ["ledger"]
        live = await self._live()
        if live is None:
            missing.append("model")
        if missing:
            raise unavailable(f"not ready: no {' and no '.join(missing)} yet", "starting")
        assert live is not None
        return reply({"status": "ready", "model_version": live.version, "simulated": live.simulated})

    async def openapi(self, _request: Request) -> Response:
        return Response(self._openapi, media_type="application/json")

    async def docs(self, _request: Request) -> HTMLResponse:
        return get_swagger_ui_html(openapi_url="/openapi.json", title="Paceline")


def reply(content: Any) -> Response:
    return Response(encode(content), media_type="application/json")


def _refusal(caller: Caller, event: schemas.PerformanceEvent) -> tuple[str, str] | None:
    owns_brand = caller.owns_brand(event.brand_id)
    if not owns_brand and not caller.owns_partner(event.partner_id):
        return "not_found", "no such brand or partner"
    decides = event.type in ("conversion_update", "aggregate") or event.status in ("approved", "rejected")
    if decides and not owns_brand:
        return "forbidden", "only the brand or an admin may approve, reject, restate or aggregate"
    return None


def _event(item: schemas.PerformanceEvent, caller: Caller) -> Event:
    counts = {name: getattr(item, name) or 0 for name in schemas.COUNTS}
    return Event(**{**item.model_dump(), **counts}, restates=caller.owns_brand(item.brand_id))


def _share_of_day(at: dt.datetime) -> float:
    return (at - at.replace(hour=0, minute=0, second=0, microsecond=0)) / dt.timedelta(days=1)


async def _no_route(scope: Any, _receive: Any, _send: Any) -> None:
    if scope["type"] == "http":
        raise not_found("route; see /docs")


DESCRIPTION = (
    "Scores bids by revenue × multiplier − λ × cost, holds the winners' predicted cost in their brands' budgets, "
    "and learns from the results. Money is integer micros of the brand's currency."
)
OPERATIONS = (
    Operation(
        "post",
        "/api/score",
        "Rank bids and reserve for the winners",
        schemas.ScoreResponse,
        schemas.ScoreRequest,
        problems=("409", "413"),
    ),
    Operation(
        "post",
        "/api/performance",
        "Report what happened",
        schemas.PerformanceResponse,
        schemas.PerformanceRequest,
        problems=("413",),
    ),
    Operation(
        "get",
        "/api/roas",
        "What a slot is expected to bring, and brought",
        schemas.RoasResponse,
        query=schemas.RoasQuery,
        problems=("404",),
    ),
    Operation("get", "/api/brands", "Brands, page by page", schemas.BrandPage, query=schemas.PageQuery),
    Operation("get", "/api/brands/{brand_id}", "A brand and its day", schemas.Brand, problems=("404",)),
    Operation(
        "put",
        "/api/brands/{brand_id}",
        "Create or replace a brand",
        schemas.Brand,
        BrandSettings,
        problems=("404", "413"),
    ),
    Operation("get", "/api/portfolios/{portfolio_id}", "A portfolio", schemas.Portfolio, problems=("404",)),
    Operation(
        "put",
        "/api/portfolios/{portfolio_id}",
        "Create or replace a portfolio",
        schemas.Portfolio,
        PortfolioSettings,
        problems=("413",),
    ),
    Operation(
        "get",
        "/api/models",
        "Model versions with their gate results, the live one marked; what was live at a time",
        schemas.ModelPage,
        query=schemas.ModelsQuery,
    ),
    Operation(
        "post", "/api/models/{version}/activate", "Roll back or forward", schemas.ModelVersion, problems=("404", "409")
    ),
)
