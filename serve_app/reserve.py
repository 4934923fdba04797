"""The ingress replica's side of the ledger: terms in memory, claims in groups, nothing won without it."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ray.exceptions import RayActorError, RayTaskError

from ledger import Award, Claim, LedgerError, LedgerUnavailable, Terms
from serve_app.coalesce import Coalescer

logger = logging.getLogger("paceline.reserve")
T = TypeVar("T")
OFFERS_PER_CALL = 20_000
RETRY_S = 0.1


def no_lease(claim: Claim) -> Award:
    """What a request gets when the ledger does not answer in time."""
    return Award(wins=(), refused={offer.bid_id: "no_lease" for offer in claim.offers})


class LedgerClient:
    """Calls to the ledger actor. `connect` gives its handle, and makes the actor where there is none."""

    def __init__(self, connect: Callable[[], Any], terms_poll_s: float) -> None:
        self._connect, self._terms_poll_s = connect, terms_poll_s
        self._handle: Any = None
        self.terms = Terms(version=-1, brands={})
        self._claims: Coalescer[Claim, Award] = Coalescer(
            self._reserve, lambda claim: len(claim.offers), OFFERS_PER_CALL, in_flight=1, abandoned=self._give_back
        )
        self._background: set[asyncio.Task[None]] = set()

    async def call(self, method: str, *args: Any) -> Any:
        """One call to the ledger.

        Raises:
            LedgerError: it declined, or (LedgerUnavailable) there is none.
        """
        try:
            if self._handle is None:
                self._handle = await asyncio.to_thread(self._connect)
            return await getattr(self._handle, method).remote(*args)
        except RayTaskError as error:
            cause = error.cause if isinstance(getattr(error, "cause", None), Exception) else error
            if isinstance(cause, LedgerError):
                raise cause from None
            raise
        except (RayActorError, ValueError) as error:  # dead, restarting or unreachable; ValueError: no such actor yet
            self._handle = None
            logger.warning("the ledger is not there: %s", str(error).splitlines()[0])
            raise LedgerUnavailable("the ledger is not available; try again") from None

    async def call_within(self, seconds: float, method: str, *args: Any) -> Any:
        """A call that may be repeated without harm, tried again while the ledger restarts."""
        end = time.monotonic() + seconds
        while True:
            try:
                async with asyncio.timeout(max(0.0, end - time.monotonic())):
                    return await self.call(method, *args)
            except TimeoutError:
                raise LedgerUnavailable("the ledger did not answer in time") from None
            except LedgerUnavailable:
                if time.monotonic() + RETRY_S > end:
                    raise
                await asyncio.sleep(RETRY_S)

    async def reserve(self, claim: Claim) -> Award:
        """The claim's award. When the ledger is silent until the claim has expired, nothing is won."""
        left = (claim.expires_at - dt.datetime.now(dt.UTC)).total_seconds()
        if not claim.offers:
            return Award(wins=(), refused={})
        if left <= 0:
            return no_lease(claim)
        try:
            async with asyncio.timeout(left):
                return await self._claims.submit(claim)
        except (TimeoutError, LedgerUnavailable):
            return no_lease(claim)

    async def _reserve(self, claims: Sequence[Claim]) -> Sequence[Award]:
        # Repeating a claim is harmless: the ledger answers a recorded request with its first record.
        last = max(claim.expires_at for claim in claims)
        left = (last - dt.datetime.now(dt.UTC)).total_seconds()
        awards: Sequence[Award] = await self.call_within(max(left, 0.0), "reserve", list(claims))
        return awards

    def _give_back(self, _claim: Claim, award: Award) -> None:
        """The asker has been told `no_lease`; what was reserved for it goes back."""
        if award.wins and not award.repeated:
            self.release([win.reservation_id for win in award.wins])

    def release(self, reservation_ids: Sequence[str]) -> None:
        self._spawn(self._release(list(reservation_ids)))

    async def _release(self, reservation_ids: list[str]) -> None:
        try:
            await self.call_within(30.0, "release", reservation_ids)
        except LedgerError as error:
            logger.warning("%d reservations stay until they expire: %s", len(reservation_ids), error)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def refresh_terms(self) -> None:
        """Ask once; keeps what it has when the ledger is silent."""
        try:
            async with asyncio.timeout(5.0):
                terms = await self.call("terms", self.terms.version)
            if terms is not None:
                self.terms = terms
        except (LedgerUnavailable, TimeoutError):
            pass

    async def keep_terms(self) -> None:
        """Refresh for ever. A new ledger may count its versions from the start, so any other version is news."""
        while True:
            try:
                await self.refresh_terms()
            except Exception:
                logger.exception("terms could not be refreshed")
            await asyncio.sleep(self._terms_poll_s)
