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

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from training.arrays import Codes, Flags, Floats, Integers, Singles

BRAND = 1
"""The level below everybody."""
MEMORY = 0.9
"""How much of the mean rate's past is kept from day to day."""
MOST_SIGMAS = 6.0
"""A day's surprise counts at most this many standard deviations: beyond lie errors of somebody's books."""
LEAST_SHARE = 1e-4
"""A key's rate counts as at least this share of the mean when its noise is judged."""


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
    depth = believed.levels
    offsets = np.concatenate([[0], np.cumsum(n_keys[:depth])]).astype(np.int64)
    days = len(starts) - 1
    logs = np.empty(len(numerator))
    kept = np.empty((0, depth), np.float32) if factors is None else factors
    state = np.zeros(int(offsets[-1]))
    base = _compiled()(
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
        kept,
        state,
    )
    found = [state[offsets[level] : offsets[level + 1]] for level in range(depth)]
    found[0] = found[0] + base  # NaN where nobody was ever seen: then nothing is known of anybody below
    for level in range(1, depth):
        found[level] = found[level] + found[level - 1][parents[level]]
    return Walk(logs, found)


def _walk(
    starts: Integers,
    codes: Any,
    offsets: Integers,
    numerator: Floats,
    denominator: Floats,
    drift: Floats,
    shock: Floats,
    prior: Floats,
    credible: float,
    elasticity: float,
    floor: float,
    jumps: Flags,
    logs: Floats,
    kept: Singles,
    state: Floats,
) -> float:
    """Fills logs, kept and state (factors by key); gives the log of the rate that all of them multiply."""
    depth = len(codes)
    variance = np.empty(len(state))
    widest = 0
    for level in range(depth):
        variance[offsets[level] : offsets[level + 1]] = prior[level]
        widest = max(widest, offsets[level + 1] - offsets[level])
    seen, expected, exposure, step = np.empty(widest), np.empty(widest), np.empty(widest), np.empty(widest)
    touched_on = np.full(widest, -1, np.int64)
    touched = np.empty(widest, np.int64)
    current = np.empty(len(numerator))  # each row's rate, as far as the day's levels are known
    base = np.nan
    past_numerator, past_denominator = 0.0, 0.0
    mark = 0
    for day in range(len(starts) - 1):
        first, end = starts[day], starts[day + 1]
        of_day, exposed = 0.0, 0.0
        for row in range(first, end):
            of_day += numerator[row]
            exposed += denominator[row]
            total = 0.0
            for level in range(depth):
                factor = state[offsets[level] + codes[level, row]]
                total += factor
                if level and len(kept):
                    kept[row, level - 1] = factor
            logs[row] = base + total
        if math.isnan(base):
            if of_day <= 0.0 or exposed <= 0.0:
                continue
            base = math.log(of_day / exposed)
            for row in range(first, end):
                current[row] = math.exp(base)
        else:
            for row in range(first, end):
                current[row] = math.exp(logs[row])
        past_numerator = MEMORY * past_numerator + of_day
        past_denominator = MEMORY * past_denominator + exposed
        mean = math.exp(base)
        if past_numerator > 0.0 and past_denominator > 0.0:
            mean = past_numerator / past_denominator
        for level in range(depth):
            number, mark = 0, mark + 1
            for row in range(first, end):
                key = codes[level, row]
                if touched_on[key] != mark:
                    touched_on[key] = mark
                    touched[number] = key
                    number += 1
                    seen[key], expected[key], exposure[key] = 0.0, 0.0, 0.0
                seen[key] += numerator[row]
                expected[key] += denominator[row] * current[row]
                exposure[key] += denominator[row]
            for index in range(number):
                key = touched[index]
                place = offsets[level] + key
                step[key] = 1.0
                if exposure[key] <= 0.0 or expected[key] <= 0.0:
                    continue
                rate = expected[key] / exposure[key]
                noise = credible * (mean / max(rate, mean * LEAST_SHARE)) ** elasticity
                added = floor * noise * rate
                surprise = (max(seen[key], 0.0) + added) / (expected[key] + added)
                believed = variance[place] + drift[level]
                if level == BRAND and jumps[day, key]:
                    believed += 1.0
                total = believed + shock[level] + noise / exposure[key]
                gain = believed / total
                surprise = min(surprise, 1.0 + MOST_SIGMAS * math.sqrt(total))
                step[key] = 1.0 + gain * (surprise - 1.0)
                state[place] += math.log(step[key])
                variance[place] = (1.0 - gain) * believed
            for row in range(first, end):
                current[row] *= step[codes[level, row]]
    return base


@functools.cache
def _compiled() -> Callable[..., float]:
    from numba import types  # half a second that only who learns should pay

    from training.jit import machine_code

    doubles, integers = types.float64[::1], types.int64[::1]
    return machine_code(
        _walk,
        types.float64(
            integers,
            types.int32[:, ::1],
            integers,
            *[doubles] * 5,
            *[types.float64] * 3,
            types.boolean[:, ::1],
            doubles,
            types.float32[:, :],
            doubles,
        ),
    )


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
    offsets = np.concatenate([[0], np.cumsum(n_keys[: len(levels)])]).astype(np.int64)
    logs = np.empty((0, len(levels) * len(half_lives)), np.float32) if logs is None else logs
    state = np.zeros((int(offsets[-1]), len(half_lives)))
    decay = 0.5 ** (1.0 / np.array(half_lives, np.float64))
    _compiled_fade()(
        np.asarray(starts, np.int64), levels, offsets, np.ascontiguousarray(exposure, np.float64), decay, logs, state
    )
    return [state[offsets[level] : offsets[level + 1]] for level in range(len(levels))]


def _fade(
    starts: Integers, codes: Any, offsets: Integers, exposure: Floats, decay: Floats, logs: Singles, state: Floats
) -> None:
    days = len(starts) - 1
    last = np.zeros(len(state), np.int64)
    for day in range(days):
        for level in range(len(codes)):
            for row in range(starts[day], starts[day + 1] if len(logs) else starts[day]):
                place = offsets[level] + codes[level, row]
                for index in range(len(decay)):
                    known = state[place, index]
                    if last[place] < day:
                        known *= decay[index] ** (day - 1 - last[place])
                    logs[row, level * len(decay) + index] = math.log1p(known)
            for row in range(starts[day], starts[day + 1]):
                place = offsets[level] + codes[level, row]
                if last[place] < day:
                    for index in range(len(decay)):
                        state[place, index] *= decay[index] ** (day - last[place])
                    last[place] = day
                for index in range(len(decay)):
                    state[place, index] += exposure[row]
    for place in range(len(state)):
        for index in range(len(decay)):
            state[place, index] *= decay[index] ** (days - 1 - last[place])


@functools.cache
def _compiled_fade() -> Callable[..., None]:
    from numba import types

    from training.jit import machine_code

    return machine_code(
        _fade,
        types.void(
            types.int64[::1],
            types.int32[:, ::1],
            types.int64[::1],
            types.float64[::1],
            types.float64[::1],
            types.float32[:, :],
            types.float64[:, ::1],
        ),
    )
