"""The terms of this shard's brands, which replicas get, made from directory, throttles and the controller's κ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ledger.bidding.terms import NEVER, ControlSignal, TermsBook, factor_of
from ledger.bidding.throttle import Throttle
from ledger.domain.brand import Brand
from ledger.domain.messages import Terms
from ledger.domain.pricing import lambda_
from ledger.domain.slack import Price
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
        """Terms of the brands that have changed since a version; of all if that is too old; None if none has."""
        return self._book.since(known_version)

    def lambda_of(self, brand: Brand) -> float:
        """λ as replicas have it; last night's for a brand of another shard.

        Args:
            brand: as it is now.
        """
        known = self._book.newest.brands.get(brand.brand_id)
        if known is not None:
            return known.lambda_
        return lambda_(brand.settings.strategy_multiplier, self._directory.night_kappa(brand))

    def slack_prices(self, brands: Iterable[Brand]) -> dict[str, list[Price]]:
        """By brand id, what slack is measured with: the brand's price, and the portfolio's if it has one."""
        portfolios, steered = self._directory.all_portfolios(), self._book.steered
        found = {}
        for brand in brands:
            prices = [Price(brand.settings.target_roas, factor_of(steered.get(brand.brand_id)))]
            if (portfolio := portfolios.get(brand.settings.portfolio_id or "")) is not None:
                factor = self._book.portfolio_factors.get(portfolio.portfolio_id, 1.0)
                prices.append(Price(portfolio.settings.target_roas, factor))
            found[brand.brand_id] = prices
        return found

    # The terms' sources

    @property
    def steered(self) -> Mapping[str, ControlSignal]:
        return self._book.steered

    def steer(self, steered: Mapping[str, ControlSignal], portfolio_factors: Mapping[str, float] | None = None) -> None:
        """Set κ by day; brands that are not named get last night's.

        Args:
            portfolio_factors: by portfolio id, realised ÷ predicted revenue of its members; 1 if not named.
        """
        self._book.steered = dict(steered)
        self._book.portfolio_factors = dict(portfolio_factors or {})
        self.remake()

    def throttle(self, brand_id: str) -> Throttle:
        return self._book.throttle(brand_id)

    def set_throttles(self, throttles: Mapping[str, Throttle]) -> None:
        """Set throttles; brands that are not named take part in all auctions."""
        self._book.throttles = dict(throttles)
        self.remake()

    async def refresh(self) -> bool:
        """Refresh the directory, and remake the terms if it has changed or a budget day has ended.

        Returns:
            Whether the directory has changed.
        """
        has_changed = await self._directory.refresh()
        if has_changed or self._clock() >= self._end:
            self.remake()
        return has_changed

    def remake(self) -> None:
        """Make the terms again, after a change of one of their sources."""
        now, directory = self._clock(), self._directory
        self._book.make(now, self._epochs.epoch, directory.owned(now), directory.all_portfolios(), directory.fits())
        self._end = min(self._book.end, directory.next_arrival(now) or NEVER)
