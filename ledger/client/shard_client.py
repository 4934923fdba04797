"""One shard's ledger, as a replica calls it: single calls, the beats, and the leases that their replies bring."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from ray.exceptions import RayError, RayTaskError

from db.errors import in_a_line
from db.outage import Outage
from ledger.bidding.demand import Demand
from ledger.client.lease_cache import LeaseCache
from ledger.domain.errors import LedgerError, LedgerUnavailable, OtherShard
from ledger.domain.messages import Beat, BrandTerms, Reply
from ledger.domain.reservation import Lifetimes
from ledger.domain.settings import LedgerSettings
from ledger.runtime.beat_format import pack_beat
from ledger.runtime.protocol import Call, LedgerCalls, remote
from ledger.runtime.wakeup import LISTEN_S

P = ParamSpec("P")
T = TypeVar("T")
logger = logging.getLogger("paceline.reserve")
RETRY_S = 0.1
BEAT_S = 10.0
"""A beat that is not answered within this time is given up; the next one states everything again."""

LISTEN_AGAIN_S = 1.0

Connect = Callable[[], Any]
"""Returns the handle of the shard's ledger, which is started if it does not run. Blocks."""


class ShardClient:
    """One shard's ledger, and this replica's leases of it.

    Args:
        connect: see `Connect`.
        replace: blocking: replaces a silent ledger by its next generation, and returns the handle of that.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        connect: Connect,
        settings: LedgerSettings,
        replace: Callable[[], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
        shard: int = 0,
    ) -> None:
        self._connect, self._replace, self._settings, self._clock = connect, replace, settings, clock
        self._shard = shard
        self._outage = Outage(logger, f"ledger shard {shard} answers again")
        self._bug = Outage(logger)  # never ended: a traceback a minute is enough
        self.leases = LeaseCache(Lifetimes(settings.reservation_ttl_s, settings.conversion_days))
        self.on_terms: Callable[[Mapping[str, BrandTerms]], None] = lambda _: None
        self.seen = Demand()
        self._handle: Any = None
        self._connecting: asyncio.Task[Any] | None = None
        self._urgent = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []  # for a beat that has not begun
        self._answering: list[asyncio.Future[None]] = []  # for the one under way
        self._beating = asyncio.Lock()
        self._is_away = True
        self._is_closed = False
        self._name = os.urandom(8).hex()

    async def call(self, call: Call[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the ledger once.

        Args:
            call: a function of `LedgerCalls`.

        Raises:
            LedgerError: the ledger declined.
            LedgerUnavailable: it is unreachable, has no database, or failed.
        """
        try:
            if self._handle is None:
                self._handle = await self._connected()
            return await remote(self._handle, call, *args, **kwargs)
        except RayTaskError as error:  # it is a LedgerError too, but its text is the remote traceback
            cause = getattr(error, "cause", None)
            if isinstance(cause, LedgerError):
                raise cause from None
            logger.exception("ledger shard %d failed in %s, the caller gets an error", self._shard, call.__name__)
            raise LedgerUnavailable(f"shard {self._shard} failed in {call.__name__}; the log has the reason") from None
        except (RayError, ValueError) as error:  # dead, restarting or unreachable; ValueError: no such actor yet
            self._handle = None
            reason = in_a_line(error)
            self._outage.failed(f"ledger shard {self._shard} unreachable, connecting again until it answers: {reason}")
            raise LedgerUnavailable(f"shard {self._shard} unreachable: {reason}") from None

    async def _connected(self) -> Any:
        """Connect; callers at the same time share one attempt."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(asyncio.to_thread(self._connect))
            self._connecting.add_done_callback(self._forget_attempt)
        return await asyncio.shield(self._connecting)

    def _forget_attempt(self, attempt: asyncio.Task[Any]) -> None:
        self._connecting = None
        if not attempt.cancelled():
            attempt.exception()  # every waiter has got it; this keeps asyncio from logging it once more

    async def call_within(self, seconds: float, call: Call[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the ledger, again and again for up to `seconds` while it restarts. `call` must be safe to repeat.

        Raises: as `call`; LedgerUnavailable also if there was no answer in time.
        """
        end = self._clock() + seconds
        while True:
            try:
                async with asyncio.timeout(max(0.0, end - self._clock())):
                    return await self.call(call, *args, **kwargs)
            except TimeoutError:
                raise LedgerUnavailable(f"shard {self._shard} did not answer within {seconds:g} s") from None
            except OtherShard:
                raise
            except LedgerUnavailable:
                if self._clock() + RETRY_S > end:
                    raise
                await asyncio.sleep(RETRY_S)

    # Beats

    @property
    def is_reachable(self) -> bool:
        """Whether the last beat was answered. If not, requests do not wait for leases."""
        return not self._is_away

    async def next_beat(self) -> None:
        """Wait for the end of a beat that begins after this call; after the last one return at once."""
        if self._is_closed:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._urgent.set()
        await done

    async def summon(self, seconds: float) -> None:
        """Have every replica, this one too, beat to this shard now. Waits up to `seconds` for the others' beats."""
        await asyncio.gather(self.next_beat(), self._summon_others(seconds))

    async def _summon_others(self, seconds: float) -> None:
        with contextlib.suppress(LedgerError):
            await self.call(LedgerCalls.summon, seconds, self._name)

    async def keep_beating(self) -> None:
        """Beat every `beat_s` seconds, or sooner when asked, until the last beat has been sent."""
        while not self._is_closed:
            try:
                async with asyncio.timeout(self.leases.until_next(self._settings.beat_s, self._clock())):
                    await self._urgent.wait()
            except TimeoutError:
                pass
            await self.beat()
            if self._is_away:
                await asyncio.sleep(RETRY_S)

    async def keep_listening(self) -> None:
        """Beat whenever the ledger asks for it, until the last beat has been sent."""
        while not self._is_closed:
            try:
                async with asyncio.timeout(LISTEN_S + BEAT_S):
                    is_called = await self.call(LedgerCalls.listen, self._name)
            except (LedgerError, TimeoutError):
                await asyncio.sleep(LISTEN_AGAIN_S)  # the beats reconnect meanwhile
                continue
            if is_called:
                await self.next_beat()

    async def beat(self, is_last: bool = False) -> None:
        """Send one beat, or the few that open a session. Errors are logged, once a minute. After the last: no more."""
        async with self._beating:
            if self._is_closed and not is_last:
                return
            self._is_closed = is_last
            self._urgent.clear()
            self._answering, self._waiting = self._waiting, []
            if is_last and not self.leases.is_open and not self.leases.has_old_session:
                self._release_waiting()
                return  # no lease to return
            try:
                await self._beat(is_last)
                while not is_last and not self.leases.is_open:
                    await self._beat()
            except (LedgerError, TimeoutError) as error:
                reason = error.reason if isinstance(error, LedgerUnavailable) else in_a_line(error)
                self._outage.failed(f"ledger shard {self._shard} did not answer a beat, sending another: {reason}")
                self._is_away = True
            except Exception as error:
                line = f"ledger shard {self._shard}: a beat could not be sent or its answer not used, sending another"
                self._bug.failed(line, logging.ERROR, error)
                self._is_away = True
            else:
                self._outage.ended()
                self._is_away = False
            finally:
                self._release_waiting()

    def _release_waiting(self) -> None:
        """Let those who wait for this beat go on."""
        held, self._answering = self._answering, []
        for done in held:
            if not done.done():
                done.set_result(None)

    async def _beat(self, is_last: bool = False) -> None:
        beat = self.leases.beat(self._clock(), self.seen.take(), is_last)
        asked_s = self._clock()
        try:
            reply = await self._answer(beat)
        except BaseException:
            self.leases.failed(beat)
            raise
        self.leases.heard(beat, reply, asked_s, self._clock())
        if reply.terms is not None:
            self.on_terms(reply.terms.brands)

    async def _answer(self, beat: Beat) -> Reply:
        """The beat's reply. While it takes long, ask for the ledger's identity; if that is not answered, either, for
        `silence_s`, replace the ledger.

        Raises:
            LedgerUnavailable, TimeoutError: no reply; the beat may have arrived all the same.
        """
        call = asyncio.ensure_future(self.call(LedgerCalls.beat, pack_beat(beat)))
        try:
            heard_s = began_s = self._clock()
            while not call.done():
                now_s = self._clock()
                if now_s - began_s > BEAT_S:
                    raise LedgerUnavailable(f"shard {self._shard} did not answer within {BEAT_S:g} s")
                if self._handle is None:
                    heard_s = now_s  # still connecting: a ledger that starts is not silent
                if now_s - heard_s > self._settings.silence_s and self._replace is not None:
                    silent_s = now_s - heard_s
                    logger.error("ledger shard %d has been silent for %.0f s, replacing it", self._shard, silent_s)
                    self._handle = await asyncio.to_thread(self._replace)
                    raise LedgerUnavailable(f"shard {self._shard} was silent and has been replaced")
                await asyncio.wait([call], timeout=self._settings.silence_s / 3)
                if call.done() or self._handle is None:
                    continue
                if await self._is_alive():
                    heard_s = self._clock()
                elif not call.done():
                    self._is_away = True  # so that requests do not wait until it is replaced
                    self._release_waiting()
            return await call
        finally:
            call.cancel()

    async def _is_alive(self) -> bool:
        try:
            async with asyncio.timeout(self._settings.silence_s / 3):
                await self.call(LedgerCalls.identity)
        except (LedgerError, TimeoutError):
            return False
        return True
