"""Builds the columns that a model predicts from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.model.model import Columns

PlacementKey = tuple[str, str, str, str, str, float | None]
"""brand, partner, slot, device, creative, placement score: all that a prediction depends on, beside the hour."""


def columns_of(keys: Sequence[PlacementKey], at: int) -> Columns:
    """One row per key. `at`: epoch seconds, for the hour and the day of the week."""
    *ids, scores = zip(*keys, strict=True)
    numbers = np.array([np.nan if score is None else score for score in scores], dtype=np.float64)
    return Columns.of(ids, numbers, np.full(len(keys), at, dtype=np.int64))
