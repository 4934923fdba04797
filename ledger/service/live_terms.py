"""What replicas are told of this shard's brands: the terms as directory, counters and controller have them now."""

from __future__ import annotations

from collections.abc import Mapping

from ledger.bidding.terms import NEVER, ControlSignal, TermsBook
from ledger.bidding.throttle import Throttle
from ledger.domain.brand import Brand
from ledger.domain.messages import Terms
from ledger.domain.pricing import lambda_
from ledger.service.directory import Clock, Directory
from ledger.storage.epochs import Epochs


class LiveTerms:
    def __init__(self, directory: Directory, epochs: Epochs, clock: Clock) -> None:
        self._directory, self._epochs, self._clock = directory, epochs, clock
        self._book = TermsBook()
        self._end = NEVER

    @property
    def newest(self) -> Terms:
        return self._book.newest

    def since(self, known_version: int = -1) -> Terms | None:
        """What replicas need of every brand, or of those that have changed since the version that they know.

        None: nothing has.
        """
        return self._book.since(known_version)

    def lambda_of(self, brand: Brand) -> float:
        """As replicas have it; of another shard's brand, its night's.

        Args:
            brand: as it is now.
        """
        known = self._book.newest.brands.get(brand.brand_id)
        if known is not None:
            return known.lambda_
        return lambda_(brand.settings.strategy_multiplier, self._directory.night_kappa(brand))

    # What they are made of

    @property
    def steered(self) -> Mapping[str, ControlSignal]:
        return self._book.steered

    def steer(self, steered: Mapping[str, ControlSignal]) -> None:
        """The day's κ by brand; a brand that is not named has its night's."""
        self._book.steered = dict(steered)
        self.remake()

    def throttle(self, brand_id: str) -> Throttle:
        return self._book.throttle(brand_id)

    def set_throttles(self, throttles: Mapping[str, Throttle]) -> None:
        """Shares of auctions by brand; a brand that is not named takes part in all."""
        self._book.throttles = dict(throttles)
        self.remake()

    async def refresh(self) -> bool:
        """Read the directory anew. The terms follow when it has changed (True), or a day has ended in them."""
        has_changed = await self._directory.refresh()
        if has_changed or self._clock() >= self._end:
            self.remake()
        return has_changed

    def remake(self) -> None:
        """Anew, after a change of what they are made of."""
        now, directory = self._clock(), self._directory
        self._book.make(now, self._epochs.epoch, directory.owned(now), directory.all_portfolios(), directory.fits())
        self._end = min(self._book.end, directory.next_arrival(now) or NEVER)
