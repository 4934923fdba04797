"""The composition: Ingress (→ Predictor pool) → ledger actor. `make run` and `serve deploy` both build it here.

The environment is read here and nowhere else in a running cluster; what needs a secret is handed it from here.
(No `from __future__ import annotations` in this file: Serve reads the builder's annotations as types.)
"""

import asyncio
import contextlib
import gc
import logging
import time
from logging.handlers import MemoryHandler
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig
from redis.asyncio import Redis
from starlette.types import ASGIApp

from db.environment import BadSetting
from db.session import Database
from db.state import State
from ledger.client.ledger_client import LedgerClient
from ledger.client.shard_client import ShardClient
from ledger.runtime.deployment import connect, replace
from ledger.runtime.generations import Reached
from serve_app.http.auth import Authenticator, KeySet, Secret
from serve_app.monitor import Monitor
from serve_app.prediction import codec
from serve_app.prediction.expectation import Expectation
from serve_app.prediction.predictor import Live, Predictor, Slot
from serve_app.routes.api import Api
from serve_app.routes.model_versions import ModelVersions
from serve_app.settings import Settings, load, with_state
from training.model.model import Columns, Explanation

POLL_TIMEOUT_S = 5.0
NO_KEYS = "no token keys: set PACELINE_JWKS (a URL or a file) or, for development, PACELINE_JWT_SECRET"


def build(args: dict[str, Any]) -> Application:
    """The Serve application.

    Args:
        args: sections of settings, as in `serve_config.yaml`; the environment wins over them.

    Raises:
        BadSetting: some setting cannot be used; the deploy fails and names it.
    """
    state = State.here()
    settings = with_state(load(args), state)
    if not settings.general.jwks and not settings.jwt.secret:
        raise BadSetting([NO_KEYS])
    common: dict[str, Any] = {
        "health_check_timeout_s": 60,
        "graceful_shutdown_timeout_s": 5,
        "ray_actor_options": {"num_cpus": 0.05},  # lets the night's training run beside the replicas on two cores
        # Our own access log says more; Serve's makes a record of every request even where nobody reads it.
        "logging_config": LoggingConfig(log_level="WARNING", enable_access_log=False),
    }
    ingress = serve.deployment(
        name="Ingress",
        num_replicas=settings.serve.ingress_replicas,
        max_ongoing_requests=10 * settings.serve.max_ongoing_requests,  # the replica itself sends away, in our words
        **common,
    )(IngressReplica)
    if settings.serve.predictor == "local":
        return ingress.bind(settings, state, time.time())
    predictor = serve.deployment(
        name="Predictor",
        num_replicas=settings.serve.predictor_replicas,
        max_ongoing_requests=64,
        **common,
    )(PredictorReplica)
    return ingress.bind(settings, state, time.time(), predictor.bind(settings, state))


class Address:
    """Where a shard's ledger is: the actor, which is started where there is none, and replaced when it is silent.

    Args:
        decided_at: when the application was built; of two replicas with different settings the younger's count.
    """

    def __init__(self, settings: Settings, shard: int, decided_at: float) -> None:
        self._settings = settings.database, settings.redis.url, settings.ledger, settings.roas
        self._shard, self._decided_at = shard, decided_at
        self._seen: Reached[Any] | None = None

    def connect(self) -> Any:
        self._seen = connect(*self._settings, shard=self._shard, decided_at=self._decided_at)
        return self._seen.handle

    def replace(self) -> Any:
        if self._seen is None:
            return self.connect()
        self._seen = replace(*self._settings, shard=self._shard, decided_at=self._decided_at, seen=self._seen)
        return self._seen.handle


def shards(settings: Settings, decided_at: float) -> list[ShardClient]:
    """All of the ledger, as one replica sees it."""
    found = []
    for number in range(settings.ledger.shards):
        address = Address(settings, number, decided_at)
        found.append(ShardClient(address.connect, settings.ledger, address.replace))
    return found


def configure_logging() -> None:
    """Our lines go into the replica's own log, as Serve writes it, and without delay.

    Its standard error leads there too, but looks up the stack for every line.
    """
    serve_log, ours = logging.getLogger("ray.serve"), logging.getLogger("paceline")
    for handler in serve_log.handlers:
        if isinstance(handler, MemoryHandler):
            handler.capacity = 1  # a thousand lines otherwise: once they were one a request, now they are few
    ours.handlers, ours.propagate = list(serve_log.handlers), False
    ours.setLevel(logging.INFO)


class PredictorReplica(Predictor):
    """A predictor as a Serve replica."""

    def __init__(self, settings: Settings, state: State) -> None:
        configure_logging()
        super().__init__(settings, state)

    async def check_health(self) -> None:
        """Serve asks before a replica gets traffic: a good moment to load the model."""
        await self.start()

    async def predict_packed(self, columns: bytes) -> bytes:
        """Raises: NoModel."""
        return codec.pack_expectation(await self.predict(codec.unpack(columns)))


class Pool:
    """The predictor pool, as the ingress calls it.

    Args:
        poll_s: how often it is asked for its version, so that what an older one said is not remembered for longer.
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


@serve.ingress()
class IngressReplica:
    """An ingress as a Serve replica: makes the collaborators, and hands the routes over to them."""

    def __init__(
        self, settings: Settings, state: State, decided_at: float, pool: DeploymentHandle[Any] | None = None
    ) -> None:
        configure_logging()
        # Wins wait a second for their beat: at Python's 700 the collector looks at them again and again.
        gc.set_threshold(20_000, 10, 20)
        keys = KeySet(settings.general.jwks) if settings.general.jwks else Secret(str(settings.jwt.secret))
        database = Database(settings.database)
        redis = Redis.from_url(str(settings.redis.url), socket_timeout=5.0, socket_connect_timeout=5.0)
        self._api = Api(
            settings,
            Predictor(settings, state) if pool is None else Pool(pool, settings.serve.model_poll_s),
            self.ledger(settings, decided_at),
            database,
            Monitor(redis),
            Authenticator(keys),
            ModelVersions(database, state, str(settings.redis.url)),
        )

    def ledger(self, settings: Settings, decided_at: float) -> LedgerClient:
        return LedgerClient(shards(settings, decided_at))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._api.app(names=False)
