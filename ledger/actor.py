"""The one writer, on Ray: a named detached actor that every replica calls."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from redis.asyncio import Redis

from db import Database, DatabaseSettings
from db.brands import BrandSettings, PortfolioSettings
from ledger.book import Ledger
from ledger.counters import Counters
from ledger.errors import Fenced, LedgerUnavailable
from ledger.pacing import DaySums
from ledger.settings import LedgerSettings, RoasSettings
from ledger.types import Beat, Event, Reply, Result
from ledger.writer import Writer

logger = logging.getLogger("paceline.ledger")
T = TypeVar("T")
Handle = TypeVar("Handle")
NAMESPACE = "paceline"
RETRY_S = 0.5
STOP_S = 0.5
REDIS_S = 5.0
IDENTITY_S = 10.0
CONNECT_TRIES, CONNECT_RETRY_S = 10, 0.1
BORN_AT = time.time()
"""When this process began, near enough."""


class Identity(NamedTuple):
    """Which settings an actor runs with."""

    digest: str
    decided_at: float  # seconds since 1970


class LedgerActor:
    """A shard's ledger. It may be killed at any time: what it has answered is in the database.

    Ray starts it again by calling the constructor, on the event loop, with the same settings; it then takes the next
    epoch. The methods are those of `Ledger`; writes go through the one `Writer`.
    """

    def __init__(
        self,
        database: DatabaseSettings,
        redis_url: str | None,
        ledger_settings: LedgerSettings,
        roas_settings: RoasSettings,
        shard: int = 0,
        decided_at: float = 0.0,
    ) -> None:
        digest = digest_of(database, redis_url, ledger_settings, roas_settings, shard)
        self._identity = Identity(digest, decided_at)
        self._database = Database(database)
        self._redis = None
        if redis_url is not None:
            self._redis = Redis.from_url(redis_url, socket_timeout=REDIS_S, socket_connect_timeout=REDIS_S)
        self._settings, self._roas_settings, self._shard = ledger_settings, roas_settings, shard
        self._ledger: Ledger | None = None
        self._writer: Writer | None = None
        self._counters: Counters | None = None
        self._opening: asyncio.Task[None] | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._booting = asyncio.get_running_loop().create_task(self._boot())

    async def _boot(self) -> None:
        """Open without being asked: holds expire even while nobody calls."""
        while self._ledger is None:
            try:
                await self.start()
            except Exception as error:
                logger.warning("the ledger cannot open yet: %s", error)
                await asyncio.sleep(RETRY_S)

    async def start(self) -> int:
        """Open the ledger if it is not open yet, and return its epoch.

        Raises:
            LedgerUnavailable: the database is away; it is tried again with the next call.
        """
        if self._ledger is None:
            if self._opening is None or self._opening.done():
                self._opening = asyncio.create_task(self._open())
            await asyncio.shield(self._opening)
        assert self._ledger is not None
        return self._ledger.epoch

    async def _open(self) -> None:
        ledger = await Ledger.open(self._database, self._settings, shard=self._shard)
        self._writer = Writer(ledger)
        self._loops = [
            asyncio.create_task(self._writer.keep_writing()),
            asyncio.create_task(self._keep(self._writer.sweep, self._settings.sweep_s)),
            asyncio.create_task(self._keep(ledger.refresh, self._settings.refresh_s)),
        ]
        if self._redis is not None:
            self._counters = Counters(ledger, self._redis, self._roas_settings)
            self._loops.append(asyncio.create_task(self._counters.keep_counting()))
        self._ledger = ledger
        logger.info("shard %d is open in epoch %d", self._shard, ledger.epoch)

    async def identity(self) -> Identity:
        """What it runs with; answered without the database."""
        return self._identity

    # The replicas' way

    async def beat(self, beat: Beat) -> Reply:
        return await self._write(lambda writer: writer.beat(beat))

    async def release(self, reservation_ids: Sequence[str]) -> int:
        return await self._write(lambda writer: writer.run(lambda: self._book.release(reservation_ids)))

    async def record(self, events: Sequence[Event]) -> list[Result]:
        return await self._write(lambda writer: writer.record(events))

    # Administration

    async def put_brand(self, brand_id: str, settings: BrandSettings) -> dict[str, Any]:
        return await self._write(lambda writer: writer.run(lambda: self._book.put_brand(brand_id, settings)))

    async def get_brand(self, brand_id: str) -> dict[str, Any]:
        await self.start()
        return await self._book.get_brand(brand_id)

    async def list_brands(self, cursor: str | None = None, limit: int = 100) -> tuple[list[dict[str, Any]], str | None]:
        await self.start()
        return await self._book.list_brands(cursor, limit)

    async def put_portfolio(self, portfolio_id: str, settings: PortfolioSettings) -> dict[str, Any]:
        return await self._write(lambda writer: writer.run(lambda: self._book.put_portfolio(portfolio_id, settings)))

    async def get_portfolio(self, portfolio_id: str) -> dict[str, Any]:
        await self.start()
        return await self._book.get_portfolio(portfolio_id)

    async def slot_roas(
        self, brand_id: str, days: dict[int, DaySums], window_days: int, today_fraction: float
    ) -> float:
        """The ROAS of a part of a brand, by the measure of `brand_roas_current`; NaN while it is not known."""
        await self.start()
        if self._counters is None:
            return math.nan
        return self._counters.slot_roas(brand_id, days, window_days, today_fraction)

    async def close(self) -> None:
        """End the loops and let go of database and Redis. Nothing is lost without it."""
        going = {self._booting, *self._loops}
        while going:
            # Again if need be: a client library may take a cancellation for a time-out of its own and go on.
            for task in going:
                task.cancel()
            _, going = await asyncio.wait(going, timeout=STOP_S)
        if self._redis is not None:
            await self._redis.aclose()
        await self._database.close()

    @property
    def _book(self) -> Ledger:
        assert self._ledger is not None
        return self._ledger

    async def _write(self, work: Callable[[Writer], Awaitable[T]]) -> T:
        await self.start()
        assert self._writer is not None
        try:
            return await work(self._writer)
        except Fenced as error:
            self._leave(error)
            raise LedgerUnavailable("a newer ledger has taken over") from error

    async def _keep(self, work: Callable[[], Awaitable[Any]], every_s: float) -> None:
        """Again and again, whatever happens."""
        while True:
            try:
                await work()
            except Fenced as error:
                self._leave(error)
            except LedgerUnavailable as error:
                logger.warning("%s", error)
                await asyncio.sleep(RETRY_S)
            except Exception:
                logger.exception("a turn failed")
            await asyncio.sleep(every_s)

    def _leave(self, error: Fenced) -> None:
        """Another ledger writes now. Ray starts this one again, in an epoch of its own."""
        logger.error("%s: leaving", error)
        asyncio.get_running_loop().call_later(RETRY_S, os._exit, 1)


def connect(
    database: DatabaseSettings,
    redis_url: str | None,
    ledger_settings: LedgerSettings | None = None,
    roas_settings: RoasSettings | None = None,
    shard: int = 0,
    decided_at: float | None = None,
) -> Any:
    """The handle of a shard's ledger; makes the actor where there is none. Ray must be initialised.

    An actor that runs with other settings gives way if they are older. Every replica may call this at once.

    Args:
        decided_at: when these settings were decided, in seconds since 1970; else when this process began. In a rolling
            deployment the replicas with the old settings began before those with the new ones, and follow them.

    Raises:
        LedgerUnavailable: there is an actor, but it does not answer yet, or is just being removed; try again.
    """
    import ray  # here: Ray reads its environment on import, and a supervisor imports this package before it has set it
    from ray.exceptions import GetTimeoutError, RayActorError

    settings = database, redis_url, ledger_settings or LedgerSettings(), roas_settings or RoasSettings(), shard
    wanted = Identity(digest_of(*settings), BORN_AT if decided_at is None else decided_at)
    actor: Any = ray.remote(LedgerActor).options(
        name=f"paceline-ledger-{shard}",
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=0,  # a repeated call is the caller's decision: it has the ids that make it harmless
        num_cpus=0,
        max_concurrency=1000,
    )

    def meet() -> tuple[Any, Identity]:
        try:
            handle = actor.remote(*settings, wanted.decided_at)
            return handle, ray.get(handle.identity.remote(), timeout=IDENTITY_S)
        except (RayActorError, ValueError) as error:  # ValueError: the name is not free yet
            raise LedgerUnavailable(str(error).splitlines()[0]) from None

    try:
        return agree(wanted, meet, lambda handle: ray.kill(handle, no_restart=True))
    except GetTimeoutError:
        raise LedgerUnavailable("its actor does not answer") from None


def agree(
    wanted: Identity,
    meet: Callable[[], tuple[Handle, Identity]],
    kill: Callable[[Handle], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Handle:
    """The actor with the wanted settings, or with newer ones; an older one is killed, and the epoch fences it.

    Killing goes by the actor, never by its name: two replicas that met the same old one cannot hit its successor.

    Args:
        meet: finds the actor by its name, or makes it with the wanted settings.

    Raises:
        LedgerUnavailable: there was none to meet, for as long as it was tried.
    """
    for tries_left in reversed(range(CONNECT_TRIES)):
        try:
            handle, found = meet()
        except LedgerUnavailable:
            if not tries_left:
                raise
        else:
            if found.digest == wanted.digest or found.decided_at >= wanted.decided_at:
                return handle
            logger.warning("the ledger runs with older settings: replacing it")
            kill(handle)
        sleep(CONNECT_RETRY_S)
    raise LedgerUnavailable("an actor with older settings is still being removed")


def digest_of(
    database: DatabaseSettings,
    redis_url: str | None,
    ledger_settings: LedgerSettings,
    roas_settings: RoasSettings,
    shard: int,
) -> str:
    """Equal for equal settings."""
    parts = (database.model_dump_json(), redis_url, ledger_settings.model_dump_json(), roas_settings.model_dump_json())
    return hashlib.sha256(repr((*parts, shard)).encode()).hexdigest()
