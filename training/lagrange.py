"""λ from logged opportunities: a brand's price of cost under its ROAS target and its budget, and its portfolio's. Pure.

Maximise Σ revenue over the opportunities that are won, subject for the brand (b) and its portfolio (p) to
Σ revenue ≥ τ · Σ cost and Σ cost ≤ budget. With multipliers μ on the first and ν on the second constraint an
opportunity is won iff revenue ≥ κ · cost, where κ = (μ_b τ_b + μ_p τ_p + ν_b + ν_p) ÷ (1 + μ_b + μ_p).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEAST_OPPORTUNITIES = 200
"""Fewer logged opportunities say too little: the brand keeps its cold start."""
ROUNDS = 4_000
TOLERANCE = 1e-4
SMOOTHING = 0.02
"""Width, relative to κ, of the margin within which an opportunity is taken in part."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """Of a brand or a portfolio."""

    target_roas: float | None  # None: no target
    budget_micros: float | None  # over the opportunities' time; None: unlimited


@dataclass(frozen=True, slots=True)
class Opportunities:
    """One brand's, n of each; weight = how many such opportunities one row stands for."""

    revenue_micros: Floats
    cost_micros: Floats
    weight: Floats


class BrandFit(NamedTuple):
    brand_id: str
    kappa: float
    mu_brand: float
    mu_portfolio: float
    nu_brand: float
    nu_portfolio: float
    opportunities: int


class _Sketch(NamedTuple):
    """Opportunities sorted by revenue ÷ cost, best first, as prefix sums: who wins at κ is one search."""

    ratio: Floats  # (n,) descending
    revenue: Floats  # (n + 1,) prefix sums
    cost: Floats  # (n + 1,)

    @classmethod
    def of(cls, seen: Opportunities) -> _Sketch:
        ratio = seen.revenue_micros / np.maximum(seen.cost_micros, 1e-12)
        order = np.argsort(-ratio, kind="stable")
        prefix = [
            np.concatenate([[0.0], np.cumsum((values * seen.weight)[order])])
            for values in (seen.revenue_micros, seen.cost_micros)
        ]
        return cls(ratio[order], prefix[0], prefix[1])

    def won(self, kappa: float) -> tuple[float, float]:
        """(revenue, cost) of what is worth κ; the marginal rows in part, so that sums move smoothly with κ."""
        low, high = kappa * (1 - SMOOTHING), kappa * (1 + SMOOTHING)
        # Averaging the step over a margin of κ makes the dual differentiable.
        points = np.linspace(low, high, 9)
        at = np.searchsorted(-self.ratio, -points, side="right")
        return float(self.revenue[at].mean()), float(self.cost[at].mean())
