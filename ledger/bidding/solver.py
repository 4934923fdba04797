"""λ by day: every few seconds, the κ that spends what is left in the time that is left and brings the day's ROAS home.

Pure: time is an argument, and the state is plain data that pickles. A `Group` is a portfolio with its brands, or one
brand alone. Its way through a day: `BrandState.saw` (what could have been won, by sketch) and `BrandState.earns` (the
day's sums) whenever there is news, `resolve` every few seconds for the groups with news, `BrandState.start_day` at
midnight.

The day's rest is a linear programme: of the opportunities expected in it win those, in part or whole, that bring the
most revenue while the brand's and the portfolio's constraints hold over the whole day. Its dual is κ =
(μ_b τ_b + μ_p τ_p + ν_b + ν_p) ÷ (1 + μ_b + μ_p), and has a closed form in the sketch: a portfolio's multipliers act
through one number only, the κ that they alone would ask of every member, and a brand's own multipliers lift its κ from
there to where its own constraints hold. So each brand has the least κ that its own constraints allow, a portfolio the
least κ for all that its constraints allow, both found by prefix sums, and a brand takes the greater.

Source: Lagrangian of revenue under ROAS and budget constraints, arXiv:2302.08530; re-solving: Jasin and Kumar 2012,
"A re-solving heuristic with bounded revenue loss".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ledger.bidding.brand_state import SOMETHING_MICROS, BrandState, Group
from ledger.bidding.sketch import BINS, BINS_PER_OCTAVE, COST, COUNT, EDGES, OCTAVES, REVENUE
from ledger.domain.pricing import KAPPA_MOST

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

COLD_WEIGHT, NIGHT_WEIGHT = 3.0, 100.0
"""Opportunities after which the first κ, the cold one (τ) or last night's, counts a quarter; it fades as its square."""

PRUDENCE = 0.5
"""Standard deviations of the surplus still to come that are not spent ahead of their coming. Revenue comes in rare
large pieces: a deficit is made up late or never, a surplus is soon spent."""

REACH_LEAST, REACH_MOST, REACH_SHARE = 5e-5, 5e-4, 0.01
"""Shares of a day's traffic: 4 s and 43 s of a day; in between, a hundredth of what is over or left."""


def reach_at(at: float) -> float:
    """Share of the day's traffic for which a decision may stand: short while little is known, and when little is left.

    >>> [reach_at(at) for at in (0.0, 0.01, 0.5, 1.0)]
    [5e-05, 0.0001, 0.0005, 5e-05]
    """
    return min(max(REACH_SHARE * min(at, 1.0 - at), REACH_LEAST), REACH_MOST)


def resolve(groups: Sequence[Group], at: float, reach: float = REACH_LEAST) -> None:
    """Set `kappa` and `capped` of every brand of these groups, all in one go.

    κ is within [0, 3 τ_b], budgets excepted: they may ask for any price. Groups without news may be left out for a
    while; their price drifts slowly as time passes.

    Args:
        at: share of the day's traffic that is over, in [0, 1] (`Traffic.share`).
        reach: share of the day's traffic until the next decision; the time left is taken to be no shorter.
    """
    groups = [group for group in groups if group.brands]
    if not groups:
        return
    brands = [brand for group in groups for brand in group.brands.values()]
    for brand in brands:
        brand.fade(at)
    members = _Members.of(groups)
    day = _Day.of(brands)
    coming = _Coming.of(brands, day, max(1.0 - at, 0.0) + reach, reach, members)

    # Positions count bins from the best: a greater position wins more, at a lower κ.
    by_target = _most_by_target(day.surplus, coming, day.target, day.factor)
    by_budget = _most_by_budget(coming.cost, day.left)
    position = np.minimum(by_target, by_budget)
    if members.limited:
        least = np.minimum(_position(KAPPA_MOST * np.nan_to_num(day.target, nan=np.inf)), position)
        total = members.sum_curves(coming.between(least, position))
        factor = np.minimum.reduceat(day.factor, members.first)
        shared = members.spread(_most_by_target(members.surplus(day), total, members.target, factor))
        by_target, position = np.minimum(shared, by_target), np.minimum(np.maximum(shared, least), position)
        total_cost = members.sum(_between(coming.cost, np.zeros(len(brands)), position))
        position = np.minimum(position, members.spread(_most_by_budget(total_cost, members.left(day))))
    trust = (day.first_weight / (day.first_weight + day.seen)) ** 2
    kappas = trust * day.first_kappa + (1.0 - trust) * _kappa(position)
    capped = position < by_target
    for brand, kappa, is_capped in zip(brands, kappas.tolist(), capped.tolist(), strict=True):
        brand.kappa, brand.capped = kappa, is_capped


