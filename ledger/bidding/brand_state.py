"""A brand's day as the solver knows it: its limits, what it could have won, what it has earned, and its κ.

Pure: plain data that pickles; time is an argument. `BrandState.saw` (what could have been won, by sketch) and
`BrandState.earns` (the day's sums) take in what is new, `BrandState.start_day` ends the day at midnight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ledger.bidding.sketch import COUNT, Sketch

HALF_LIFE = 0.2
"""Share of a day's traffic after which what was seen counts half. From 0.15 to 0.5 results hardly move; shorter follows
a market that changes, longer a steady one."""

FACTOR_BOUNDS = (0.3, 1.5)
"""Of realised ÷ predicted revenue."""
FACTOR_SPREAD = 0.3
"""How far, as a standard deviation, a day's factor is believed to be from 1 before anything was realised."""

LEVEL_COUNT, LEVEL_BINS, LEVEL_SIGMAS = 1_000, 6.0, 6.0
"""After so many opportunities the market's level is compared; so many eighths of an octave, and so many standard
deviations, are no chance."""

SOMETHING_MICROS = 1e-3
"""Predicted revenue below this is none."""


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
