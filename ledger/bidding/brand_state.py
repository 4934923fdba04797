"""A brand's day, as the solver sees it: its limits, the opportunities it had, what it has earned, and its κ.

Pure: plain data that can be pickled; time is an argument. `BrandState.saw` takes in opportunities, `BrandState.earns`
the day's sums, and `BrandState.start_day` begins a new day at midnight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ledger.bidding.sketch import COUNT, Sketch

HALF_LIFE = 0.2
"""Share of a day's traffic after which an opportunity counts half. Results hardly differ from 0.15 to 0.5. A shorter
one suits a market that changes, a longer one a steady market."""

FACTOR_BOUNDS = (0.3, 1.5)
"""Least and greatest realised ÷ predicted revenue."""
FACTOR_SPREAD = 0.3
"""Standard deviation of a day's factor from 1 that is assumed before any revenue was realised."""

LEVEL_COUNT, LEVEL_BINS, LEVEL_SIGMAS = 1_000, 6.0, 6.0
"""After so many opportunities the market's level is compared with the one before. A difference of so many bins (eighths
of an octave) and so many standard deviations counts as a real change."""

SOMETHING_MICROS = 1e-3
"""Predicted revenue below this counts as none."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a brand or a portfolio for one day."""

    target_roas: float | None = None  # None: no target
    budget_micros: float | None = None  # None: unlimited


class Earned(NamedTuple):
    """What a brand's wins have brought so far: sums since midnight, in micros."""

    revenue_micros: float = 0.0
    """Realised revenue, completed for late conversions; the predicted revenue where none is reported."""
    predicted_micros: float = 0.0
    """Predicted revenue of the same wins."""
    cost_micros: float = 0.0
    held_cost_micros: float = 0.0
    """Reserved for wins that are not settled."""
    held_revenue_micros: float = 0.0
    """Predicted revenue of wins that are not settled."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """How a day's opportunities are spread over it: the share that has come by each of equally spaced times.

    >>> Traffic().share(21_600, 86_400)
    0.25
    >>> Traffic((0.0, 0.1, 1.0)).share(43_200, 86_400)
    0.1
    """

    cumulative: tuple[float, ...] = (0.0, 1.0)

    def __post_init__(self) -> None:
        steps = np.diff(self.cumulative)
        if len(steps) == 0 or self.cumulative[0] != 0.0 or self.cumulative[-1] != 1.0 or not (steps >= 0.0).all():
            raise ValueError("the cumulative shares rise from 0 to 1")

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
        """Update from the day's sums before and now. The noisier revenue is, the closer the factor stays to 1."""
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
    night_kappa: float | None = None  # None: there is no fit
    sketch: Sketch = field(default_factory=Sketch)
    exposure: float = 0.0  # share of a day's traffic that the sketch covers, faded as it is
    at: float = 0.0  # share of the day's traffic that was over when the sketch last faded
    seen: float = 0.0  # opportunities since midnight
    earned: Earned = field(default_factory=Earned)
    feedback: Feedback = field(default_factory=Feedback)
    recent: Sketch = field(default_factory=Sketch)  # since the market's level was last looked at
    kappa: float = field(init=False)
    capped: bool = field(init=False, default=False)  # a budget asks for a higher κ than the targets do

    def __post_init__(self) -> None:
        self.kappa = self.first_kappa

    @property
    def first_kappa(self) -> float:
        """Last night's κ; without one the ROAS target, so that each win meets the target by itself."""
        return (self.limits.target_roas or 0.0) if self.night_kappa is None else self.night_kappa

    def saw(self, delta: Sketch) -> None:
        """Take in opportunities, won or not, since the last call, from any replica."""
        self.seen += float(delta.sums[COUNT].sum())
        self.sketch.merge(delta)
        self.recent.merge(delta)
        if self.recent.totals()[COUNT] >= LEVEL_COUNT:
            self._follow_level()

    def _follow_level(self) -> None:
        """If all opportunities have become worth more or less, shift the earlier ones by the same factor.

        A payout that is cut changes all ratios at once. Some hundred ordinary opportunities show that, whereas the rare
        ones that bring most of the revenue would show it only after a day.
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
        """Take in the day's sums as they are now."""
        self.feedback.learn(self.earned, earned)
        self.earned = earned

    def fade(self, at: float) -> None:
        """Fade what was seen until `at`, a share of the day's traffic. An earlier `at` changes nothing."""
        if at <= self.at:
            return
        factor = 0.5 ** ((at - self.at) / HALF_LIFE)
        self.sketch.fade(factor)
        self.exposure = self.exposure * factor + (1.0 - factor) * HALF_LIFE / math.log(2.0)
        self.at = at

    def start_day(self, limits: Limits, night_kappa: float | None) -> None:
        """Begin a new day: the sums start from 0, what was seen of the market stays."""
        self.fade(1.0)
        self.limits, self.night_kappa = limits, night_kappa
        self.at, self.seen, self.earned, self.feedback = 0.0, 0.0, Earned(), Feedback()
        self.kappa, self.capped = self.first_kappa, False


@dataclass(slots=True)
class Group:
    """A portfolio with its brands and limits; or a single brand, then without limits of the group."""

    brands: dict[str, BrandState]
    limits: Limits = Limits()
