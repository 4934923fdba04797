"""The type of a prediction, as the scoring reads it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ledger.former_names import pickled_as

FloatArray = NDArray[np.float64]


@pickled_as("serve_app.ranking")
class Expectation(NamedTuple):
    """What winning each bid would bring, per impression: (n,) revenue in micros, clicks and conversions as rates."""

    revenue_micros: FloatArray
    ctr: FloatArray
    cvr: FloatArray
    impressions: FloatArray  # of each placement's own history, older ones counting less
    model_version: str
