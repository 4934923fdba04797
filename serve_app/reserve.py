"""The ingress replica's side of the ledger: terms in memory, claims in groups, nothing won without it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ray.exceptions import RayError, RayTaskError

from ledger import Award, Claim, LedgerError, LedgerUnavailable, Terms
from serve_app.coalesce import CallLost, Coalescer

logger = logging.getLogger("paceline.reserve")
T = TypeVar("T")
OFFERS_PER_CALL = 20_000
OFFERS_AT_FIRST = 8
RETRY_S, LATE_S = 0.1, 10.0


def no_lease(claim: Claim) -> Award:
    """What a request gets when the ledger does not answer in time."""
    return Award(wins=(), refused={offer.bid_id: "no_lease" for offer in claim.offers})


class LedgerClient:
    """Calls to the ledger actor. `connect` gives its handle, and makes the actor where there is none."""

    def __init__(self, connect: Callable[[], Any], terms_poll_s: float) -> None:
        self._connect, self._terms_poll_s = connect, terms_poll_s
        self._handle: Any = None
        self.terms = Terms(version=-1, brands={})
        self._claims: Coalescer[tuple[Claim, float], Award] = Coalescer(
            self._reserve,
            lambda waiting: len(waiting[0].offers),
            OFFERS_PER_CALL,
            in_flight=2,
            abandoned=self._give_back,
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
        except RayTaskError as error:  # it is a LedgerError too, but its text is the remote traceback
            cause = getattr(error, "cause", None)
            if isinstance(cause, LedgerError):
                raise cause from None
            logger.exception("the ledger failed")
            raise LedgerUnavailable("it failed; its log has the reason") from None
        except (RayError, ValueError) as error:  # dead, restarting or unreachable; ValueError: no such actor yet
            self._handle = None
            reason = (str(error) or repr(error)).splitlines()[0]
            logger.warning("the ledger is not there: %s", reason)
            raise LedgerUnavailable(reason) from None

    async def call_within(self, seconds: float, method: str, *args: Any, grace_s: float = 0.0) -> Any:
        """A call that may be repeated without harm, tried again while the ledger restarts.

        Args:
            seconds: after these nothing new is tried.
            grace_s: a call on its way is awaited that much longer.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                async with asyncio.timeout(max(0.0, end - time.monotonic()) + grace_s):
                    return await self.call(method, *args)
            except TimeoutError:
                raise LedgerUnavailable("the ledger did not answer in time") from None
            except LedgerUnavailable:
                if time.monotonic() + RETRY_S > end:
                    raise
                await asyncio.sleep(RETRY_S)

    async def reserve(self, claim: Claim) -> Award:
        """The claim's award. When the ledger is silent until the claim has expired, nothing is won.

        One winner is mostly among the first few offers: the rest travels only if none of them could be held. Several
        winners are decided in one go, because a second claim of a request only repeats what its first has won.
        """
        step = OFFERS_AT_FIRST if claim.winners == 1 else max(len(claim.offers), 1)
        until = time.monotonic() + claim.within_s
        refused: dict[str, str] = {}
        for start in range(0, len(claim.offers), step):
            part = replace(claim, offers=claim.offers[start : start + step], within_s=until - time.monotonic())
            award = await self._reserve_part(part)
            refused |= award.refused
            if award.wins or award.repeated or award.conflict:
                return replace(award, refused=refused)
        return Award(wins=(), refused=refused)

    async def _reserve_part(self, claim: Claim) -> Award:
        if claim.within_s <= 0:
            return no_lease(claim)
        try:
            async with asyncio.timeout(claim.within_s):
                return await self._claims.submit((claim, time.monotonic() + claim.within_s))
        except (TimeoutError, LedgerUnavailable, CallLost):
            return no_lease(claim)

    async def _reserve(self, waiting: Sequence[tuple[Claim, float]]) -> Sequence[Award]:
        # Repeating a claim is harmless: the ledger answers a recorded request with its first record.
        now = time.monotonic()
        claims = [replace(claim, within_s=until - now) for claim, until in waiting]
        longest = max(claim.within_s for claim in claims)
        # The call outlives its askers, each of which keeps its own time: what it still brings is given back.
        awards: Sequence[Award] = await self.call_within(max(longest, 0.0), "reserve", claims, grace_s=LATE_S)
        return awards

    def _give_back(self, _waiting: tuple[Claim, float], award: Award) -> None:
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
        except (LedgerError, TimeoutError) as error:
            logger.warning("the terms are those of before: %s", str(error) or repr(error))

    async def keep_terms(self) -> None:
        """Refresh for ever."""
        while True:
            try:
                await self.refresh_terms()
            except Exception:
                logger.exception("terms could not be refreshed")
            await asyncio.sleep(self._terms_poll_s)
