"""λ from logged opportunities: a brand's price of cost under its ROAS target and its budget, and its portfolio's. Pure.

Maximise Σ revenue over the opportunities that are won, subject for the brand (b) and its portfolio (p) to
Σ revenue ≥ τ · Σ cost and Σ cost ≤ budget. With multipliers μ on the first and ν on the second constraint an
opportunity is won iff revenue ≥ κ · cost, where κ = (μ_b τ_b + μ_p τ_p + ν_b + ν_p) ÷ (1 + μ_b + μ_p).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEAST_OPPORTUNITIES = 200
"""Fewer logged opportunities say too little: the brand keeps its cold start."""
ROUNDS = 3_000
TOLERANCE = 1e-3
"""Stop when constraints and duality gap are within this share."""
MOST = 1e4
"""A multiplier beyond this means that nothing satisfies its constraint."""
MARGIN = 0.002
"""Opportunities within this share of κ are won in part, so that the dual's gradient is continuous."""
FIRST_STEP, LEAST_STEP, FASTER, SLOWER = 0.05, 1e-7, 1.2, 0.5


@dataclass(frozen=True, slots=True)
class Constraint:
    """Of a brand or a portfolio."""

    target_roas: float | None  # None: no target
    budget_micros: float | None  # over the time of the opportunities; None: unlimited


@dataclass(frozen=True, slots=True)
class Opportunities:
    """One brand's; n of each."""

    revenue_micros: Floats  # predicted, ≥ 0
    cost_micros: Floats  # predicted, ≥ 0
    weight: Floats  # how many such opportunities one row stands for


class BrandFit(NamedTuple):
    brand_id: str
    kappa: float
    mu_brand: float
    mu_portfolio: float
    nu_brand: float
    nu_portfolio: float
    opportunities: int


class _Sorted:
    """Opportunities by revenue ÷ cost, best first, as prefix sums: what is won at κ is one search."""

    def __init__(self, seen: Opportunities) -> None:
        ratio = seen.revenue_micros / np.maximum(seen.cost_micros, 1e-9)
        order = np.argsort(-ratio, kind="stable")
        self._worse = -ratio[order]  # ascending
        self._revenue = np.concatenate([[0.0], np.cumsum((seen.revenue_micros * seen.weight)[order])])
        self._cost = np.concatenate([[0.0], np.cumsum((seen.cost_micros * seen.weight)[order])])

    def won(self, kappa: float, margin: float = MARGIN) -> tuple[float, float]:
        """(revenue, cost) of the opportunities worth κ; those within the margin in part."""
        points = kappa * (1 + margin * np.linspace(-1, 1, 17)) if margin else np.array([kappa])
        at = np.searchsorted(self._worse, -points, side="right")
        return float(self._revenue[at].mean()), float(self._cost[at].mean())

    @property
    def total_cost(self) -> float:
        return float(self._cost[-1])


def fit(brands: Mapping[str, tuple[Opportunities, Constraint]], portfolio: Constraint | None = None) -> list[BrandFit]:
    """κ of every brand with enough opportunities; together, when they share a portfolio.

    Args:
        brands: brand_id → what it could have won, and its own limits.
        portfolio: the limits that they share; None when each stands alone (then fit them one at a time).

    Returns:
        One fit a brand, in the order of their ids; brands with too few opportunities have none.

    Source: Lagrangian of revenue under ROAS and budget constraints, arXiv:2302.08530.

    >>> seen = Opportunities(np.array([3.0, 1.0] * 100), np.ones(200), np.ones(200))
    >>> [round(f.kappa, 1) for f in fit({"b": (seen, Constraint(2.5, None))})]
    [1.0]
    """
    chosen = sorted(name for name, (seen, _) in brands.items() if len(seen.weight) >= LEAST_OPPORTUNITIES)
    if not chosen:
        return []
    if portfolio is None and len(chosen) > 1:
        return [one for name in chosen for one in fit({name: brands[name]})]
    problem = _Problem(
        [_Sorted(brands[name][0]) for name in chosen],
        [brands[name][1] for name in chosen],
        portfolio or Constraint(None, None),
    )
    multipliers = _descend(problem)
    kappas = problem.tightened(problem.kappas(multipliers))
    mu_b, nu_b, mu_p, nu_p = problem.split(multipliers)
    return [
        BrandFit(name, kappa, float(mu), mu_p, float(nu), nu_p, len(brands[name][0].weight))
        for name, kappa, mu, nu in zip(chosen, kappas, mu_b, nu_b, strict=True)
    ]


