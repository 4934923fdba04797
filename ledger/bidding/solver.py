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
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ledger.bidding.sketch import BINS, BINS_PER_OCTAVE, COST, COUNT, EDGES, OCTAVES, REVENUE, Sketch
from ledger.domain.pricing import KAPPA_MOST

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

HALF_LIFE = 0.2
"""Share of a day's traffic after which what was seen counts half. From 0.15 to 0.5 results hardly move; shorter follows
a market that changes, longer a steady one."""

COLD_WEIGHT, NIGHT_WEIGHT = 3.0, 100.0
"""Opportunities after which the first κ, the cold one (τ) or last night's, counts a quarter; it fades as its square."""

PRUDENCE = 0.5
"""Standard deviations of the surplus still to come that are not spent ahead of their coming. Revenue comes in rare
large pieces: a deficit is made up late or never, a surplus is soon spent."""

REACH_LEAST, REACH_MOST, REACH_SHARE = 5e-5, 5e-4, 0.01
"""Shares of a day's traffic: 4 s and 43 s of a day; in between, a hundredth of what is over or left."""

FACTOR_BOUNDS = (0.3, 1.5)
"""Of realised ÷ predicted revenue."""
FACTOR_SPREAD = 0.3
"""How far, as a standard deviation, a day's factor is believed to be from 1 before anything was realised."""

LEVEL_COUNT, LEVEL_BINS, LEVEL_SIGMAS = 1_000, 6.0, 6.0
"""After so many opportunities the market's level is compared; so many eighths of an octave, and so many standard
deviations, are no chance."""

SOMETHING_MICROS = 1e-3
"""Predicted revenue below this is none."""

RELEASE = 0.8
"""A tripped switch counts a look as calm when everything is within this share of its envelope."""
CALM_LOOKS = 12
"""So many calm looks in a row release it: a minute, at one look every five seconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a brand or a portfolio, over one day."""

    target_roas: float | None = None  # None: no target
    budget_micros: float | None = None  # None: unlimited


class Earned(NamedTuple):
    """What a brand's wins have brought so far: sums since midnight, in micros."""

    revenue_micros: float = 0.0
    """Realised and completed for what is still to come; where revenue is not fed back, the predicted one."""
    predicted_micros: float = 0.0
    """Predicted revenue of the same wins."""
    cost_micros: float = 0.0
    held_cost_micros: float = 0.0
    """Reserved for wins that are not settled."""
    held_revenue_micros: float = 0.0
    """Predicted revenue of those."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Share of a day's opportunities that have come by each of equally spaced times: the day's shape.

    >>> Traffic().share(21_600, 86_400)
    0.25
    >>> Traffic((0.0, 0.1, 1.0)).share(43_200, 86_400)
    0.1
    """

    cumulative: tuple[float, ...] = (0.0, 1.0)

    def __post_init__(self) -> None:
        steps = np.diff(self.cumulative)
        if len(steps) == 0 or self.cumulative[0] != 0.0 or self.cumulative[-1] != 1.0 or not (steps >= 0.0).all():
            raise ValueError("shares rise from 0 to 1")

    def share(self, now_s: float, day_s: float) -> float:
        """How much of the day's traffic is over after `now_s` of its `day_s`; 1 after its end."""
        if now_s >= day_s:
            return 1.0
        return float(np.interp(now_s / day_s, np.linspace(0.0, 1.0, len(self.cumulative)), self.cumulative))


@dataclass(slots=True)
class Feedback:
    """How far revenue was from its prediction today."""

    factor: float = 1.0  # realised ÷ predicted
    noise: float = 0.0  # Σ (realised − factor · predicted)² between looks, micros²

    def learn(self, before: Earned, now: Earned) -> None:
        """From two looks at the day's sums. The factor leaves 1 as fast as the noise lets it."""
        realised, predicted = now.revenue_micros - before.revenue_micros, now.predicted_micros - before.predicted_micros
        self.noise += (realised - self.factor * predicted) ** 2
        if now.predicted_micros >= SOMETHING_MICROS:
            trust = FACTOR_SPREAD**2 / (FACTOR_SPREAD**2 + self.noise / now.predicted_micros**2)
            factor = 1.0 + trust * (now.revenue_micros / now.predicted_micros - 1.0)
            self.factor = min(max(factor, FACTOR_BOUNDS[0]), FACTOR_BOUNDS[1])