class _Day(NamedTuple):
    """Of n brands, (n,) each: the day as it stands."""

    target: Floats  # NaN: none
    left: Floats  # micros of budget; ∞: unlimited
    revenue: Floats
    cost: Floats  # settled and held
    factor: Floats
    noise: Floats  # variance of realised revenue, per micro of predicted revenue
    first_kappa: Floats
    first_weight: Floats
    seen: Floats

    @property
    def surplus(self) -> Floats:
        """Revenue beyond what the target asks for the cost so far."""
        surplus: Floats = self.revenue - self.target * self.cost
        return surplus

    @classmethod
    def of(cls, brands: Sequence[BrandState]) -> Self:
        rows = np.empty((len(brands), len(cls._fields)))
        for row, brand in enumerate(brands):
            limits, earned, feedback = brand.limits, brand.earned, brand.feedback
            cost = earned.cost_micros + earned.held_cost_micros
            rows[row] = (
                math.nan if limits.target_roas is None else limits.target_roas,
                math.inf if limits.budget_micros is None else limits.budget_micros - cost,
                earned.revenue_micros + feedback.factor * earned.held_revenue_micros,
                cost,
                feedback.factor,
                feedback.noise / max(earned.predicted_micros, SOMETHING_MICROS),
                brand.first_kappa,
                COLD_WEIGHT if brand.night_kappa is None else NIGHT_WEIGHT,
                brand.seen,
            )
        return cls(*rows.T)


class _Members(NamedTuple):
    """Which brands are whose: g groups, their limits, and where each begins among the brands."""

    first: Indices
    sizes: Indices
    target: Floats
    budget: Floats

    @classmethod
    def of(cls, groups: Sequence[Group]) -> Self:
        sizes = np.array([len(group.brands) for group in groups])
        targets = [group.limits.target_roas for group in groups]
        budgets = [group.limits.budget_micros for group in groups]
        return cls(
            np.cumsum(sizes) - sizes,
            sizes,
            np.array([math.nan if target is None else target for target in targets]),
            np.array([math.inf if budget is None else budget for budget in budgets]),
        )

    @property
    def limited(self) -> bool:
        return not (np.isnan(self.target) & np.isinf(self.budget)).all()

    def sum(self, of_brands: Floats) -> Floats:
        """(n, …) → (g, …)."""
        return np.add.reduceat(of_brands, self.first, axis=0)

    def spread(self, of_groups: Floats) -> Floats:
        """(g,) → (n,)."""
        return np.repeat(of_groups, self.sizes)

    def sum_curves(self, of_brands: _Coming) -> _Coming:
        return _Coming(*(self.sum(curve) for curve in of_brands))

    def surplus(self, day: _Day) -> Floats:
        surplus: Floats = self.sum(day.revenue) - self.target * self.sum(day.cost)
        return surplus

    def left(self, day: _Day) -> Floats:
        left: Floats = self.budget - self.sum(day.cost)
        return left


class _Coming(NamedTuple):
    """What the rest of the day is expected to bring by winning the best 0, 1, 2, … bins: (n, BINS + 1) each."""

    revenue: Floats
    cost: Floats
    variance: Floats  # of the surplus: how many come is chance, and so is what they turn out to be worth

    @classmethod
    def of(cls, brands: Sequence[BrandState], day: _Day, rest: float, reach: float, members: _Members) -> Self:
        sums = np.stack([brand.sketch.sums for brand in brands])
        covered = (
            np.array([brand.exposure for brand in brands]) + reach
        )  # what is in the sketch reaches to the next look
        scale = (rest / covered)[:, None]
        revenue, cost, count = sums[:, REVENUE] * day.factor[:, None], sums[:, COST], sums[:, COUNT]
        target = np.where(np.isnan(day.target), np.nan_to_num(members.spread(members.target)), day.target)[:, None]
        # A bin's number is Poisson, each of it worth the bin's mean.
        chance = np.divide((revenue - target * cost) ** 2, count, out=np.zeros_like(count), where=count > 0.0)
        error = revenue * (day.noise / day.factor)[:, None]
        return cls(*(_best_first(by_bin * scale) for by_bin in (revenue, cost, chance + error)))

    def between(self, least: Floats, most: Floats) -> Self:
        """The same curves for brands that win no less than one position and no more than another."""
        return type(self)(*(_between(curve, least, most) for curve in self))


