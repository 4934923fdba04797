"""What the routes use of the ledger: draws wins from leases in memory, and calls the shards that own a brand.

`LedgerClient` has a `ShardClient` for each shard, with this replica's `LeaseCache` of it. A request waits for a ledger
only when a bid that would win has no lease yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from db.brands import BrandSettings, PortfolioSettings
from ledger.bidding.demand import Opportunity
from ledger.bidding.revenue_completion import DaySums
from ledger.client.lease_cache import NO_LEASE
from ledger.client.shard_client import BEAT_S, ShardClient, logger
from ledger.domain.errors import LedgerError, LedgerUnavailable, OtherShard
from ledger.domain.messages import Award, BrandTerms, Change, Claim, Event, Offer, Release, Result, Terms, Win
from ledger.domain.sharding import shard_of
from ledger.runtime.protocol import Call, LedgerCalls

P = ParamSpec("P")
T = TypeVar("T")
ASK_AT_FIRST = 8
"""Leases are asked for this many bids at once, then for twice as many each time…"""

FRUITLESS_MOST = 3
"""…until so many answers in a row helped none of them: other requests may have drawn the new leases first."""

COLD_WAIT_S = 0.25
"""How long a request that a lower bid could win waits for leases of better bids."""


class LedgerClient:
    """All shards of the ledger: terms in memory, wins from leases, calls to the shard that owns a brand."""

    def __init__(self, shards: Sequence[ShardClient]) -> None:
        self._shards = shards
        self.terms = Terms(version=-1, brands={})
        self._owner: dict[str, ShardClient] = {}
        self._nonce, self._awards = os.urandom(6).hex(), 0
        self._background: set[asyncio.Task[Any]] = set()
        for shard in shards:
            shard.on_terms = lambda changed, shard=shard: self._learn(shard, changed)  # type: ignore[misc]

    def _learn(self, shard: ShardClient, changed: Mapping[str, BrandTerms]) -> None:
        self._owner.update(dict.fromkeys(changed, shard))
        if len(self._shards) == 1:
            self.terms = shard.leases.terms
        elif all(one.leases.terms.version >= 0 for one in self._shards):
            for one in self._shards:  # a brand that has moved: its old shard's terms no longer have it
                for id_ in one.leases.terms.brands:
                    if id_ not in self._owner[id_].leases.terms.brands:
                        self._owner[id_] = one
            merged: dict[str, BrandTerms] = {}
            for one in self._shards:
                merged |= {id_: terms for id_, terms in one.leases.terms.brands.items() if self._owner[id_] is one}
            self.terms = Terms(max(self.terms.version + 1, 0), merged)

    # POST /api/score

    def reserve_now(self, claim: Claim) -> Award | None:
        """Draw the best offers that have a lease. None if a better offer lacks one: then call `reserve`."""
        now_s = time.monotonic()
        chosen, refused, missing = self._choose(claim, now_s)
        if missing and any(self._shard(offer).is_reachable for offer in missing):
            return None
        return self._award(claim, now_s, chosen, refused, missing)

    async def reserve(self, claim: Claim) -> Award:
        """As `reserve_now`, but asks the ledgers for missing leases first.

        Waits at most COLD_WAIT_S if a lower bid could win, else until the claim's deadline.
        """
        now_s = time.monotonic()
        until = now_s + claim.within_s
        patience, step, fruitless = min(until, now_s + COLD_WAIT_S), ASK_AT_FIRST, 0
        chosen, refused, missing = self._choose(claim, now_s)
        while fruitless < FRUITLESS_MOST:
            asked = [offer for offer in missing if self._shard(offer).is_reachable][:step]
            waits_s = (patience if chosen else until) - now_s
            if not asked or waits_s <= 0:
                break
            for offer in asked:
                self._shard(offer).leases.want(offer)
            await _within(waits_s, [shard.next_beat() for shard in {self._shard(offer) for offer in asked}])
            now_s = time.monotonic()
            helped = any(self._shard(offer).leases.refusal(offer, now_s) != NO_LEASE for offer in asked)
            fruitless = 0 if helped else fruitless + 1
            step *= 2
            chosen, refused, missing = self._choose(claim, now_s)
        if now_s >= until:  # the client no longer waits
            chosen, refused = [], refused | {offer.bid_id: NO_LEASE for offer in chosen}
        return self._award(claim, now_s, chosen, refused, missing)

    def _award(
        self, claim: Claim, now_s: float, chosen: list[Offer], refused: dict[str, str], missing: list[Offer]
    ) -> Award:
        for offer in missing:  # for the next requests
            self._shard(offer).leases.want(offer)
        return Award(self._draw(claim, chosen, now_s), refused)

    def _choose(self, claim: Claim, now_s: float) -> tuple[list[Offer], dict[str, str], list[Offer]]:
        """(offers that win now, by bid id why better ones do not, the offers among those that a lease would help)."""
        chosen: list[Offer] = []
        refused: dict[str, str] = {}
        missing: list[Offer] = []
        winners: set[str] = set()
        for offer in claim.offers:
            brand_id = offer.where.brand_id
            if brand_id in winners:
                continue
            reason = self._of(brand_id).leases.refusal(offer, now_s)
            if reason is None:
                chosen.append(offer)
                if len(chosen) >= claim.winners:
                    break
                winners.add(brand_id)
                continue
            refused[offer.bid_id] = reason
            if reason == NO_LEASE:
                missing.append(offer)
        return chosen, refused, missing

    def _draw(self, claim: Claim, chosen: Sequence[Offer], now_s: float) -> tuple[Win, ...]:
        if not chosen:
            return ()
        self._awards += 1
        award_id = f"{self._nonce}-{self._awards}"
        return tuple(self._shard(offer).leases.draw(claim, award_id, offer, now_s) for offer in chosen)

    def saw(self, opportunities: Sequence[Opportunity]) -> None:
        """Keep what a request could have won, for the next beat; λ is solved from it."""
        if len(self._shards) == 1:
            self._shards[0].seen.add(opportunities)
            return
        for shard, some in self._by_shard(opportunities, lambda one: one.brand_id).items():
            shard.seen.add(some)

    def _shard(self, offer: Offer) -> ShardClient:
        return self._of(offer.where.brand_id)

    def release(self, wins: Collection[tuple[str, str]]) -> None:
        """Release the holds of wins (brand id, reservation id) whose answer was not delivered, in the background."""
        self._spawn(self._release(wins))

    async def _release(self, wins: Collection[tuple[str, str]]) -> None:
        try:
            for shard, ids in self._by_shard(wins, lambda win: win[0]).items():
                await shard.next_beat()  # it records the wins: only recorded ones can be released
                await shard.call_within(30.0, LedgerCalls.release, [reservation_id for _, reservation_id in ids])
        except LedgerError as error:
            logger.warning("cannot release %d undelivered wins, their holds end when they expire: %s", len(wins), error)

    def _spawn(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # Beats and calls

    async def beat_within(self, seconds: float) -> None:
        """Beat to every shard now; return after so many seconds even if they have not answered."""
        await _within(seconds, [shard.next_beat() for shard in self._shards])

    async def summon_within(self, seconds: float) -> None:
        """Have all replicas beat to every shard now, as `beat_within` does for this one."""
        await _within(seconds, [shard.summon(seconds) for shard in self._shards])

    # Calls of the ledger (`LedgerCalls`), repeated for up to `seconds` while it restarts. Each raises LedgerError.

    async def get_brand(self, seconds: float, brand_id: str) -> dict[str, Any]:
        return await self._whose(self._of(brand_id), seconds, LedgerCalls.get_brand, brand_id)

    async def put_brand(self, seconds: float, brand_id: str, settings: BrandSettings | Change) -> dict[str, Any]:
        shard = self._owner.get(brand_id) or self._by_hash(settings.portfolio_id, brand_id)
        return await self._whose(shard, seconds, LedgerCalls.put_brand, brand_id, settings)

    async def give_back(
        self, seconds: float, reservation_ids: Sequence[str], partner_ids: frozenset[str] | None
    ) -> dict[str, str]:
        """What became of each reservation: released | ended | shown | not_found.

        Args:
            partner_ids: whose may be released; None: any.
        """
        asked = Release(tuple(reservation_ids), partner_ids)
        # An id does not tell its brand. Any shard can release it: it locks the brand's row.
        became = await self._shards[0].call_within(seconds, LedgerCalls.release, asked)
        if not isinstance(became, dict):
            raise LedgerUnavailable("the ledger is of the version before, which takes no release of a caller's")
        return became

    async def slot_roas(
        self, seconds: float, brand_id: str, days: Mapping[int, DaySums], window_days: int, today_fraction: float
    ) -> float:
        return await self._whose(
            self._of(brand_id), seconds, LedgerCalls.slot_roas, brand_id, days, window_days, today_fraction
        )

    async def get_portfolio(self, seconds: float, portfolio_id: str) -> dict[str, Any]:
        return await self._whose(self._by_hash(portfolio_id, ""), seconds, LedgerCalls.get_portfolio, portfolio_id)

    async def put_portfolio(
        self, seconds: float, portfolio_id: str, settings: PortfolioSettings | Change
    ) -> dict[str, Any]:
        return await self._whose(
            self._by_hash(portfolio_id, ""), seconds, LedgerCalls.put_portfolio, portfolio_id, settings
        )

    async def _whose(
        self, shard: ShardClient, seconds: float, call: Call[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a shard, and if it names another one, because the brand has just moved, call that."""
        try:
            return await shard.call_within(seconds, call, *args, **kwargs)
        except OtherShard as error:
            return await self._shards[error.shard].call_within(seconds, call, *args, **kwargs)

    async def list_brands(
        self, seconds: float, cursor: str | None, limit: int
    ) -> tuple[list[dict[str, Any]], str | None]:
        """A page of all shards' brands by their ids, and the cursor of the next page (None: that was the last)."""
        pages = await asyncio.gather(
            *(shard.call_within(seconds, LedgerCalls.list_brands, cursor, limit) for shard in self._shards)
        )
        brands = sorted((brand for page, _ in pages for brand in page), key=lambda brand: str(brand["brand_id"]))
        more = len(brands) > limit or any(next_cursor for _, next_cursor in pages)
        brands = brands[:limit]
        return brands, brands[-1]["brand_id"] if brands and more else None

    async def record(self, seconds: float, events: Sequence[Event]) -> list[Result]:
        """The events' results, in order. A batch that concerns several shards is several transactions."""
        results: dict[int, Result] = {}
        numbered = list(enumerate(events))
        for shard, items in self._by_shard(numbered, lambda item: item[1].brand_id).items():
            answers = await shard.call_within(seconds, LedgerCalls.record, [event for _, event in items])
            results |= zip((number for number, _ in items), answers, strict=True)
        return [results[number] for number in range(len(events))]

    def _of(self, brand_id: str) -> ShardClient:
        return self._owner.get(brand_id, self._shards[0])

    def _by_hash(self, portfolio_id: str | None, brand_id: str) -> ShardClient:
        return self._shards[shard_of(portfolio_id, brand_id, len(self._shards))]

    def _by_shard(self, items: Collection[T], brand_of: Callable[[T], str]) -> dict[ShardClient, list[T]]:
        found: dict[ShardClient, list[T]] = {}
        for item in items:
            found.setdefault(self._of(brand_of(item)), []).append(item)
        return found

    # The replica's life

    async def keep_beating(self) -> None:
        """Beat to every shard, and listen for its wake-ups, until `close`."""
        await asyncio.gather(
            *(loop for shard in self._shards for loop in (shard.keep_beating(), shard.keep_listening()))
        )

    async def close(self) -> None:
        """Report the last wins and return every lease."""
        await _within(BEAT_S, [shard.beat(is_last=True) for shard in self._shards])


async def _within(seconds: float, works: Sequence[Awaitable[Any]]) -> None:
    """Run these together; after so many seconds cancel what is not done."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(seconds, 0.0)):
            await asyncio.gather(*works)
