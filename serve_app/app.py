"""Builds the Serve application (ingress, optional predictor pool, ledger client) for `make run` and `serve deploy`.

In a running cluster the environment is read here and nowhere else; secrets are passed on from here.
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
from db.state import State, keep_private
from ledger.client.ledger_client import LedgerClient
from ledger.client.shard_client import ShardClient
from ledger.runtime.address import ShardAddress
from serve_app.http.auth import Authenticator, Secret
from serve_app.http.jwks import KeySet
from serve_app.monitor import Monitor
from serve_app.prediction import codec
from serve_app.prediction.pool import PredictorPool
from serve_app.prediction.predictor import Predictor
from serve_app.routes.api import Api
from serve_app.routes.model_versions import ModelVersions
from serve_app.settings import Settings, load, with_state

NO_KEYS = (
    "no keys to check tokens with: set PACELINE_JWKS (URL or file of public keys) or, for development only, "
    "PACELINE_JWT_SECRET"
)


def build(args: dict[str, Any]) -> Application:
    """The Serve application.

    Args:
        args: sections of settings, as in `serve_config.yaml`; the environment wins over them.

    Raises:
        BadSetting: some settings cannot be used; the deploy fails with one line for each.
    """
    state = State.here()
    settings = with_state(load(args), state)
    if not settings.general.jwks and not settings.jwt.secret:
        raise BadSetting([NO_KEYS])
    common: dict[str, Any] = {
        "health_check_timeout_s": 60,
        "graceful_shutdown_timeout_s": 5,
        "ray_actor_options": {"num_cpus": 0.05},  # leaves room for the nightly training on a machine with two cores
        # Our own access log says more; Serve's makes a record of every request, even where it is not written.
        "logging_config": LoggingConfig(log_level="WARNING", enable_access_log=False),
    }
    ingress = serve.deployment(
        name="Ingress",
        num_replicas=settings.serve.ingress_replicas,
        max_ongoing_requests=10
        * settings.serve.max_ongoing_requests,  # the replica itself refuses earlier, with our 503
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
    """One client for each shard of the ledger.

    Args:
        decided_at: when the application was built, in epoch seconds; see `ShardAddress`.
    """
    database, redis_url, ledger = settings.database, settings.redis.url, settings.ledger
    addresses = [
        ShardAddress(database, redis_url, ledger, settings.roas, shard, decided_at) for shard in range(ledger.shards)
    ]
    return [
        ShardClient(address.connect, ledger, address.replace, shard=shard) for shard, address in enumerate(addresses)
    ]


def configure_logging() -> None:
    """Send our log lines to the replica's Serve log, without buffering.

    Standard error would reach the same file, but Serve inspects the call stack for every line written there.
    """
    serve_log, ours = logging.getLogger("ray.serve"), logging.getLogger("paceline")
    for handler in serve_log.handlers:
        if isinstance(handler, MemoryHandler):
            handler.capacity = 1  # Serve buffers a thousand lines, which would hold our few lines back for hours
    ours.handlers, ours.propagate = list(serve_log.handlers), False
    ours.setLevel(logging.INFO)


class PredictorReplica(Predictor):
    """A predictor as a Serve replica."""

    def __init__(self, settings: Settings, state: State) -> None:
        keep_private()
        configure_logging()
        super().__init__(settings, state)

    async def check_health(self) -> None:
        """Load the model, if it is not loaded: Serve calls this before a replica gets traffic."""
        await self.start()

    async def predict_packed(self, columns: bytes) -> bytes:
        """`predict` for another process: packed columns to a packed expectation. Raises: NoModel."""
        return codec.pack_expectation(await self.predict(codec.unpack(columns)))


@serve.ingress()
class IngressReplica:
    """An ingress as a Serve replica: creates what the routes need, then serves them."""

    def __init__(
        self, settings: Settings, state: State, decided_at: float, pool: DeploymentHandle[Any] | None = None
    ) -> None:
        keep_private()
        configure_logging()
        # Wins stay in memory for a second, until the next beat: at Python's default of 700 objects the garbage
        # collector would scan them again and again.
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
            Authenticator(keys, settings.jwt.scope_claim),
            ModelVersions(database, state, str(settings.redis.url)),
        )

    def ledger(self, settings: Settings, decided_at: float) -> LedgerClient:
        """The ledger as this replica calls it; benchmarks replace it."""
        return LedgerClient(shards(settings, decided_at))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._api.app(adds_request_id=False)
