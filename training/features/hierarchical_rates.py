"""Estimates rates (revenue, clicks … per impression) that change over time, for all brands together and for every level
below.

A key's rate is a product of factors along its path, all → brand → partner → slot → device → creative → placement score.
Every factor is a local level: its log drifts from day to day (variance `drift`) and is observed with a day's noise.
After each day the factors are updated from the top down, each by what the levels above leave unexplained:
factor × (1 + gain × (seen ÷ expected − 1)), with the Kalman gain = V ÷ (V + noise). So a change that hits a whole brand
is distinguished from one that hits a slot, a slot's rank within its brand survives the day on which the brand's payout
is halved, and a key with little history stays near its parent. The step is linear in what was seen, as in credibility
theory, and not in its log: where most days bring nothing and a few bring much, the mean of logs is far below the log of
the mean (4 times too low for the rarest conversions of the simulated market).

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
    """Parameters of a rate's estimation. Variances are of the rate's log, per day.

    Found by walking forward over real days of two sources and over the simulated market; the optimum is flat: halving
    or doubling the drifts and shocks changes R² by less than 0.004 on any of them.
    """

    levels: int = 7  # number of levels of PATH that have a factor
    drift_top: float = 0.01  # of the levels `all` and `brand`
    shock_top: float = 0.01  # of the same: a day's noise that more exposure does not reduce
    drift: float = 0.001  # of the levels below
    shock: float = 0.02
    prior: float = 0.5  # variance of a factor that was never observed, below `all`
    credible: float = 500.0  # exposure at which the noise of an average key's day has variance 1
    elasticity: float = 0.5  # noise ∝ (mean rate ÷ rate)^this; ½ is Tweedie's with power 1.5
    floor: float = 0.2  # share of `credible` that is added to seen and expected, so that no rate becomes zero

    def by_level(self) -> tuple[Floats, Floats, Floats]:
        """(levels,) each: drift, shock, prior."""
        top = min(self.levels, BRAND + 1)
        below = self.levels - top
        drift = np.array([self.drift_top] * top + [self.drift] * below)
        shock = np.array([self.shock_top] * top + [self.shock] * below)
        return drift, shock, np.array([1.0] + [self.prior] * (self.levels - 1))


class Walk(NamedTuple):
    """What a walk over the days gives."""

    logs: Floats  # (n,) log rate of each row as of the day before, NaN before the first day with data
    state: list[Floats]  # by level (keys,): log rate of each key for the day after the last, NaN without any data


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
    """Walk forward over the days: each row gets the rate that earlier days say, then its day is learned from.

    Args:
        starts: (days + 1,) where each day's rows begin; rows are in the order of their days.
        levels: (levels, n) a code for each row and level; the first level is `all`.
        n_keys: how many codes a level has.
        parents: by level (keys,) each key's code in the level above.
        numerator, denominator: (n,) the rate is their ratio; the denominator ≥ 0.
        believed: the parameters of this rate.
        jumps: (days, brands) true where a brand's payout has changed: its level is learned again from that day.
        factors: (n, levels − 1), or a view of it, filled with every row's factors but that of `all`.
    """
    from training.features import rate_kernel  # imports numba, half a second that only training should spend

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
    found[0] = found[0] + base  # NaN without any data, which makes the levels below NaN, too
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
    """Sum the exposure of every row's keys as of the day before, older days counting less. Arguments as of `walk`.

    Args:
        half_lives: in days that have data.
        logs: (n, levels · half-lives), or a view of it, filled with log(1 + exposure of earlier days), the day before
            at full weight.

    Returns:
        By level (keys, half-lives): the sums as of the last day, which has full weight.
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
