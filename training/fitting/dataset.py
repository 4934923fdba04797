"""Turns a history into a training set for the trees.

The trees start from the expectation of the histories and learn by what factor it is wrong, depending on the features.
By what factor a whole brand's day with a partner missed its expectation (a shock) is put into the offset: otherwise the
trees would memorise the days of the past. The histories know of it from the day after.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from training.arrays import Flags, Floats, Integers, Singles
from training.features.encoder import Encoder
from training.features.histories import EXPOSURE, REVENUE, measures, payout_breaks
from training.features.keys import BRAND, Keys, starts_of
from training.features.layout import FEATURES
from training.features.matrix import as_of_the_day_before
from training.settings import ModelSettings

SHOCK_EXPOSURE = 2000.0
"""Impressions at the day's mean rate that are added to a brand's day with a partner before its shock is measured, so
that small days have small shocks."""
MOST_SHOCK = 3.0
PARTNER = 2
"""The level of PATH that has shocks: partner within brand."""


class Examples(NamedTuple):
    """The n rows that a fit reads."""

    matrix: Singles  # (n, len(FEATURES))
    target: Floats  # (n,) revenue per exposure ÷ its mean, ≥ 0
    weight: Floats  # (n,) ≥ 0, with mean 1
    offset: Floats  # (n,) log of the expectation that the trees start from, on the target's scale

    @classmethod
    def neutral(cls) -> Examples:
        """For a history without revenue: examples whose trees leave every expectation as it is."""
        one = np.ones(1)
        return cls(np.zeros((1, len(FEATURES)), np.float32), one, one, np.zeros(1))


class PayoutBreak(NamedTuple):
    """A day from which on a brand pays another amount."""

    brand_id: str
    day: int  # since 1970
    before_micros: float  # revenue per click or impression
    after_micros: float
    per: str  # click | impression


class TrainingSet(NamedTuple):
    """A history as a training set; rows are in the order of their days."""

    frame: pd.DataFrame  # the history, see `etl/reader.py`
    keys: Keys
    numbers: Floats  # (n, measures)
    matrix: Singles  # (n, features), as of the day before each row's
    heads: Floats  # (n, 4), the columns of `layout.Heads`, as of the day before, too
    target: Floats  # (n,) revenue per exposure in micros, ≥ 0
    shock: Floats  # (n,) log(realised ÷ expected) of the row's brand and partner on its day
    days: Integers  # (n,) since 1970

    @classmethod
    def of(cls, frame: pd.DataFrame, pending_share: float | Mapping[str, float]) -> TrainingSet:
        """The training set of a history.

        Args:
            frame: in any order; rows of a day keep theirs.
            pending_share: see `histories.measures`.
        """
        if not frame["day"].is_monotonic_increasing:
            frame = frame.sort_values("day", kind="stable", ignore_index=True)
        days = frame["day"].to_numpy(np.int64)
        keys = Keys.of(frame)
        numbers = measures(frame, pending_share)
        matrix, heads = as_of_the_day_before(frame, keys, numbers)
        found = target(frame, keys, numbers)
        return cls(frame, keys, numbers, matrix, heads, found, shocks(days, keys, numbers, heads, found), days)

    @property
    def exposure(self) -> Floats:
        """(n,) impressions, or clicks: see `histories.measures`."""
        return self.numbers[:, EXPOSURE]

    def before(self, day: int) -> Flags:
        """(n,) whether a row is before `day` and has exposure, so that a fit may use it."""
        usable: Flags = (self.days < day) & (self.exposure > 0)
        return usable

    def payout_breaks(self) -> list[PayoutBreak]:
        """Days from which on a brand pays another amount per click or impression, in order."""
        starts = starts_of(self.days)
        brands = self.keys.labels[BRAND]
        return [
            PayoutBreak(
                self.keys.vocabulary[0][int(brands[one.brand])],
                int(self.days[starts[one.day]]),
                one.before_micros,
                one.after_micros,
                one.per,
            )
            for one in payout_breaks(starts, self.keys, self.numbers)
        ]

    def encoder(self, through: int) -> Encoder:
        """A version's tables as of the end of day `through` (since 1970)."""
        end = int(np.searchsorted(self.days, through, side="right"))
        keys = self.keys if end == len(self.days) else Keys.of(self.frame.iloc[:end], self.keys.vocabulary)
        return Encoder.fitted(self.days[:end], keys, self.numbers[:end])

    def examples(self, day: int, settings: ModelSettings) -> Examples:
        """What a fit on the days before `day` reads; views of this set where possible."""
        end = int(np.searchsorted(self.days, day))
        expected, exposure = self.heads[:end, 0], self.exposure[:end]
        weight = np.where(expected > 0, exposure, 0.0) * recency(self.days[:end], settings.weight_half_life_days)
        scale = float(weight @ self.target[:end]) / max(float(weight.sum()), 1e-300)
        if not scale > 0:
            return Examples.neutral()
        weight *= np.count_nonzero(weight) / weight.sum()
        offset = np.log(np.maximum(expected, 1e-300) / scale) + self.shock[:end]
        return Examples(self.matrix[:end], self.target[:end] / scale, weight, np.where(weight > 0, offset, 0.0))


