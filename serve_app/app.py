"""The composition: Ingress (→ Predictor pool) → ledger actor. `make run` and `serve deploy` both build it here.

The environment is read here and nowhere else in a running cluster; what needs a secret is handed it from here.
(No `from __future__ import annotations` in this file: Serve reads the builder's annotations as types.)
"""

import gc
import logging
import time
from logging.handlers import MemoryHandler
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig
from redis.asyncio import Redis
from starlette.types import ASGIApp

from db.environment import BadSetting
from db.session import Database
from db.state import State
from ledger.client.ledger_client import LedgerClient
from ledger.client.shard_client import ShardClient
from ledger.runtime.address import ShardAddress
from serve_app.http.auth import Authenticator, KeySet, Secret
from serve_app.monitor import Monitor
from serve_app.prediction import codec
from serve_app.prediction.pool import PredictorPool
from serve_app.prediction.predictor import Predictor
from serve_app.routes.api import Api
from serve_app.routes.model_versions import ModelVersions
from serve_app.settings import Settings, load, with_state

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


def shards(settings: Settings, decided_at: float) -> list[ShardClient]:
    """All of the ledger, as one replica sees it.

    Args:
        decided_at: when the application was built, see `ShardAddress`.
    """
    database, redis_url, ledger = settings.database, settings.redis.url, settings.ledger
    addresses = [
        ShardAddress(database, redis_url, ledger, settings.roas, shard, decided_at) for shard in range(ledger.shards)
    ]
    return [ShardClient(address.connect, ledger, address.replace) for address in addresses]


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
            Predictor(settings, state) if pool is None else PredictorPool(pool, settings.serve.model_poll_s),
            self.ledger(settings, decided_at),
            database,
            Monitor(redis),
            Authenticator(keys),
            ModelVersions(database, state, str(settings.redis.url)),
        )

    def ledger(self, settings: Settings, decided_at: float) -> LedgerClient:
        return LedgerClient(shards(settings, decided_at))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._api.app(adds_request_id=False)
