"""A shard's ledger as a named detached Ray actor, which every replica calls."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import math
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from redis.asyncio import Redis
from sqlalchemy.exc import SQLAlchemyError

from db.brands import BrandSettings, PortfolioSettings
from db.errors import in_a_line
from db.outage import Outage
from db.session import Database
from db.settings import DatabaseSettings
from ledger.bidding.revenue_completion import DaySums
from ledger.domain.errors import Fenced, LayoutReplaced, LedgerUnavailable
from ledger.domain.messages import Change, Event, Release, Reply, Result
from ledger.domain.settings import LedgerSettings, RoasSettings
from ledger.former_names import pickled_as
from ledger.runtime.beat_format import unpack_beat
from ledger.runtime.generations import Identity, digest_of, has_successor
from ledger.runtime.protocol import LedgerCalls
from ledger.runtime.wakeup import Wakeup
from ledger.service.administration import Administration
from ledger.service.controller_loop import ControllerLoop
from ledger.service.lambda_history import LOOK_S, LambdaHistory
from ledger.service.ledger import Ledger
from ledger.service.roas_counters import RoasCounters
from ledger.service.write_queue import WriteQueue

logger = logging.getLogger("paceline.ledger")
T = TypeVar("T")
RETRY_S = 0.5
STOP_S = 0.5
REDIS_S = 5.0
LINGER_S = 10.0
"""How long a ledger of a replaced number of shards stays and answers so: its replicas would only start it again."""


@pickled_as("ledger.actor")
class LedgerActor:
    """A shard's ledger. It may be killed at any time: what it has answered is in the database.

    After a crash Ray calls the constructor again, on the event loop, with the same settings; the ledger then takes the
    next epoch, unless a younger generation exists. It answers `LedgerCalls`; all writes go through one `WriteQueue`.
    Its functions, private ones too, keep their names for one version, because Ray sends the class with their names.

    Args:
        decided_at: when the settings were decided, in seconds since 1970.
        generation: its number in its shard (`generations.py`); 0: it does not look for a younger one.
    """

    def __init__(
        self,
        database: DatabaseSettings,
        redis_url: str | None,
        ledger_settings: LedgerSettings,
        roas_settings: RoasSettings,
        shard: int = 0,
        decided_at: float = 0.0,
        generation: int = 0,
    ) -> None:
        digest = digest_of(database, redis_url, ledger_settings, roas_settings, shard)
        self._identity = Identity(digest, decided_at)
        self._database = Database(database)
        self._redis = None
        if redis_url is not None:
            self._redis = Redis.from_url(redis_url, socket_timeout=REDIS_S, socket_connect_timeout=REDIS_S)
        self._settings, self._roas_settings, self._shard = ledger_settings, roas_settings, shard
        self._generation = generation
        self._stepping_down: asyncio.Task[None] | None = None
        self._wakeup = Wakeup()
        self._ledger: Ledger | None = None
        self._writer: WriteQueue | None = None
        self._counters: RoasCounters | None = None
        self._controller_loop: ControllerLoop | None = None
        self._opening: asyncio.Task[None] | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._booting = asyncio.get_running_loop().create_task(self._boot())

    async def _boot(self) -> None:
        """Open without being called, so that holds expire even while nobody calls."""
        outage = Outage(logger)
        while self._ledger is None:
            try:
                await self.start()
            except Exception as error:
                if self._stepping_down is not None:
                    return
                expected = isinstance(error, LedgerUnavailable)
                reason = error.reason if isinstance(error, LedgerUnavailable) else in_a_line(error)
                line = f"ledger of shard {self._shard} cannot open, retrying every {RETRY_S:g} s: {reason}"
                outage.failed(line, error=None if expected else error)
                await asyncio.sleep(RETRY_S)

    async def start(self) -> int:
        """Open the ledger if it is not open yet, and return its epoch.

        Raises:
            LedgerUnavailable: the database does not answer (the next call tries again), or a younger generation has
                taken over.
        """
        if self._stepping_down is not None:
            raise _taken_over(self._shard)
        if self._ledger is None:
            if self._opening is None or self._opening.done():
                self._opening = asyncio.create_task(self._open())
            await asyncio.shield(self._opening)
        assert self._ledger is not None
        return self._ledger.epoch

    async def _open(self) -> None:
        try:
            if await self._has_successor():
                raise Fenced(self._shard, 0, 0)
            ledger = await Ledger.open(
                self._database, self._settings, shard=self._shard, decided_at=self._identity.decided_at
            )
        except Fenced as error:
            self._leave(error)
            raise _taken_over(self._shard) from error
        self._writer = WriteQueue(ledger)
        self._loops = [
            asyncio.create_task(self._writer.keep_writing()),
            asyncio.create_task(self._keep(self._writer.sweep, self._settings.sweep_s)),
            asyncio.create_task(self._keep(ledger.refresh, self._settings.refresh_s)),
            asyncio.create_task(self._keep(ledger.check_epoch, self._settings.refresh_s)),
            asyncio.create_task(self._keep(LambdaHistory(ledger, self._database).look, LOOK_S)),
        ]
        if self._redis is not None:
            self._counters = RoasCounters(ledger, self._redis, self._roas_settings)
            self._controller_loop = ControllerLoop(ledger, self._roas_settings, self._counters.completed_today)
            self._counters.frozen = lambda: self._controller_loop.frozen if self._controller_loop else {}
            self._loops += [
                asyncio.create_task(self._counters.keep_counting()),
                asyncio.create_task(self._controller_loop.keep_steering()),
            ]
        self._ledger = ledger
        logger.info("ledger of shard %d is open in epoch %d", self._shard, ledger.epoch)

    # `LedgerCalls`

    async def identity(self) -> Identity:
        return self._identity

    async def beat(self, packed: bytes) -> Reply:
        beat = unpack_beat(packed)
        reply = await self._write(lambda writer: writer.beat(beat))
        if self._controller_loop is not None:
            self._controller_loop.observe(beat.seen)
        return reply

    async def listen(self, replica: str) -> bool:
        return await self._wakeup.listen(replica)

    async def summon(self, seconds: float, replica: str) -> None:
        await self._wakeup.others_within(seconds, replica)

    async def end_sessions(self, since: dt.datetime) -> int:
        return await self._write(lambda writer: writer.run(lambda: self._opened.end_sessions(since)))

    async def release(self, reservation_ids: Sequence[str] | Release) -> int | dict[str, str]:
        if isinstance(reservation_ids, Release):
            asked = reservation_ids
            return await self._write(lambda writer: writer.run(lambda: self._opened.give_back(asked)))
        return await self._write(lambda writer: writer.run(lambda: self._opened.release(reservation_ids)))

    async def record(self, events: Sequence[Event]) -> list[Result]:
        return await self._write(lambda writer: writer.record(events))

    async def put_brand(self, brand_id: str, settings: BrandSettings | Change) -> dict[str, Any]:
        return await self._write(lambda writer: writer.run(lambda: self._administration.put_brand(brand_id, settings)))

    async def get_brand(self, brand_id: str) -> dict[str, Any]:
        await self.start()
        return await self._administration.get_brand(brand_id)

    async def list_brands(self, cursor: str | None = None, limit: int = 100) -> tuple[list[dict[str, Any]], str | None]:
        await self.start()
        return await self._administration.list_brands(cursor, limit)

    async def put_portfolio(self, portfolio_id: str, settings: PortfolioSettings | Change) -> dict[str, Any]:
        return await self._write(
            lambda writer: writer.run(lambda: self._administration.put_portfolio(portfolio_id, settings))
        )

    async def get_portfolio(self, portfolio_id: str) -> dict[str, Any]:
        await self.start()
        return await self._administration.get_portfolio(portfolio_id)

    async def slot_roas(
        self, brand_id: str, days: Mapping[int, DaySums], window_days: int, today_fraction: float
    ) -> float:
        await self.start()
        if self._counters is None:
            return math.nan
        return self._counters.slot_roas(brand_id, days, window_days, today_fraction)

    async def close(self) -> None:
        """Stop the background tasks and close database and Redis. Nothing is lost without it."""
        going = {self._booting, *self._loops}
        while going:
            # Repeated, because a client library may take a cancellation for a timeout of its own and go on.
            for task in going:
                task.cancel()
            _, going = await asyncio.wait(going, timeout=STOP_S)
        if self._redis is not None:
            await self._redis.aclose()
        await self._database.close()

    @property
    def _opened(self) -> Ledger:
        assert self._ledger is not None
        return self._ledger

    @property
    def _administration(self) -> Administration:
        return self._opened.administration

    async def _write(self, work: Callable[[WriteQueue], Awaitable[T]]) -> T:
        await self.start()
        assert self._writer is not None
        try:
            return await work(self._writer)
        except Fenced as error:
            self._leave(error)
            raise _taken_over(self._shard) from error

    async def _keep(self, work: Callable[[], Awaitable[Any]], every_s: float) -> None:
        """Call `work` every so many seconds until cancelled, whatever it raises."""
        task = f"shard {self._shard}: background task {getattr(work, '__qualname__', work)}"
        outage = Outage(logger, f"{task} works again")
        while True:
            try:
                await work()
                outage.ended()
            except Fenced as error:
                self._leave(error)
            except (LedgerUnavailable, SQLAlchemyError, OSError) as error:
                reason = error.reason if isinstance(error, LedgerUnavailable) else in_a_line(error)
                outage.failed(f"{task} waits for the database, retrying in {RETRY_S + every_s:g} s: {reason}")
                await asyncio.sleep(RETRY_S)
            except Exception as error:
                outage.failed(f"{task} failed, retrying in {every_s:g} s", logging.ERROR, error)
            await asyncio.sleep(every_s)

    def _leave(self, error: Fenced) -> None:
        """End this process, because another ledger writes now. Ray starts it again unless a younger generation exists.

        So the youngest generation always stays; else two ledgers could fence each other for ever.
        """
        if self._stepping_down is None:
            logger.error("%s; this process ends", error)
            self._stepping_down = asyncio.get_running_loop().create_task(self._go(error))

    async def _go(self, error: Fenced) -> None:
        for_good = isinstance(error, LayoutReplaced)
        await asyncio.sleep(LINGER_S if for_good else RETRY_S)  # answers are still being sent
        try:
            if for_good or await self._has_successor():
                await asyncio.to_thread(_end_for_good)
                await asyncio.sleep(STOP_S)
        finally:
            os._exit(1)

    async def _has_successor(self) -> bool:
        if self._generation == 0:
            return False
        return await asyncio.to_thread(has_successor, self._shard, self._generation)


_LEDGER_CALLS: type[LedgerCalls] = LedgerActor
"""Lets mypy check that the actor implements every call with the declared arguments and answers."""


def _taken_over(shard: int) -> LedgerUnavailable:
    return LedgerUnavailable(f"a newer ledger of shard {shard} has taken over; try again")


def _end_for_good() -> None:
    """Kill this actor by Ray's API, which frees its name and does not start it again."""
    import ray

    ray.kill(ray.get_runtime_context().current_actor, no_restart=True)