class _Problem:
    """The dual's value and gradient. Money is in shares of all cost, so that one step size fits every brand."""

    def __init__(self, seen: list[_Sorted], limits: list[Constraint], shared: Constraint) -> None:
        self.seen, self.limits, self.shared = seen, limits, shared
        self.n = len(seen)
        self.scale = max(sum(one.total_cost for one in seen), 1e-9)

    def split(self, multipliers: Floats) -> tuple[Floats, Floats, float, float]:
        """(μ of the brands, ν of the brands, μ and ν of the portfolio)."""
        n = self.n
        return multipliers[:n], multipliers[n : 2 * n], float(multipliers[2 * n]), float(multipliers[2 * n + 1])

    def kappas(self, multipliers: Floats) -> list[float]:
        mu_b, nu_b, mu_p, nu_p = self.split(multipliers)
        shared = mu_p * (self.shared.target_roas or 0.0) + nu_p
        return [
            float((mu * (limit.target_roas or 0.0) + nu + shared) / (1 + mu + mu_p))
            for mu, nu, limit in zip(mu_b, nu_b, self.limits, strict=True)
        ]

    def slack(self, kappas: list[float], margin: float = MARGIN) -> tuple[Floats, Floats, float]:
        """(how much of each constraint is left, its size, the revenue), in the multipliers' order.

        The slack of a constraint is the dual's derivative by its multiplier; infinite where there is no such limit.
        """
        won = [one.won(kappa, margin) for one, kappa in zip(self.seen, kappas, strict=True)]
        revenue = np.array([r for r, _ in won]) / self.scale
        cost = np.array([c for _, c in won]) / self.scale
        parts = [
            *((limit.target_roas, None, r, c) for limit, r, c in zip(self.limits, revenue, cost, strict=True)),
            *((None, limit.budget_micros, r, c) for limit, r, c in zip(self.limits, revenue, cost, strict=True)),
            (self.shared.target_roas, None, revenue.sum(), cost.sum()),
            (None, self.shared.budget_micros, revenue.sum(), cost.sum()),
        ]
        slack, size = np.full(len(parts), np.inf), np.ones(len(parts))
        for position, (target, budget, r, c) in enumerate(parts):
            if target is not None:
                slack[position], size[position] = r - target * c, max(target * c, 1e-12)
            elif budget is not None:
                slack[position], size[position] = budget / self.scale - c, max(budget / self.scale, 1e-12)
        return slack, size, float(revenue.sum())

    def tightened(self, kappas: list[float]) -> list[float]:
        """κ raised until every limit holds without the margin: brands first, then the portfolio's common floor."""
        raised = []
        for position, kappa in enumerate(kappas):
            one = _Problem([self.seen[position]], [self.limits[position]], Constraint(None, None))
            raised.append(_least(kappa, lambda k, one=one: one._holds([k])))  # type: ignore[misc]
        floor = _least(0.0, lambda low: self._holds([max(low, kappa) for kappa in raised]))
        return [max(floor, kappa) for kappa in raised]

    def _holds(self, kappas: list[float]) -> bool:
        slack, size, _ = self.slack(kappas, margin=0.0)
        return bool((slack >= -1e-9 * size).all())


def _least(kappa: float, holds: Callable[[float], bool]) -> float:
    """The least κ at or above the given one with which the limits hold, to six digits."""
    if holds(kappa):
        return kappa
    low, high = kappa, max(kappa, 1e-6) * 1.001
    while not holds(high) and high < 1e12:
        low, high = high, high * 1.5
    while high - low > 1e-7 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _descend(problem: _Problem) -> Floats:
    """Projected gradient on the dual; a step of its own for each multiplier, halved when its slope turns.

    Stops when no limit is exceeded and the duality gap (Σ multiplier × slack) has closed, both to TOLERANCE.
    """
    n = 2 * problem.n + 2
    multipliers, step, last = np.zeros(n), np.full(n, FIRST_STEP), np.zeros(n)
    best, best_gap = multipliers, math.inf
    for _ in range(ROUNDS):
        slack, size, revenue = problem.slack(problem.kappas(multipliers))
        limited = np.isfinite(slack)
        excess = float(np.max(np.where(limited, -slack / size, 0.0), initial=0.0))
        gap = float(np.sum(multipliers[limited] * np.abs(slack[limited]))) / max(revenue, 1e-12)
        if max(excess, gap) < best_gap:
            best, best_gap = multipliers, max(excess, gap)
        if best_gap <= TOLERANCE:
            break
        direction = np.where(limited, -np.sign(slack), 0.0)
        turned = direction * last < 0
        step = np.clip(
            np.where(turned, step * SLOWER, np.where(direction == last, step * FASTER, step)), LEAST_STEP, 10.0
        )
        last = direction
        multipliers = np.clip(multipliers + direction * step, 0.0, MOST)
        # At its bound a multiplier waits: its step starts small again.
        step = np.where(multipliers == 0.0, FIRST_STEP, step)
    return best
