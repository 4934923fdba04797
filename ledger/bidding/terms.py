"""Makes the terms that replicas need of every brand: λ, share of auctions, budget day, limits. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import NamedTuple

from ledger.bidding.throttle import Throttle
from ledger.domain.brand import Brand, Fit, Portfolio
from ledger.domain.budget_day import day_ends_at, day_of
from ledger.domain.messages import BrandTerms, Terms
from ledger.domain.pricing import lambda_

NEVER = dt.datetime.max.replace(tzinfo=dt.UTC)


class ControlSignal(NamedTuple):
    """κ and share of a brand, from the day's controller."""

    kappa: float
    share_most: float = 1.0  # of auctions: below 1 while the brand is frozen
    factor: float = 1.0  # realised ÷ predicted revenue of today


def factor_of(signal: ControlSignal | None) -> float:
    return 1.0 if signal is None else signal.factor


class TermsBook:
    """The newest terms, and the version in which each brand's changed last."""

    def __init__(self) -> None:
        self.newest = Terms(0, {})
        self.end = NEVER
        """When the first budget day in them ends."""
        self.throttles: Mapping[str, Throttle] = {}
        self.steered: Mapping[str, ControlSignal] = {}
        """κ and share by day, by brand id; brands that are not named have last night's λ."""
        self.portfolio_factors: Mapping[str, float] = {}
        self._whole_since = 0
        self._changed_in: dict[str, int] = {}
        """By brand id, the version in which its terms changed last."""

    def since(self, known_version: int) -> Terms | None:
        """The terms that changed since the known version; all if that is too old; None if none did."""
        version, brands = self.newest.version, self.newest.brands
        if known_version == version:
            return None
        if not self._whole_since <= known_version < version:
            return self.newest
        changed = {id_: brands[id_] for id_, since in self._changed_in.items() if since > known_version}
        return Terms(version, changed, is_whole=False)

    def throttle(self, brand_id: str) -> Throttle:
        return self.throttles.get(brand_id, Throttle())

    def make(
        self,
        now: dt.datetime,
        epoch: int,
        brands: Mapping[str, Brand],
        portfolios: Mapping[str, Portfolio],
        fits: Mapping[str, Fit],
    ) -> None:
        """Make the terms of these brands as of now. The epoch is the version's high part, so no ledger repeats one."""
        days: dict[str, tuple[dt.date, dt.datetime]] = {}
        for brand in brands.values():
            timezone = brand.settings.timezone
            if timezone not in days:
                days[timezone] = day_of(timezone, now), day_ends_at(timezone, now)
        made = {id_: self._of(brand, days, portfolios, fits) for id_, brand in brands.items()}
        self.end = min((end for _, end in days.values()), default=NEVER)
        before, base = self.newest, epoch << 32
        version = max(before.version, base) + 1
        if before.version < base or before.brands.keys() - made.keys():
            self._whole_since, self._changed_in = version, {}
        elif changed := [id_ for id_, terms in made.items() if before.brands.get(id_) != terms]:
            self._changed_in |= dict.fromkeys(changed, version)
        else:
            return
        self.newest = Terms(version, made)

    def _of(
        self,
        brand: Brand,
        days: Mapping[str, tuple[dt.date, dt.datetime]],
        portfolios: Mapping[str, Portfolio],
        fits: Mapping[str, Fit],
    ) -> BrandTerms:
        settings, throttle = brand.settings, self.throttle(brand.brand_id)
        portfolio, steered = portfolios.get(settings.portfolio_id or ""), self.steered.get(brand.brand_id)
        day, ends_at = days[settings.timezone]
        kappa = night_kappa(brand, portfolio, fits.get(brand.brand_id)) if steered is None else steered.kappa
        kappa = max(kappa, settings.lambda_floor * settings.target_roas)
        share_most = 1.0 if steered is None else steered.share_most
        return BrandTerms(
            currency=settings.currency,
            active=settings.active,
            target_roas=settings.target_roas,
            strategy_multiplier=settings.strategy_multiplier,
            lambda_=lambda_(settings.strategy_multiplier, kappa),
            share=min(throttle.share, share_most),
            throttled=throttle.throttled,
            day=day,
            day_ends_at=ends_at,
            portfolio_id=settings.portfolio_id,
            budget_micros=settings.daily_budget_micros,
            portfolio_budget_micros=None if portfolio is None else portfolio.settings.daily_budget_micros,
            factor=factor_of(steered),
            portfolio_target_roas=None if portfolio is None else portfolio.settings.target_roas,
            lambda_floor=settings.lambda_floor,
            max_cost_micros=settings.max_cost_micros,
        )


def night_kappa(brand: Brand, portfolio: Portfolio | None, fit: Fit | None) -> float:
    """Last night's κ, adjusted to the limits of now; the ROAS target if there is no fit."""
    if fit is None:
        return brand.settings.target_roas
    owners = (brand,) if portfolio is None else (brand, portfolio)
    untouched = all(fit.fitted_at > owner.updated_at for owner in owners)
    return fit.price(brand.settings, portfolio.settings if portfolio else None, untouched)
