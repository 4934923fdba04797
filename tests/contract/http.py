"""The API in this process: real ledger, real model, real database and Redis; only Ray is left out."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
from redis.asyncio import Redis
from starlette.types import ASGIApp

from db.session import Database
from db.state import State
from ledger.client import ledger_client
from ledger.client.ledger_client import LedgerClient
from ledger.client.shard_client import ShardClient
from ledger.invariants import audit
from ledger.runtime.actor import LedgerActor
from serve_app import token
from serve_app.http.auth import Authenticator, Secret
from serve_app.monitor import Monitor
from serve_app.prediction.predictor import Predictor
from serve_app.routes.api import Api
from serve_app.routes.model_versions import ModelVersions
from tests.environment import load_in
from tests.servers.snapshots import Snapshots
from training.etl.importer import import_frame
from training.etl.simulated_market import performance
from training.nightly.pipeline import first_model

SECRET = "test-secret-" + "x" * 32
TODAY = dt.datetime.now(dt.UTC).date()
PLACE = {"partner_id": "p-1", "slot_id": "s-1", "device_type": "mobile", "creative_type": "300x250"}


class Local:
    """Calls an actor's methods in this process, as a Ray handle is called."""

    def __init__(self, actor: LedgerActor) -> None:
        self._actor = actor

    def __getattr__(self, method: str) -> Any:
        return type("Method", (), {"remote": staticmethod(getattr(self._actor, method))})