def target(frame: pd.DataFrame, keys: Keys, numbers: Floats) -> Floats:
    """(n,) revenue per exposure in micros, ≥ 0.

    In hourly rows a click's revenue may fall into an hour without impressions: it is spread over the day's hours of the
    same placement, so that it is not lost to the trees.
    """
    revenue, exposure = numbers[:, REVENUE], numbers[:, EXPOSURE]
    if (frame["hour"].to_numpy() >= 0).any():
        places = keys.levels[-1].astype(np.int64) * 100_000 + frame["day"].to_numpy(np.int64)
        _, groups = np.unique(places, return_inverse=True)
        orphaned = np.bincount(groups, weights=np.where(exposure > 0, 0.0, revenue))[groups]
        of_day = np.bincount(groups, weights=exposure)[groups]
        revenue = revenue + np.where(of_day > 0, orphaned * exposure / np.maximum(of_day, 1e-9), 0.0)
    rate: Floats = np.maximum(revenue, 0.0) / np.maximum(exposure, 1e-9)
    return np.where(exposure > 0, rate, 0.0)


def shocks(days: Integers, keys: Keys, numbers: Floats, heads: Floats, target: Floats) -> Floats:
    """(n,) log(realised ÷ expected) revenue of each row's (brand, partner, day), shrunk to none where it is small."""
    if not len(days):
        return np.zeros(0)
    exposure = numbers[:, EXPOSURE]
    earned, expected = target * exposure, heads[:, 0] * exposure
    _, of_day = np.unique(days, return_inverse=True)
    mean = np.bincount(of_day, weights=earned) / np.maximum(np.bincount(of_day, weights=exposure), 1e-9)
    _, groups = np.unique(of_day * len(keys.labels[PARTNER]) + keys.levels[PARTNER], return_inverse=True)
    usual = SHOCK_EXPOSURE * mean[of_day]
    found = np.zeros(len(days))
    realised, foreseen = (np.bincount(groups, weights=values)[groups] for values in (earned, expected))
    some = usual > 0
    found[some] = np.log((realised[some] + usual[some]) / (foreseen[some] + usual[some]))
    return np.clip(found, -MOST_SHOCK, MOST_SHOCK)


def recency(days: Integers, half_life_days: float) -> Floats:
    """(n,) halved for every half-life of age, counted in days that have data; the newest is 1."""
    if not len(days):
        return np.zeros(0)
    clock = np.cumsum(np.r_[False, np.diff(days) > 0])
    age: Floats = 0.5 ** ((clock[-1] - clock) / half_life_days)
    return age
