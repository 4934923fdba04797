"""Codes a row's placement: brand → partner → slot → device → creative → score, each within the one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from training.arrays import Codes, Integers
from training.columns import ID_COLUMNS

LEVELS = ("brand", "partner", "slot", "device", "creative", "placement")
PATH = ("all", *LEVELS)
BRAND = 1
"""The level of PATH that follows `all`."""
NO_SCORE = float("-inf")
"""Stands for "no placement score" in keys, since NaN is not equal to itself; scores are finite."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Every row's placement as codes."""

    ids: list[Codes]  # five times (n,): codes into `vocabulary`; −1 is unknown
    vocabulary: list[list[str]]  # five lists of ids
    levels: Codes  # (PATH, n): one code for each distinct key of the level
    parents: list[Codes]  # by level of PATH (keys,): each key's code in the level above
    labels: list[npt.NDArray[Any]]  # by level of PATH (keys,): the id's code; at the last level the score, NaN for none

    @classmethod
    def of(cls, frame: pd.DataFrame, vocabulary: list[list[str]] | None = None) -> Self:
        """The codes of a history's rows. Ids are coded in alphabetical order, whatever the order of rows.

        Args:
            vocabulary: five lists of ids to code by; None: those of the frame.
        """
        ids: list[Codes] = []
        known: list[list[str]] = []
        for position, name in enumerate(ID_COLUMNS):
            words = sorted(frame[name].unique().tolist()) if vocabulary is None else vocabulary[position]
            codes = pd.Index(words, dtype=object).get_indexer(pd.Index(frame[name], dtype=object))
            ids.append(codes.astype(np.int32))
            known.append(words)
        scores = frame["placement_score"].to_numpy(np.float64)
        _, score_codes = np.unique(np.where(np.isnan(scores), NO_SCORE, scores), return_inverse=True)
        levels = np.zeros((len(PATH), len(frame)), np.int32)
        parents: list[Codes] = [np.zeros(1, np.int32)]
        labels_of: list[npt.NDArray[Any]] = [np.zeros(1, np.int32)]
        columns: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = [*zip(ids, ids, strict=True), (score_codes, scores)]
        for level, (column, values) in enumerate(columns, start=1):
            place = levels[level - 1].astype(np.int64) * (int(column.max(initial=0)) + 2) + column + 1
            levels[level] = pd.factorize(place)[0]
            first = np.unique(levels[level], return_index=True)[1]
            parents.append(levels[level - 1][first])
            labels_of.append(values[first])
        return cls(ids, known, levels, parents, labels_of)

    @property
    def counts(self) -> list[int]:
        """How many keys each level of PATH has."""
        return [len(labels) for labels in self.labels]


def starts_of(days: Integers) -> Integers:
    """(days + 1,) where each day's rows begin, of (n,) days in ascending order.

    >>> starts_of(np.array([5, 5, 7])).tolist()
    [0, 2, 3]
    """
    first = np.flatnonzero(np.diff(days, prepend=days[:1] - 1)) if len(days) else np.empty(0, np.int64)
    return np.append(first, len(days)).astype(np.int64)
