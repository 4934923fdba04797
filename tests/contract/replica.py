"""An ingress replica's leases against a ledger in this process: no Ray, no HTTP, a clock that stands still."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from ledger.client.lease_cache import NO_LEASE, LeaseCache
from ledger.domain.messages import Award, Claim, Offer, Reply, Win
from ledger.domain.reservation import Lifetimes
from ledger.service.ledger import Ledger


class Replica:
    """Draws wins from real leases. Its monotonic clock is the ledger's."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.leases = LeaseCache(Lifetimes(ledger.settings.reservation_ttl_s, ledger.settings.conversion_days))
        self._awards = 0

    @property
    def now_s(self) -> float:
        return self.ledger.now().timestamp()

    async def beat(self, is_last: bool = False) -> Reply:
        beat = self.leases.beat(self.now_s, is_last=is_last)
        try:
            (reply,) = await self.ledger.beat([beat])
        except BaseException:
            self.leases.failed(beat)
            raise
        self.leases.heard(beat, reply, self.now_s, self.now_s)
        return reply

    async def open(self) -> None:
        while not self.leases.is_open:
            await self.beat()
        if self.leases.terms.version != self.ledger.terms.newest.version:
            await self.beat()

    def draw(self, claim: Claim) -> Award:
        """What the leases at hand can do for a claim."""
        wins: list[Win] = []
        refused: dict[str, str] = {}
        brands: set[str] = set()
        self._awards += 1
        for offer in claim.offers:
            if len(wins) < claim.winners and offer.where.brand_id not in brands:
                reason = self.leases.refusal(offer, self.now_s)
                if reason is None:
                    wins.append(self.leases.draw(claim, f"{id(self)}-{self._awards}", offer, self.now_s))
                    brands.add(offer.where.brand_id)
                else:
                    refused[offer.bid_id] = reason
        return Award(tuple(wins), refused)

    async def reserve(self, claims: Sequence[Claim]) -> list[Award]:
        """Draw for all claims, then tell the ledger and return every lease: afterwards nothing is lent."""
        awards = []
        for claim in claims:
            await self.open()
            asked: set[str] = set()
            while missing := [offer for offer in self._missing(claim) if offer.bid_id not in asked]:
                asked.update(offer.bid_id for offer in missing)
                for offer in missing:
                    self.leases.want(offer)
                await self.beat()
            awards.append(self.draw(claim))
        await self.return_all()
        return awards

    async def return_all(self) -> None:
        """As after a pause: nothing stays lent."""
        for brand_id in list(self.leases._leases):
            self.leases._doubtful.add((brand_id, self.leases._leases.pop(brand_id).day))
        await self.beat()

    def _missing(self, claim: Claim) -> list[Offer]:
        return [offer for offer in claim.offers if self.leases.refusal(offer, self.now_s) == NO_LEASE]


_replicas: WeakKeyDictionary[Ledger, Replica] = WeakKeyDictionary()


async def reserve(ledger: Ledger, claims: Sequence[Claim]) -> list[Award]:
    """The awards of one replica that a ledger has for the whole test."""
    if ledger not in _replicas:
        _replicas[ledger] = Replica(ledger)
    return await _replicas[ledger].reserve(claims)
