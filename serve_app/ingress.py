"""The routes, in the order in which a day uses them. Each handler reads as the way of its request."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import datetime as dt
import hashlib
import logging
import math
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel, ValidationError
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from db import Database
from db.brands import BrandSettings, PortfolioSettings
from ledger import BrandTerms, Claim, Event, LedgerError, admitted
from serve_app import actuals, schemas
from serve_app.auth import Authenticator, Caller
from serve_app.coalesce import CallLost, Coalescer
from serve_app.door import Door, read_body
from serve_app.errors import Invalid, Problem, encode, not_found, of_ledger, unavailable
from serve_app.monitor import CONTENT_TYPE, Monitor
from serve_app.openapi import Operation, document
from serve_app.predictor import Live, NoModel, Slot, columns_of, concatenated
from serve_app.ranking import Expectation, answer, offers, opportunities, rank, rejections
from serve_app.repeats import Remembered, Repeats
from serve_app.reserve import LedgerClient
from serve_app.score_log import ScoreLog, sampled
from serve_app.settings import Settings
from serve_app.versions import Versions
from training import Columns, Explanation, ModelRefused, ModelUnavailable, UnknownVersion

logger = logging.getLogger("paceline.ingress")
VERSION = "0.1.0"
LEDGER_WAIT_S, POOL_WAIT_S, LIVE_WAIT_S = 10.0, 5.0, 1.5
SENDING_S = 0.004
"""Of the deadline this much is kept for the way out: the answer's bytes, the proxy."""
DEADLINE_MARGIN = 0.1
"""This share of the deadline is kept for ranking and writing the answer."""
PERFORMANCE_MARGIN_S = 30.0
FIRST_BEAT_S = 5.0
SHOWN_WITHIN_S = 1.0
"""Figures that are shown wait so long for what this replica has not told the ledger yet."""
Parsed = TypeVar("Parsed", bound=BaseModel)


