"""The columns of the feature matrix that the trees read, and of the expectations (heads) beside it."""

from __future__ import annotations

from typing import NamedTuple

from training.arrays import Floats
from training.features.keys import LEVELS, PATH

HALF_LIVES_DAYS = (1.0, 10.0)
"""Half-lives with which a key's exposure is summed."""

FEATURES = (
    *(f"{level}_exposure_{half_life:g}d" for level in PATH for half_life in HALF_LIVES_DAYS),
    *(f"{level}_factor" for level in LEVELS),
    "log_revenue",
    "momentum",
    "log_ctr",
    "log_cvr",
    "log_roas",
    "device_type",
    "creative_type",
    "placement_score",
    "day_of_week",
    "hour",
)
"""Codes of brand, partner and slot are left out: their histories say what matters, and with their codes the trees
memorised days (R² fell by 0.002 on one real file and did not rise on the other)."""
N_EXPOSURE = len(PATH) * len(HALF_LIVES_DAYS)
FACTORS_FROM = N_EXPOSURE
LOGS_FROM = FACTORS_FROM + len(LEVELS)
CODES_FROM = LOGS_FROM + 5
CODED = (3, 4)
"""Which of ID_COLUMNS are features themselves: device and creative."""
PLACEMENT = CODES_FROM + len(CODED)
DAY_OF_WEEK, HOUR = PLACEMENT + 1, PLACEMENT + 2
NO_HOUR = -1.0


class Heads(NamedTuple):
    """(n,) expectations per exposure from histories alone."""

    revenue_micros: Floats  # 0 where no brand has earned anything yet
    ctr: Floats
    cvr: Floats
    cost_micros: Floats  # NaN where no cost was ever known


N_HEADS = len(Heads._fields)