@dataclass(slots=True)
class BrandState:
    """One brand's day: its limits, what it has seen and earned, and its κ."""

    limits: Limits
    night_kappa: float | None = None  # None: cold
    sketch: Sketch = field(default_factory=Sketch)
    exposure: float = 0.0  # share of a day's traffic that the sketch covers, faded as it is
    at: float = 0.0  # share of the day's traffic that was over when the sketch last faded
    seen: float = 0.0  # opportunities since midnight
    earned: Earned = field(default_factory=Earned)
    feedback: Feedback = field(default_factory=Feedback)
    recent: Sketch = field(default_factory=Sketch)  # since the market's level was last looked at
    kappa: float = field(init=False)
    capped: bool = field(init=False, default=False)  # a budget asks for more than the targets do

    def __post_init__(self) -> None:
        self.kappa = self.first_kappa

    @property
    def first_kappa(self) -> float:
        """Last night's; cold, the target: each win then pays for itself."""
        return (self.limits.target_roas or 0.0) if self.night_kappa is None else self.night_kappa

    def saw(self, delta: Sketch) -> None:
        """Opportunities since the last time, won or not, from any replica."""
        self.seen += float(delta.sums[COUNT].sum())
        self.sketch.merge(delta)
        self.recent.merge(delta)
        if self.recent.totals()[COUNT] >= LEVEL_COUNT:
            self._follow_level()

    def _follow_level(self) -> None:
        """When everything has become worth more or less, what was seen before is taken to have, too.

        A payout that is cut moves all ratios at once, which some hundred ordinary opportunities tell; the rare ones
        that bring the most revenue would take a day to.
        """
        before = Sketch(np.maximum(self.sketch.sums - self.recent.sums, 0.0))
        (was, was_variance, seen), (now, now_variance, count) = before.level(), self.recent.level()
        if min(seen, count) >= LEVEL_COUNT / 2:
            moved = now - was
            if abs(moved) >= max(LEVEL_BINS, LEVEL_SIGMAS * math.sqrt(was_variance / seen + now_variance / count)):
                before.shift(round(moved))
                before.merge(self.recent)
                self.sketch = before
        self.recent = Sketch()

    def earns(self, earned: Earned) -> None:
        """The day's sums as they stand now."""
        self.feedback.learn(self.earned, earned)
        self.earned = earned

    def fade(self, at: float) -> None:
        """Let what was seen fade until a share of the day's traffic. Time that has passed already changes nothing."""
        if at <= self.at:
            return
        factor = 0.5 ** ((at - self.at) / HALF_LIFE)
        self.sketch.fade(factor)
        self.exposure = self.exposure * factor + (1.0 - factor) * HALF_LIFE / math.log(2.0)
        self.at = at

    def start_day(self, limits: Limits, night_kappa: float | None) -> None:
        """Midnight: the money starts afresh, what is known of the market stays."""
        self.fade(1.0)
        self.limits, self.night_kappa = limits, night_kappa
        self.at, self.seen, self.earned, self.feedback = 0.0, 0.0, Earned(), Feedback()
        self.kappa, self.capped = self.first_kappa, False


@dataclass(slots=True)
class Group:
    """A portfolio and its brands; or a brand alone, then without limits of its own."""

    brands: dict[str, BrandState]
    limits: Limits = Limits()


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


@dataclass(frozen=True, slots=True)
class Envelope:
    """Between what bounds a brand's λ and its spending are believed."""

    kappa_least: float
    kappa_most: float  # does not bind a κ that a budget asks for
    spend_rate_most: float  # 1: the pace that spends the whole budget evenly over the day's traffic

    def breach(self, kappa: float, capped: bool, spend_rate: float, within: float = 1.0) -> str | None:
        """What is outside, in words for an alert; None when nothing is."""
        most = math.inf if capped else self.kappa_most * within
        if math.isnan(kappa) or not self.kappa_least / within <= kappa <= most:
            return f"λ {kappa:.4g} is outside {self.kappa_least:.4g} to {self.kappa_most:.4g}"
        if math.isnan(spend_rate) or spend_rate > self.spend_rate_most * within:
            return f"spending at {spend_rate:.3g} × the even pace, at most {self.spend_rate_most:.3g} is believed"
        return None


class Decision(NamedTuple):
    """What a brand bids with."""

    kappa: float
    share: float  # of auctions that it takes part in


@dataclass(frozen=True, slots=True)
class KillSwitch:
    """Takes the controller off a brand whose λ or spending leaves its envelope, and gives it back after a calm while.

    >>> switch = KillSwitch().look(9.0, False, 1.0, Envelope(0.1, 5.0, 4.0))
    >>> switch.reason, switch.decide(9.0, 1.0, night_kappa=1.5, exploration=0.02)
    ('λ 9 is outside 0.1 to 5', Decision(kappa=1.5, share=0.02))
    """

    reason: str | None = None  # None: not tripped
    calm_looks: int = 0

    def look(self, kappa: float, capped: bool, spend_rate: float, envelope: Envelope) -> Self:
        """One look at what the controller would do and what is spent."""
        reason = envelope.breach(kappa, capped, spend_rate)
        if reason is not None:
            return type(self)(reason)
        if self.reason is None:
            return self
        if envelope.breach(kappa, capped, spend_rate, RELEASE) is not None:
            return type(self)(self.reason)
        return type(self)() if self.calm_looks + 1 >= CALM_LOOKS else type(self)(self.reason, self.calm_looks + 1)

    def decide(self, kappa: float, share: float, night_kappa: float, exploration: float) -> Decision:
        """The controller's κ and the throttle's share; tripped, last night's κ on the exploration share."""
        return Decision(kappa, share) if self.reason is None else Decision(night_kappa, min(share, exploration))