class Predictions(Protocol):
    """The predictor pool, or a predictor in this process."""

    async def predict(self, columns: Columns) -> Expectation: ...
    async def explain(self, columns: Columns) -> tuple[Expectation, Explanation]: ...
    async def slot(self, columns: Columns) -> Slot: ...
    async def live(self) -> Live | None: ...


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
        self._coalesced: Coalescer[Columns, Expectation] = Coalescer(
            self._predict, lambda columns: len(columns.brand_id), score.batch_rows, settings.serve.predictor_replicas
        )
        self._repeats = Repeats(score.idempotency_s, score.idempotency_entries)
        self._log = ScoreLog(database, score.log_sample, score.log_rows_per_s, monitor.tally.dropped)
        self._openapi = encode(document("Paceline", VERSION, DESCRIPTION, OPERATIONS))

    def app(self, names: bool = True) -> ASGIApp:
        """The application. Its lifespan runs the background work. `names`: see `Door`."""
        routes = [
            Route("/api/score", self.score, methods=["POST"]),
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
        return Door(
            Router(routes, redirect_slashes=False, default=_no_route, lifespan=self._lifespan),
            names,
            self._settings.serve.max_ongoing_requests,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Any) -> AsyncIterator[None]:
        loops = (self._ledger.keep_beating(), self._monitor.keep_flushing(), self._log.keep_flushing())
        tasks = [asyncio.create_task(loop) for loop in loops]
        await self._ledger.beat_within(FIRST_BEAT_S)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._ledger.close()
            await self.flush()

    async def flush(self) -> None:
        """Write what waits for its second: the score log and the counters."""
        await self._log.flush()
        await self._monitor.flush()

    async def _caller(self, request: Request) -> Caller:
        return await self._authenticator.caller(request.headers.get("authorization"))

    async def _body(self, request: Request) -> bytes:
        http = self._settings.http
        return await read_body(request, http.body_most_bytes, http.body_timeout_s)

    async def _admin(self, request: Request) -> tuple[Caller, bytes]:
        caller = await self._caller(request)
        body = await self._body(request)
        caller.require("admin")
        return caller, body

    def _terms(self) -> Mapping[str, BrandTerms]:
        if self._ledger.terms.version < 0:
            raise unavailable("the ledger has not been reached yet", "starting")
        return self._ledger.terms.brands

    # POST /api/score

    async def score(self, request: Request) -> Response:
        began = time.perf_counter()
        status = 500
        try:
            caller = await self._caller(request)
            body = await self._body(request)
            caller.require("admin", "partner")
            wanted = parse(schemas.ScoreRequest, body)
            _refuse_repeated_bids(wanted)
            content = await self._answered_once(caller, wanted, body, began)
            status = 200
            return Response(content, media_type="application/json")
        except Problem as problem:
            status = problem.status
            raise
        except (ClientDisconnect, asyncio.CancelledError):
            status = 499
            raise
        finally:
            self._monitor.tally.scored(status, time.perf_counter() - began)

    async def _answered_once(self, caller: Caller, wanted: schemas.ScoreRequest, body: bytes, began: float) -> bytes:
        """The first answer to this request_id. The work goes on if its asker leaves, so that a repetition finds it."""
        deadline_s = (wanted.tmax_ms or self._settings.score.deadline_ms) / 1000
        until = began + deadline_s - SENDING_S
        left_s = max(until - time.perf_counter(), 0.0)
        key, body_hash = (caller.sub, wanted.request_id), hashlib.blake2b(body, digest_size=32).hexdigest()
        entry = self._repeats.find(key)
        if entry is None:
            entry = Remembered(body_hash, time.monotonic())
            work = self._rank_and_reserve(caller, wanted, entry, left_s * (1 - DEADLINE_MARGIN))
            # In a context of its own: Serve cancels what was called in the context of a caller that has left.
            entry.answer = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
            self._repeats.begin(key, entry)
        elif entry.body_hash != body_hash:
            raise Problem(409, f"request_id {wanted.request_id} was used with another body", "request-id-reused")
        entry.askers += 1
        try:
            async with asyncio.timeout(left_s):
                content = await asyncio.shield(entry.answer)
            if time.perf_counter() > until:
                raise TimeoutError
        except (TimeoutError, asyncio.CancelledError) as error:
            entry.askers -= 1
            entry.answer.add_done_callback(lambda _: self._return_later(entry))
            if isinstance(error, asyncio.CancelledError):
                raise
            raise unavailable(f"no answer within {deadline_s * 1000:g} ms", "deadline") from None
        return content

    def _return_later(self, entry: Remembered) -> None:
        """Nobody heard of these wins. If nobody asks again in time, their money goes back."""

        def give_back() -> None:
            if entry.askers == 0 and entry.wins:
                self._ledger.release(entry.wins)

        asyncio.get_running_loop().call_later(self._settings.score.idempotency_s, give_back)

    async def _rank_and_reserve(
        self, caller: Caller, wanted: schemas.ScoreRequest, entry: Remembered, within_s: float
    ) -> bytes:
        until = time.monotonic() + within_s
        terms = self._terms()
        currency = wanted.currency or self._settings.general.currency
        columns = columns_of(wanted.bids, int((wanted.at or dt.datetime.now(dt.UTC)).timestamp()))
        expectation, explanation = await self._expectation(columns, wanted.explain, within_s)
        ranking = rank(
            wanted.bids,
            expectation,
            terms,
            rejections(wanted.bids, terms, currency, caller.owns_partner),
            wanted.floor_micros,
            lambda brand_id, share: share >= 1 or admitted(brand_id, wanted.request_id, share),
        )
        award = await self._ledger.reserve(
            Claim(
                sub=caller.sub,
                request_id=wanted.request_id,
                request_hash=entry.body_hash,
                winners=wanted.winners,
                offers=offers(wanted.bids, ranking),
                within_s=until - time.monotonic(),
            )
        )
        brand_of = {bid.bid_id: bid.brand_id for bid in wanted.bids}
        entry.wins = [(brand_of[win.bid_id], win.reservation_id) for win in award.wins]
        self._ledger.saw(opportunities(wanted.bids, ranking, award))
        items = answer(wanted.bids, ranking, terms, award)
        self._monitor.tally.bids(len(wanted.bids) - len(ranking.rejected))
        if explanation is not None:
            _add_contributions(items, wanted.bids, explanation)
        if self._log.share > 0 and sampled(wanted.request_id, self._log.share):
            self._log.add(wanted.request_id, wanted.bids, items, expectation.model_version)
        return encode(
            {
                "request_id": wanted.request_id,
                "model_version": expectation.model_version,
                "currency": currency,
                "ranked": items,
            }
        )

    async def _expectation(
        self, columns: Columns, explain: bool, within_s: float
    ) -> tuple[Expectation, Explanation | None]:
        with _prediction_problems():
            async with asyncio.timeout(within_s):
                if explain:
                    return await self._predictions.explain(columns)
                return await self._coalesced.submit(columns), None

    async def _live(self) -> Live | None:
        """What the pool serves; None while it does not answer."""
        try:
            async with asyncio.timeout(LIVE_WAIT_S):
                return await self._predictions.live()
        except (RayError, RayServeException, TimeoutError):
            return None

    async def _predict(self, parts: Sequence[Columns]) -> list[Expectation]:
        whole = await self._predictions.predict(concatenated(parts))
        result, start = [], 0
        for part in parts:
            rows = slice(start, start := start + len(part.brand_id))
            result.append(
                Expectation(whole.revenue_micros[rows], whole.ctr[rows], whole.cvr[rows], whole.model_version)
            )
        return result

    # POST /api/performance

    async def performance(self, request: Request) -> Response:
        caller = await self._caller(request)
        body = await self._body(request)
        caller.require("admin", "partner", "brand")
        wanted = parse(schemas.PerformanceRequest, body)
        refused = [_refusal(caller, event) for event in wanted.events]
        allowed = [event for event, refusal in zip(wanted.events, refused, strict=True) if refusal is None]
        with _ledger_problems():
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
        brand = self._terms().get(query.brand_id)
        if brand is None:
            raise not_found("brand")
        now = (query.at or dt.datetime.now(dt.UTC)).astimezone(dt.UTC)
        days = int(query.window.removesuffix("d"))
        where = actuals.Where(
            query.brand_id,
            query.partner_id,
            query.slot_id,
            query.device_type if "device_type" in query.model_fields_set else None,
            query.creative_type if "creative_type" in query.model_fields_set else None,
        )
        with _prediction_problems():
            async with asyncio.timeout(POOL_WAIT_S):
                slot = await self._predictions.slot(columns_of([_as_bid(query)], int(now.timestamp())))
        with _database_problems():
            found = await actuals.window(self._database, where, now.date(), days)
        with _ledger_problems():
            actual_roas = await self._ledger.of_brand(
                LEDGER_WAIT_S, "slot_roas", query.brand_id, found.days, days, _share_of_day(now)
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
        await self._ledger.beat_within(SHOWN_WITHIN_S)
        with _ledger_problems():
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
        await self._ledger.beat_within(SHOWN_WITHIN_S)
        with _ledger_problems():
            return reply(await self._ledger.of_brand(LEDGER_WAIT_S, "get_brand", brand_id))

    async def _put_brand(self, request: Request) -> Response:
        _, body = await self._admin(request)
        brand_id = path_id(request, "brand_id")
        settings = parse_over(BrandSettings, self._settings.new_brand.model_dump(), body)
        with _ledger_problems():
            shown = await self._ledger.put_brand(LEDGER_WAIT_S, brand_id, settings)
        await self._ledger.beat_within(LEDGER_WAIT_S)  # whoever has put a brand may score it next, here at least
        return reply(shown)

    async def _get_portfolio(self, request: Request) -> Response:
        (await self._caller(request)).require("admin")
        await self._ledger.beat_within(SHOWN_WITHIN_S)
        with _ledger_problems():
            return reply(
                await self._ledger.of_portfolio(LEDGER_WAIT_S, "get_portfolio", request.path_params["portfolio_id"])
            )

    async def _put_portfolio(self, request: Request) -> Response:
        _, body = await self._admin(request)
        portfolio_id = path_id(request, "portfolio_id")
        defaults = {**PortfolioSettings().model_dump(), "currency": self._settings.general.currency}
        settings = parse_over(PortfolioSettings, defaults, body)
        with _ledger_problems():
            return reply(await self._ledger.of_portfolio(LEDGER_WAIT_S, "put_portfolio", portfolio_id, settings))

    async def models(self, request: Request) -> Response:
        (await self._caller(request)).require("admin")
        with _database_problems():
            return reply({"models": await self._versions.all()})

    async def activate(self, request: Request) -> Response:
        await self._admin(request)
        version = request.path_params["version"]
        if not ID.fullmatch(version):
            raise not_found("model version")
        try:
            with _database_problems():
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
            text = await self._monitor.render((live.version, live.made_at) if live else None)
        except (RedisError, OSError):
            raise unavailable("Redis is not available", "redis-unavailable") from None
        return Response(text, media_type=CONTENT_TYPE)

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


def parse(model: type[Parsed], body: bytes) -> Parsed:
    """Raises: Invalid (422) with a pointer to each mistake."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise Invalid.of(error) from None


def parse_over(model: type[Parsed], defaults: dict[str, Any], body: bytes) -> Parsed:
    """A PUT's body: what it leaves out takes the defaults. Raises: Invalid."""
    try:
        given = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:  # msgspec's errors, and text that is not UTF-8, are ValueErrors
        raise Invalid.at("", f"not JSON: {error}", "json_invalid") from None
    if not isinstance(given, dict):
        raise Invalid.at("", "must be a JSON object", "model_type")
    try:
        return model.model_validate({**defaults, **given}, strict=True)
    except ValidationError as error:
        raise Invalid.of(error) from None


def parse_query(model: type[Parsed], request: Request) -> Parsed:
    """Raises: Invalid; a repeated parameter is one mistake of many."""
    items = request.query_params.multi_items()
    names = [name for name, _ in items]
    for name in names:
        if names.count(name) > 1:
            raise Invalid.at(f"/query/{name}", "given more than once", "repeated")
    try:
        return model.model_validate(dict(items))
    except ValidationError as error:
        raise Invalid.of(error, prefix=("query",)) from None


def path_id(request: Request, name: str) -> str:
    value: str = request.path_params[name]
    if not ID.fullmatch(value):
        raise Invalid.at(
            f"/path/{name}", "an id has 1 to 64 characters of A-Z a-z 0-9 . _ : -", "string_pattern_mismatch"
        )
    return value


@contextlib.contextmanager
def _prediction_problems() -> Iterator[None]:
    """What goes wrong between here and a predictor is a 503."""
    try:
        yield
    except (NoModel, CallLost, RayError, RayServeException, TimeoutError) as error:
        if isinstance(error, NoModel) or isinstance(getattr(error, "cause", None), NoModel):
            raise unavailable("no model has been published yet", "no-model", 10) from None
        logger.warning("no prediction: %s", (str(error) or repr(error)).splitlines()[0])
        raise unavailable("no predictor is free; try again", "predictor-unavailable") from None


@contextlib.contextmanager
def _ledger_problems() -> Iterator[None]:
    """What the ledger declines has its own status and words."""
    try:
        yield
    except LedgerError as error:
        raise of_ledger(error) from None


@contextlib.contextmanager
def _database_problems() -> Iterator[None]:
    """What goes wrong between here and the database is a 503."""
    try:
        yield
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        logger.warning("no database: %s", (str(error) or repr(error)).splitlines()[0])
        raise unavailable("the database is not available; try again", "database-unavailable") from None


def _refuse_repeated_bids(wanted: schemas.ScoreRequest) -> None:
    seen: set[str] = set()
    for index, bid in enumerate(wanted.bids):
        if bid.bid_id in seen:
            raise Invalid.at(f"/bids/{index}/bid_id", f"{bid.bid_id} is the name of an earlier bid", "duplicate_bid_id")
        seen.add(bid.bid_id)


def _add_contributions(items: Sequence[dict[str, Any]], bids: Sequence[schemas.Bid], explanation: Explanation) -> None:
    row_of = {bid.bid_id: index for index, bid in enumerate(bids)}
    for item in items:
        row = row_of[item["bid_id"]]
        features = dict(zip(explanation.names, explanation.contributions[row].tolist(), strict=True))
        shown = {"base": float(explanation.base[row]), "features": features}
        item["contributions"] = None if item["status"] == "rejected" else shown


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


def _as_bid(query: schemas.RoasQuery) -> schemas.Bid:
    """A slot looked at as one impression, whatever it is sold by."""
    return schemas.Bid(
        bid_id="-",
        pricing_model="cpm",
        price_micros=1,
        **query.model_dump(
            include={"brand_id", "partner_id", "slot_id", "device_type", "creative_type", "placement_score"}
        ),
    )


async def _no_route(scope: Any, _receive: Any, _send: Any) -> None:
    if scope["type"] == "http":
        raise not_found("route; see /docs")


ID = schemas.ID_PATTERN

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
    Operation("get", "/api/models", "Model versions, the live one marked", schemas.ModelPage),
    Operation(
        "post", "/api/models/{version}/activate", "Roll back or forward", schemas.ModelVersion, problems=("404", "409")
    ),
)