class Client:
    """One caller of the API."""

    def __init__(self, http: httpx.AsyncClient, bearer: str | None) -> None:
        self._http = http
        self._headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}

    async def get(self, path: str, **query: Any) -> httpx.Response:
        return await self._http.get(path, params=query, headers=self._headers)

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self._http.post(path, content=content, headers=self._headers | headers)

    async def put(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return await self._change("PUT", path, body, headers)

    async def patch(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return await self._change("PATCH", path, body, headers)

    async def _change(self, method: str, path: str, body: Any, headers: dict[str, str]) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self._http.request(method, path, content=content, headers=self._headers | named)


class World:
    """A served system. `client(scope, …)` gives a caller."""

    def __init__(
        self, http: httpx.AsyncClient, api: Api, ledger: LedgerClient, database: Database, state: State
    ) -> None:
        self._http, self._api, self.ledger, self.database, self.state = http, api, ledger, database, state

    def client(
        self, scope: str = "admin", brands: tuple[str, ...] = (), partners: tuple[str, ...] = (), sub: str = "tester"
    ) -> Client:
        return Client(self._http, self.token(scope, brands, partners, sub))

    def token(
        self, scope: str = "admin", brands: tuple[str, ...] = (), partners: tuple[str, ...] = (), sub: str = "tester"
    ) -> str:
        return token.make(SECRET, scope, brands, partners, 3600, sub)

    def anonymous(self, bearer: str | None = None) -> Client:
        return Client(self._http, bearer)

    @property
    def application(self) -> ASGIApp:
        return self._api.app()

    @property
    def paths(self) -> set[str]:
        """Of all routes."""
        return {route.path for route in self._api._routes()}

    async def flush_score_log(self) -> None:
        await self._api.flush()

    async def brand(self, brand_id: str, **settings: Any) -> None:
        """Put a brand and wait until it is heard of."""
        answer = await self.client().put(f"/api/brands/{brand_id}", settings)
        assert answer.status_code == 200, answer.text
        await self.ledger.beat_within(10.0)


@asynccontextmanager
async def world(
    database_url: str, redis_url: str, folder: Path, snapshots: Snapshots, **environ: str
) -> AsyncIterator[World]:
    """A small simulated market, its first model, and the API over both.

    Args:
        environ: settings of the ledger or the API; the market and its model are made once for all of them.
    """
    state = State(folder)
    state.root.mkdir(parents=True, exist_ok=True)
    settings = load_in(
        {
            "PACELINE_DATABASE_URL": database_url,
            "PACELINE_REDIS_URL": redis_url,
            "PACELINE_JWT_SECRET": SECRET,
            "PACELINE_SCORE_LOG_SAMPLE": "1",
            "PACELINE_MODEL_TREES": "20",
            **environ,
        }
    )
    async with AsyncExitStack() as stack:
        # Who wins must not depend on how long the first leases take on a busy machine.
        stack.enter_context(patch.object(ledger_client, "COLD_WAIT_S", settings.score.deadline_ms / 1000))
        state.scratch.mkdir(mode=0o700)  # of a node that serves: what its sandbox has found out is remembered there
        stack.callback(shutil.rmtree, state.scratch, ignore_errors=True)
        database = Database(settings.database)
        stack.push_async_callback(database.close)
        redis = Redis.from_url(redis_url)
        stack.push_async_callback(redis.aclose)
        if not (is_known := await recall_market(snapshots, database_url, state, redis)):
            frame = performance(TODAY - dt.timedelta(days=1), days=12)
            await import_frame(database, frame, "simulated", simulated=True, say=lambda _: None)
            await first_model(database, state, settings=settings.model, redis_url=redis_url, say=lambda _: None)
        predictor = Predictor(settings, state)
        stack.push_async_callback(predictor.close)
        await predictor.start()
        if not is_known:
            await remember_market(snapshots, database_url, state, redis)
        shards = []
        for number in range(settings.ledger.shards):
            actor = LedgerActor(settings.database, redis_url, settings.ledger, settings.roas, number)
            stack.push_async_callback(actor.close)
            shards.append(ShardClient(lambda actor=actor: Local(actor), settings.ledger))  # type: ignore[misc]
        ledger = LedgerClient(shards)
        beating = asyncio.create_task(ledger.keep_beating())
        stack.callback(beating.cancel)
        await ledger.beat_within(10.0)
        versions = ModelVersions(database, state, redis_url)
        api = Api(settings, predictor, ledger, database, Monitor(redis), Authenticator(Secret(SECRET)), versions)
        transport = httpx.ASGITransport(api.app(), raise_app_exceptions=False)
        http = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://paceline"))
        yield World(http, api, ledger, database, state)


async def remember_market(snapshots: Snapshots, database_url: str, state: State, redis: Redis) -> None:
    """Keep what a market's import and its first model have left: in the database, on disk and in Redis."""
    snapshots.remember("market", database_url)
    folder = snapshots.folder_of("market", database_url)
    shutil.copytree(state.root, folder / "state")
    shutil.copytree(state.scratch, folder / "scratch")
    kept = {key.decode(): await redis.dump(key) async for key in redis.scan_iter()}
    (folder / "redis").mkdir()
    for key, value in kept.items():
        (folder / "redis" / key).write_bytes(value)


async def recall_market(snapshots: Snapshots, database_url: str, state: State, redis: Redis) -> bool:
    """Returns whether it was kept; else nothing is changed."""
    if not snapshots.recall("market", database_url):
        return False
    folder = snapshots.folder_of("market", database_url)
    shutil.copytree(folder / "state", state.root, dirs_exist_ok=True)
    shutil.copytree(folder / "scratch", state.scratch, dirs_exist_ok=True)
    for file in (folder / "redis").iterdir():
        await redis.restore(file.name, 0, file.read_bytes())
    return True


@asynccontextmanager
async def served(
    database_url: str, redis_url: str, folder: Path, snapshots: Snapshots, **environ: str
) -> AsyncIterator[World]:
    """A world with a brand whose bids win; its books must balance at the end."""
    async with world(database_url, redis_url, folder / "state", snapshots, **environ) as found:
        await found.brand("cheap", daily_budget_micros=1_000_000, target_roas=0.01)
        yield found
        assert await audit(found.database) == []


def bid(bid_id: str = "b-1", brand: str = "cheap", **changes: Any) -> dict[str, Any]:
    return {"bid_id": bid_id, "brand_id": brand, **PLACE, "pricing_model": "cpm", "price_micros": 1000} | changes


def request(name: str, *bids: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"request_id": name, "bids": list(bids) or [bid()]} | changes


def event(name: str, kind: str = "impression", **changes: Any) -> dict[str, Any]:
    now = dt.datetime.now(dt.UTC).isoformat()
    fields = {"event_id": name, "type": kind, "occurred_at": now, "brand_id": "cheap", **PLACE} | changes
    return {key: value for key, value in fields.items() if value is not None}
