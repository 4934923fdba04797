"""Rates that move, of everybody, of each brand and of every level below it: what yesterday says of today.

A key's rate is a product of factors along its path, everybody → brand → partner → slot → device → creative → placement
score, and every factor is a local level: its log drifts from day to day (variance `drift`) and is seen through a day's
noise. After each day the levels are brought up to date from the top down, each by what the levels above have left
unexplained: factor × (1 + gain × (seen ÷ expected − 1)), with the Kalman gain = V ÷ (V + noise). So a shock that hits a
whole brand is told from one that hits a slot, a slot's standing among its brand's survives the day on which the brand's
payout is halved, and a key with little behind it stays near its parent. The step is linear in what was seen, as
credibility theory has it, and not in its log: where most days bring nothing and a few bring much, the mean of logs lies
far below the log of the mean (4 × too low for the rarest conversions of the simulated market).

Source: Harvey, Forecasting, Structural Time Series Models and the Kalman Filter, 1989, chapter 3; Bühlmann & Gisler, A
Course in Credibility Theory, 2005, chapter 6 (hierarchical).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from training.arrays import Codes, Flags, Floats, Integers, Singles
from training.features.keys import BRAND


class Filter(NamedTuple):
    """What is believed of a rate before anything is seen. Variances are of its log, a day.

    Found by walking forward over real days of two sources and over the simulated market; the optimum is flat: halving
    or doubling the drifts and shocks moves R² by less than 0.004 on any of them.
    """

    levels: int = 7  # from everybody down
    drift_top: float = 0.01  # of everybody and of brands
    shock_top: float = 0.01  # a day's noise that no exposure averages out
    drift: float = 0.001  # of the levels below
    shock: float = 0.02
    prior: float = 0.5  # of a factor that was never seen, below everybody
    credible: float = 500.0  # exposure at which the noise of an average key's day has variance 1
    elasticity: float = 0.5  # noise ∝ (mean rate ÷ rate)^this; ½ is Tweedie's with power 1.5
    floor: float = 0.2  # share of `credible` that is added to seen and expected: nothing seen must not mean never

    def by_level(self) -> tuple[Floats, Floats, Floats]:
        """(levels,) each: drift, shock, prior."""
        top = min(self.levels, BRAND + 1)
        below = self.levels - top
        drift = np.array([self.drift_top] * top + [self.drift] * below)
        shock = np.array([self.shock_top] * top + [self.shock] * below)
        return drift, shock, np.array([1.0] + [self.prior] * (self.levels - 1))


class Walk(NamedTuple):
    """What a walk over the days has learned."""

    logs: Floats  # (n,) log rate of each row as of the day before, NaN where nothing was known of anybody
    state: list[Floats]  # by level (keys,): log rate of each key for the day after the last, NaN likewise


def walk(
    starts: Integers,
    levels: Codes,
    n_keys: Sequence[int],
    parents: Sequence[Codes],
    numerator: Floats,
    denominator: Floats,
    believed: Filter,
    *,
    jumps: Flags | None = None,
    factors: Singles | None = None,
) -> Walk:
    """Forward over the days, each row seen with what earlier days say.

    Args:
        starts: (days + 1,) where each day's rows begin; rows are in the order of their days.
        levels: (levels, n) a code for each row and level; the first level is everybody's.
        n_keys: how many codes a level has.
        parents: by level (keys,) each key's code in the level above.
        numerator, denominator: (n,) the rate is their ratio; the denominator ≥ 0.
        jumps: (days, brands) true where the brand's level has broken: it is learned anew from that day.
        factors: (n, levels − 1), or a view of it, to be filled with every row's factors, everybody's left out.
    """
    from training.features import rate_kernel  # numba: half a second that only who learns should pay

    depth = believed.levels
    offsets = np.concatenate([[0], np.cumsum(n_keys[:depth])]).astype(np.int64)
    days = len(starts) - 1
    logs = np.empty(len(numerator))
    filled = np.empty((0, depth), np.float32) if factors is None else factors
    state = np.zeros(int(offsets[-1]))
    base = rate_kernel.walk()(
        np.asarray(starts, np.int64),
        levels[:depth],
        offsets,
        np.ascontiguousarray(numerator, np.float64),
        np.ascontiguousarray(denominator, np.float64),
        *believed.by_level(),
        believed.credible,
        believed.elasticity,
        believed.floor,
        np.zeros((days, int(n_keys[BRAND])), np.bool_) if jumps is None else jumps,
        logs,
        filled,
        state,
    )
    found = [state[offsets[level] : offsets[level + 1]] for level in range(depth)]
    found[0] = found[0] + base  # NaN where nobody was ever seen: then nothing is known of anybody below
    for level in range(1, depth):
        found[level] = found[level] + found[level - 1][parents[level]]
    return Walk(logs, found)


def fade(
    starts: Integers,
    levels: Codes,
    n_keys: Sequence[int],
    exposure: Floats,
    half_lives: Sequence[float],
    logs: Singles | None = None,
) -> list[Floats]:
    """How much was seen of every row's keys, as of the day before. Arguments as of `walk`.

    Args:
        half_lives: in days that have data.
        logs: (n, levels · half-lives), or a view of it, to be filled with log(1 + exposure of earlier days),
            yesterday's at full weight.

    Returns:
        By level (keys, half-lives): the sums as of the last day, its own at full weight.
    """
    from training.features import rate_kernel

    offsets = np.concatenate([[0], np.cumsum(n_keys[: len(levels)])]).astype(np.int64)
    logs = np.empty((0, len(levels) * len(half_lives)), np.float32) if logs is None else logs
    state = np.zeros((int(offsets[-1]), len(half_lives)))
    decay = 0.5 ** (1.0 / np.array(half_lives, np.float64))
    rate_kernel.fade()(
        np.asarray(starts, np.int64), levels, offsets, np.ascontiguousarray(exposure, np.float64), decay, logs, state
    )
    return [state[offsets[level] : offsets[level + 1]] for level in range(len(levels))]
