"""λ by day: computes the κ with which each brand meets budget and ROAS target over the whole day, every few seconds.

Pure: time is an argument, and the state is plain data that can be pickled. A `Group` is a portfolio with its brands, or
one brand alone. During a day, `BrandState.saw` takes in opportunities and `BrandState.earns` the day's sums, `resolve`
computes κ for the groups with news every few seconds, and `BrandState.start_day` begins the next day at midnight.

The rest of the day is a linear programme: of the expected opportunities win those, in part or whole, that bring most
revenue while the constraints of brand and portfolio hold over the whole day. Its dual is κ =
(μ_b τ_b + μ_p τ_p + ν_b + ν_p) ÷ (1 + μ_b + μ_p), and has a closed form in the sketch: a portfolio's multipliers act
through one number only, the κ that they alone would ask of every member, and a brand's own multipliers raise its κ from
there until its own constraints hold. So each brand has the least κ that its own constraints allow, each portfolio the
least κ for all members that its constraints allow, both found by prefix sums, and a brand's κ is the greater one.

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
"""Opportunities after which the day's first κ (the target without a fit, or last night's) counts a quarter. Its weight
is (this ÷ (this + opportunities seen))²."""

PRUDENCE = 0.5
"""So many standard deviations of the expected surplus are not counted on. Revenue comes in rare large pieces: a deficit
is made up late or never, whereas a surplus can be spent at once."""

REACH_LEAST, REACH_MOST, REACH_SHARE = 5e-5, 5e-4, 0.01
"""Bounds of `reach_at`, 4 s and 43 s of a day; between them it is a hundredth of the part that is over or left."""


def reach_at(at: float) -> float:
    """Share of the day's traffic for which a κ may stay: short at the begin, when little is known, and at the end.

    >>> [reach_at(at) for at in (0.0, 0.01, 0.5, 1.0)]
    [5e-05, 0.0001, 0.0005, 5e-05]
    """
    return min(max(REACH_SHARE * min(at, 1.0 - at), REACH_LEAST), REACH_MOST)


def resolve(groups: Sequence[Group], at: float, reach: float = REACH_LEAST) -> None:
    """Set `kappa` and `capped` of every brand of these groups.

    κ is in [0, 3 τ_b], or higher where a budget asks for it. Groups without news may be left out for a while, because
    their κ changes slowly with time.

    Args:
        at: share of the day's traffic that is over, in [0, 1] (`Traffic.share`).
        reach: share of the day's traffic until the next decision; the remaining share is taken as no smaller.
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

    # A position counts bins from the best: a greater position wins more, at a lower κ.
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
    """The day so far of n brands, (n,) each."""

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
        """Revenue above target × cost, so far."""
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
    """g groups: where each begins among the brands, its size and its limits."""

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
    """What winning the best 0, 1, 2, … bins is expected to bring in the rest of the day: (n, BINS + 1) each."""

    revenue: Floats
    cost: Floats
    variance: Floats  # of the surplus: the number of opportunities varies, and so does their realised revenue

    @classmethod
    def of(cls, brands: Sequence[BrandState], day: _Day, rest: float, reach: float, members: _Members) -> Self:
        sums = np.stack([brand.sketch.sums for brand in brands])
        covered = (
            np.array([brand.exposure for brand in brands]) + reach
        )  # what is in the sketch reaches to the next look
        scale = (rest / covered)[:, None]
        revenue, cost, count = sums[:, REVENUE] * day.factor[:, None], sums[:, COST], sums[:, COUNT]
        target = np.where(np.isnan(day.target), np.nan_to_num(members.spread(members.target)), day.target)[:, None]
        # A bin's number is taken as Poisson, and each of its opportunities as worth the bin's mean.
        chance = np.divide((revenue - target * cost) ** 2, count, out=np.zeros_like(count), where=count > 0.0)
        error = revenue * (day.noise / day.factor)[:, None]
        return cls(*(_best_first(by_bin * scale) for by_bin in (revenue, cost, chance + error)))

    def between(self, least: Floats, most: Floats) -> Self:
        """The curves for brands whose position is kept between two bounds."""
        return type(self)(*(_between(curve, least, most) for curve in self))


def _between(curve: Floats, least: Floats, most: Floats) -> Floats:
    """(n, BINS + 1): what is won at each common position, if every brand's position is kept within its two bounds."""
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
    """(n,) the greatest position at which the day still meets its target; at least all opportunities worth τ or more.

    Args:
        factor: realised ÷ predicted revenue: an opportunity that is predicted to be worth τ ÷ factor is worth τ.
    """
    coming_surplus = coming.revenue - target[:, None] * coming.cost - PRUDENCE * np.sqrt(coming.variance)
    slack = np.where(np.isnan(target)[:, None], 0.0, surplus[:, None] + coming_surplus)
    return np.maximum(_last_not_negative(slack), _position(np.nan_to_num(target) / factor))


def _most_by_budget(cost: Floats, left: Floats) -> Floats:
    """(n,) the greatest position that the budget pays for."""
    return np.maximum(_last_not_negative(np.minimum(left, _UNLIMITED)[:, None] - cost), 0.0)


def _last_not_negative(slack: Floats) -> Floats:
    """(n, BINS + 1) → (n,) the last position where `slack` ≥ 0, interpolated between two bins; −1 if there is none."""
    rows, holds = np.arange(len(slack)), slack >= 0.0
    last = BINS - np.argmax(holds[:, ::-1], axis=1)
    here, after = slack[rows, last], slack[rows, np.minimum(last + 1, BINS)]
    part = np.divide(here, here - after, out=np.zeros(len(rows)), where=(last < BINS) & (after < 0.0))
    return np.where(holds[rows, last], last + part, -1.0)


_BOTTOM = float(EDGES[0])
_UNLIMITED = 1e300


def _position(kappa: Floats) -> Floats:
    """(n,) how many bins κ wins: by log κ within the edges, linear below the lowest; the highest bin has 12 octaves."""
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
