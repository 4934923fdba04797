"""The machine code of `hierarchical_rates.py`: rates that are learned day by day, and sums that lose weight with age.

Numba's cache is only renewed when this file changes, so everything that is compiled is in this file, constants, too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types

from training.arrays import Flags, Floats, Integers, Singles
from training.features import keys
from training.jit import machine_code

BRAND = 1
assert keys.BRAND == BRAND
MEMORY = 0.9
"""Weight of the mean rate's past from one day to the next."""
MOST_SIGMAS = 6.0
"""A day's surprise counts for at most this many standard deviations: larger ones are errors in the data."""
LEAST_SHARE = 1e-4
"""A key's rate counts as at least this share of the mean when its noise is computed."""
DOUBLES, INTEGERS = types.float64[::1], types.int64[::1]


def _expect_rows(
    first: int,
    end: int,
    codes: Any,
    offsets: Integers,
    numerator: Floats,
    denominator: Floats,
    base: float,
    state: Floats,
    logs: Floats,
    factors: Singles,
) -> tuple[float, float]:
    """Fill a day's logs and factors from the state of the day before.

    Returns:
        The day's sums of numerator and denominator.
    """
    of_day, exposed = 0.0, 0.0
    for row in range(first, end):
        of_day += numerator[row]
        exposed += denominator[row]
        total = 0.0
        for level in range(len(codes)):
            factor = state[offsets[level] + codes[level, row]]
            total += factor
            if level and len(factors):
                factors[row, level - 1] = factor
        logs[row] = base + total
    return of_day, exposed


def _sum_by_key(
    first: int,
    end: int,
    codes: Any,
    mark: int,
    numerator: Floats,
    denominator: Floats,
    current: Floats,
    touched_on: Integers,
    touched: Integers,
    seen: Floats,
    expected: Floats,
    exposure: Floats,
) -> int:
    """Fill the sums of a day's rows by their key of one level, and `touched` with these keys.

    A key whose `touched_on` is not `mark` holds sums of another day or level.

    Returns:
        How many keys were touched.
    """
    number = 0
    for row in range(first, end):
        key = codes[row]
        if touched_on[key] != mark:
            touched_on[key] = mark
            touched[number] = key
            number += 1
            seen[key], expected[key], exposure[key] = 0.0, 0.0, 0.0
        seen[key] += numerator[row]
        expected[key] += denominator[row] * current[row]
        exposure[key] += denominator[row]
    return number


def _learn(
    seen: float,
    expected: float,
    exposure: float,
    believed: float,
    shock: float,
    mean: float,
    credible: float,
    elasticity: float,
    floor: float,
) -> tuple[float, float]:
    """(by what a key's factor is multiplied after a day, the variance of its log after the day).

    Args:
        believed: the variance before the day.
        mean: the mean rate of all rows.
    """
    rate = expected / exposure
    noise = credible * (mean / max(rate, mean * LEAST_SHARE)) ** elasticity
    added = floor * noise * rate
    surprise = (max(seen, 0.0) + added) / (expected + added)
    total = believed + shock + noise / exposure
    gain = believed / total
    surprise = min(surprise, 1.0 + MOST_SIGMAS * math.sqrt(total))
    return 1.0 + gain * (surprise - 1.0), (1.0 - gain) * believed


def _spread_priors(prior: Floats, offsets: Integers) -> tuple[Floats, int]:
    """(each key's variance before any data, how many keys the largest level has).

    Written as loops, because numba takes a second and a half to compile numpy's functions for it.
    """
    variance, widest = np.empty(offsets[-1]), 0
    for level in range(len(prior)):
        variance[offsets[level] : offsets[level + 1]] = prior[level]
        widest = max(widest, offsets[level + 1] - offsets[level])
    return variance, widest


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
    factors: Singles,
    state: Floats,
) -> float:
    """Fill logs, factors and state (factors by key); returns the log of the base rate, NaN without any data."""
    variance, widest = _priors(prior, offsets)
    seen, expected, exposure, step = np.empty(widest), np.empty(widest), np.empty(widest), np.empty(widest)
    touched_on, touched, mark = np.full(widest, -1, np.int64), np.empty(widest, np.int64), 0
    current = np.empty(len(numerator))  # each row's rate, with the levels that are updated for the day so far
    base, past_numerator, past_denominator = np.nan, 0.0, 0.0
    for day in range(len(starts) - 1):
        first, end = starts[day], starts[day + 1]
        of_day, exposed = _expect(first, end, codes, offsets, numerator, denominator, base, state, logs, factors)
        if math.isnan(base):
            if of_day <= 0.0 or exposed <= 0.0:
                continue
            base = math.log(of_day / exposed)
            current[first:end] = math.exp(base)
        else:
            for row in range(first, end):
                current[row] = math.exp(logs[row])
        past_numerator, past_denominator = MEMORY * past_numerator + of_day, MEMORY * past_denominator + exposed
        has_past = past_numerator > 0.0 and past_denominator > 0.0
        mean = past_numerator / past_denominator if has_past else math.exp(base)
        for level in range(len(codes)):
            mark += 1
            number = _sum(
                first, end, codes[level], mark, numerator, denominator, current,
                touched_on, touched, seen, expected, exposure,
            )  # fmt: skip
            for index in range(number):
                key = touched[index]
                place = offsets[level] + key
                step[key] = 1.0
                if exposure[key] > 0.0 and expected[key] > 0.0:
                    believed = variance[place] + drift[level]
                    if level == BRAND and jumps[day, key]:
                        believed += 1.0
                    step[key], variance[place] = _learned(
                        seen[key], expected[key], exposure[key], believed, shock[level], mean,
                        credible, elasticity, floor,
                    )  # fmt: skip
                    state[place] += math.log(step[key])
            for row in range(first, end):
                current[row] *= step[codes[level, row]]
    return base


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
def walk() -> Callable[..., float]:
    """`_walk` as machine code."""
    integers, doubles = INTEGERS, DOUBLES
    signature = types.float64(
        integers,
        types.int32[:, ::1],
        integers,
        *[doubles] * 5,
        *[types.float64] * 3,
        types.boolean[:, ::1],
        doubles,
        types.float32[:, :],
        doubles,
    )
    return machine_code(_walk, signature)


@functools.cache
def fade() -> Callable[..., None]:
    """`_fade` as machine code."""
    singles, sums = types.float32[:, :], types.float64[:, ::1]
    return machine_code(_fade, types.void(INTEGERS, types.int32[:, ::1], INTEGERS, DOUBLES, DOUBLES, singles, sums))


_priors: Callable[..., tuple[Floats, int]] = njit(inline="always")(_spread_priors)
_expect: Callable[..., tuple[float, float]] = njit(inline="always")(_expect_rows)
_sum: Callable[..., int] = njit(inline="always")(_sum_by_key)
_learned: Callable[..., tuple[float, float]] = njit(inline="always")(_learn)