def _between(curve: Floats, least: Floats, most: Floats) -> Floats:
    """(n, BINS + 1): what is won where a common position is asked for, and each brand keeps within its own two."""
    asked = np.arange(BINS + 1)
    lowered = np.where(asked > most[:, None], _interpolated(curve, most)[:, None], curve)
    return np.where(asked < least[:, None], _interpolated(curve, least)[:, None], lowered)


def _interpolated(curve: Floats, position: Floats) -> Floats:
    """(n, BINS + 1) and (n,) → (n,)."""
    rows, whole = np.arange(len(curve)), np.minimum(position.astype(np.intp), BINS - 1)
    low, high = curve[rows, whole], curve[rows, whole + 1]
    interpolated: Floats = low + (position - whole) * (high - low)
    return interpolated


def _best_first(by_bin: Floats) -> Floats:
    sums = np.zeros((len(by_bin), BINS + 1))
    np.cumsum(by_bin[:, ::-1], axis=1, out=sums[:, 1:])
    return sums


def _most_by_target(surplus: Floats, coming: _Coming, target: Floats, factor: Floats) -> Floats:
    """(n,) the greatest position that still brings the day home; at the least all that is worth τ, which only helps.

    Args:
        factor: realised ÷ predicted revenue: what is predicted to be worth τ ÷ factor is worth τ.
    """
    coming_surplus = coming.revenue - target[:, None] * coming.cost - PRUDENCE * np.sqrt(coming.variance)
    slack = np.where(np.isnan(target)[:, None], 0.0, surplus[:, None] + coming_surplus)
    return np.maximum(_last_not_negative(slack), _position(np.nan_to_num(target) / factor))


def _most_by_budget(cost: Floats, left: Floats) -> Floats:
    """(n,) the greatest position that the budget pays for."""
    return np.maximum(_last_not_negative(np.minimum(left, _UNLIMITED)[:, None] - cost), 0.0)


def _last_not_negative(slack: Floats) -> Floats:
    """(n, BINS + 1) → (n,) the last position where it is, between two bins by interpolation; −1 where there is none."""
    rows, holds = np.arange(len(slack)), slack >= 0.0
    last = BINS - np.argmax(holds[:, ::-1], axis=1)
    here, after = slack[rows, last], slack[rows, np.minimum(last + 1, BINS)]
    part = np.divide(here, here - after, out=np.zeros(len(rows)), where=(last < BINS) & (after < 0.0))
    return np.where(holds[rows, last], last + part, -1.0)


_BOTTOM = float(EDGES[0])
_UNLIMITED = 1e300


def _position(kappa: Floats) -> Floats:
    """(n,) how many bins κ wins: by its logarithm, below the lowest edge by itself; the highest bin has 12 octaves."""
    with np.errstate(divide="ignore"):
        octave = np.log2(kappa)
    above = np.maximum(1.0 - (octave - OCTAVES) / OCTAVES, 0.0)
    below = BINS - kappa / _BOTTOM
    inside = 1.0 + (OCTAVES - octave) * BINS_PER_OCTAVE
    return np.where(octave > OCTAVES, above, np.where(octave < -OCTAVES, below, inside))


def _kappa(position: Floats) -> Floats:
    """(n,) the κ that wins so many bins: the inverse of `_position`."""
    above = np.exp2(OCTAVES + (1.0 - position) * OCTAVES)
    below = (BINS - position) * _BOTTOM
    inside = np.exp2(OCTAVES - (position - 1.0) / BINS_PER_OCTAVE)
    return np.where(position < 1.0, above, np.where(position > BINS - 1, below, inside))
