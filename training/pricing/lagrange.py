"""Fits κ, a brand's price of cost under its own and its portfolio's ROAS target and budget, to opportunities. Pure.

Maximise Σ revenue over the opportunities that are won, subject for the brand (b) and its portfolio (p) to
Σ revenue ≥ τ · Σ cost and Σ cost ≤ budget. With multipliers μ on the first and ν on the second constraint an
opportunity is won iff revenue ≥ κ · cost, where κ = (μ_b τ_b + μ_p τ_p + ν_b + ν_p) ÷ (1 + μ_b + μ_p).

The LP that may win an opportunity in part has the dual Σ max(0, (1 + μ_b + μ_p) · revenue − (…) · cost) + Σ ν · budget.
It is convex and piecewise linear, with kinks where κ = revenue ÷ cost, and its derivative by a multiplier is the slack
of that multiplier's constraint. `fit` descends it by projected gradient, a block of multipliers at a time, with the
exact step: opportunities sorted by revenue ÷ cost, slacks as prefix sums, the step ends at the kink where the slope
turns. A brand's best revenue is concave in its cost, so its limits need one least price whatever the portfolio
charges, and the portfolio's price is a floor under those of its members: two rounds are exact. That is not taken on
trust: after each round the KKT residual and the duality gap are computed, and decide whether the fit has converged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from training.arrays import Flags, Floats

LEAST_OPPORTUNITIES = 200
"""With fewer logged opportunities a brand is not fitted, and starts from its target."""
TOLERANCE = 1e-6
"""A fit has converged when its KKT residual and its duality gap are within this share."""
ROUNDING = 1e-9
"""A limit is kept if it is exceeded by no more than this share; ratios that differ by less are equal."""
MOST_MU = 1e9
"""Largest multiplier: a target that cannot be reached would need an infinite one; at this one κ equals the target
within ROUNDING."""
MOST_RATIO = 1e12
"""Largest revenue ÷ cost, so that κ stays finite."""
SAMPLE = 5_000
"""Most opportunities in one check against the LP."""
TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Constraint:
    """The limits of a brand or a portfolio."""

    target_roas: float | None  # None: no target
    budget_micros: float | None  # over the time of the opportunities; None: unlimited


@dataclass(frozen=True, slots=True)
class Opportunities:
    """One brand's n opportunities."""

    revenue_micros: Floats  # predicted, ≥ 0
    cost_micros: Floats  # predicted, ≥ 0
    weight: Floats  # how many such opportunities one row stands for, > 0


class Convergence(NamedTuple):
    """How close a fit is to the optimum."""

    rounds: int
    kkt_residual: float  # largest excess of a limit, or multiplier × slack, as a share
    duality_gap: float  # 1 − revenue won ÷ dual value
    converged: bool


class BrandFit(NamedTuple):
    """A brand's κ, and how it was found."""

    brand_id: str
    kappa: float  # of the policy that wins whole opportunities, so that the targets hold
    mu_brand: float  # multipliers of the LP, which wins the last opportunity in part
    mu_portfolio: float
    nu_brand: float
    nu_portfolio: float
    opportunities: int
    limit: Constraint
    shared: Constraint | None  # the portfolio's
    unreachable: bool  # no opportunity reaches the target: κ is the target, and nothing that costs is won
    convergence: Convergence  # of the brand and all brands of its portfolio


class LpCheck(NamedTuple):
    """A sample fitted again, compared with the LP's optimum as HiGHS finds it; shares of that optimum."""

    opportunities: int
    lp_gap: float  # difference of the fit's dual value, or of the revenue won in part, from the optimum
    policy_loss: float  # what κ loses by winning whole opportunities; below 0 the last one exceeds a budget


Brands = Mapping[str, tuple[Opportunities, Constraint]]
NO_LIMIT = Constraint(None, None)


def fit(brands: Brands, portfolio: Constraint | None = None) -> list[BrandFit]:
    """κ of every brand with enough opportunities; jointly, if they share a portfolio.

    A brand with too few of them gets no fit, but uses its part of the portfolio's budget.

    Args:
        brands: brand_id → its opportunities and its own limits.
        portfolio: the limits that they share; None: each brand is fitted by itself.

    Returns:
        One fit a brand, in the order of their ids. Against the LP that wins in part, κ loses at most one marginal
        opportunity (all that tie with it) for each binding limit: with m the multipliers that the policy's own prices
        imply, LP − revenue ≤ Σ m · slack ≤ Σ over binding limits of m · (what the first one not won would use of it).

    Raises:
        ValueError: revenue or cost is negative or not finite, or a weight is not positive.

    Source: Lagrangian of revenue under ROAS and budget constraints, arXiv:2302.08530.

    >>> seen = Opportunities(np.array([3.0, 1.0] * 100), np.ones(200), np.ones(200))
    >>> [round(f.kappa, 1) for f in fit({"b": (seen, Constraint(1.9, None))})]
    [0.0]
    >>> [round(f.kappa, 1) for f in fit({"b": (seen, Constraint(2.5, None))})]
    [2.0]
    """
    if portfolio is None:
        groups = [{name: brands[name]} for name in sorted(brands)]
    else:
        groups = [{name: brands[name] for name in sorted(brands)}]
    found: list[BrandFit] = []
    for group in groups:
        if any(len(seen.weight) >= LEAST_OPPORTUNITIES for seen, _ in group.values()):
            found += [one for one in _Group(group, portfolio).fits() if one.opportunities >= LEAST_OPPORTUNITIES]
    return found


def sample(brands: Brands, seed: int, most: int = SAMPLE) -> dict[str, tuple[Opportunities, Constraint]]:
    """At most `most` of the opportunities, drawn from every brand in proportion, with weights raised accordingly."""
    random = np.random.default_rng(seed)
    share = min(1.0, most / max(1, sum(len(seen.weight) for seen, _ in brands.values())))
    drawn = {}
    for name in sorted(brands):
        seen, limit = brands[name]
        rows = random.permutation(len(seen.weight))[: math.floor(len(seen.weight) * share)]
        weight = seen.weight[rows] * (len(seen.weight) / max(1, len(rows)))
        drawn[name] = (Opportunities(seen.revenue_micros[rows], seen.cost_micros[rows], weight), limit)
    return drawn


def lp_gap(brands: Brands, portfolio: Constraint | None = None) -> LpCheck:
    """Fit the given opportunities, solve their LP independently, and compare.

    Args:
        brands, portfolio: as for `fit`; thousands of opportunities, not millions (see `sample`).

    Returns:
        The relative differences; NaN where HiGHS finds no optimum.
    """
    from scipy.optimize import linprog  # importing it takes a second, and only the night needs it

    group = _Group(dict(sorted(brands.items())), portfolio)
    fitted = group.descend()
    uses = np.array([use for use, _ in group.limits()] or np.zeros((1, len(group.revenue))))
    bounds = np.array([bound for _, bound in group.limits()] or [0.0])
    size = np.maximum(np.abs(uses).max(axis=1, initial=0.0), TINY)
    money = max(float(group.revenue.max(initial=0.0)), TINY)
    solved = linprog(
        -group.revenue / money, A_ub=uses / size[:, None], b_ub=bounds / size, bounds=(0, 1), method="highs"
    )
    if solved.status != 0:
        return LpCheck(len(group.revenue), math.nan, math.nan)
    best = -float(solved.fun) * money
    won = float(group.revenue @ group.policy()[1])
    off = max(abs(fitted.dual - best), abs(fitted.revenue - best))
    scale = max(best, group.least)
    return LpCheck(len(group.revenue), off / scale, (best - won) / scale)


class _Cut(NamedTuple):
    """What a target and a budget let through: all opportunities above a price."""

    share: Floats  # (n,) of each that is won
    price: float
    binding: Literal["target", "budget"] | None  # the limit that decided
    overflows: bool = False  # its opportunities cost more than the budget, which is spent before the day ends


Last = Literal["in part", "stays", "goes"]
"""What happens to the marginal opportunity: won in part, as in the LP; won whole if that pays; never won."""


class _Fitted(NamedTuple):
    mu: Floats  # (brands,)
    nu: Floats
    mu_portfolio: float
    nu_portfolio: float
    unreachable: Flags
    revenue: float  # won, in part
    dual: float
    convergence: Convergence


class _Group:
    """The brands that share a portfolio, or one without: their opportunities in one flat array."""

    def __init__(self, brands: Brands, portfolio: Constraint | None) -> None:
        self.names, self.portfolio, self.shared = list(brands), portfolio, portfolio or NO_LIMIT
        self.own = [limit for _, limit in brands.values()]
        seen = [one for one, _ in brands.values()]
        self.counts = [len(one.weight) for one in seen]
        revenue, cost, weight = (
            np.concatenate([np.asarray(getattr(one, name), np.float64) for one in seen])
            for name in ("revenue_micros", "cost_micros", "weight")
        )
        if (
            not all((np.isfinite(column) & (column >= 0)).all() for column in (revenue, cost, weight))
            or not weight.all()
        ):
            raise ValueError("opportunities must have finite revenue ≥ 0, cost ≥ 0 and weight > 0")
        self.revenue, self.cost, self.ratio = revenue * weight, cost * weight, _ratio(revenue, cost)  # (n,) each
        self.least = max(TOLERANCE * float(self.revenue.sum()), TINY)  # least scale that differences are divided by
        ends = np.cumsum([0, *self.counts])
        self.rows = [slice(start, end) for start, end in itertools.pairwise(ends)]

    def fits(self) -> list[BrandFit]:
        fitted = self.descend()
        kappas = self.policy()[0]
        return [
            BrandFit(
                *(name, kappas[b], float(fitted.mu[b]), fitted.mu_portfolio, float(fitted.nu[b]), fitted.nu_portfolio),
                *(self.counts[b], self.own[b], self.portfolio, bool(fitted.unreachable[b]), fitted.convergence),
            )
            for b, name in enumerate(self.names)
        ]

    def descend(self) -> _Fitted:
        """Projected gradient on the dual: the brands' multipliers; then, if that has not converged, the portfolio's."""
        own, won = self._brands_step(["in part"] * len(self.own))
        shared = _Cut(np.ones(len(won)), 0.0, None)
        fitted = self._judged(1, own, shared, won)
        if not fitted.convergence.converged and self.shared != NO_LIMIT:
            shared = self._portfolio_step(won, "in part")
            fitted = self._judged(2, own, shared, won * shared.share)
        return fitted

    def policy(self) -> tuple[list[float], Floats]:
        """(κ of every brand, (n,) share won): the same two steps with whole opportunities."""
        last: list[Last] = ["stays"] * len(self.own)
        while True:
            own, won = self._brands_step(last)
            shared = self._portfolio_step(won, "stays")
            floored = [b for b, cut in enumerate(own) if cut.overflows and cut.price < shared.price]
            if not floored:
                return [max(cut.price, shared.price) for cut in own], won * shared.share
            for b in floored:  # the portfolio's price excludes their marginal opportunities: spend on better ones
                last[b] = "goes"

    def limits(self) -> list[tuple[Floats, float]]:
        """The constraints of the LP: (what winning each opportunity uses of a limit, the limit)."""
        rows = []
        for members, limit in [*zip(self.rows, self.own, strict=True), (slice(None), self.shared)]:
            mine = np.zeros(len(self.revenue))
            mine[members] = 1.0
            if limit.target_roas is not None:
                rows.append(((limit.target_roas * self.cost - self.revenue) * mine, 0.0))
            if limit.budget_micros is not None:
                rows.append((self.cost * mine, limit.budget_micros))
        return rows

    def _brands_step(self, last: Sequence[Last]) -> tuple[list[_Cut], Floats]:
        own = [
            _cut(self.ratio[rows], self.revenue[rows], self.cost[rows], limit, brands_last)
            for rows, limit, brands_last in zip(self.rows, self.own, last, strict=True)
        ]
        return own, np.concatenate([cut.share for cut in own])

    def _portfolio_step(self, won: Floats, last: Last) -> _Cut:
        return _cut(self.ratio, self.revenue * won, self.cost * won, self.shared, last)

    def _judged(self, rounds: int, own: Sequence[_Cut], shared: _Cut, won: Floats) -> _Fitted:
        """The multipliers that give the cuts' prices, and how far they and the wins are from the optimum."""
        mu_p, nu_p = _multipliers(shared, self.shared, shared.price)
        floor = ((self.shared.target_roas or 0.0) * mu_p + nu_p) / (1 + mu_p)
        pairs = [
            _multipliers(cut, limit, (1 + mu_p) * max(cut.price - floor, 0.0))
            for cut, limit in zip(own, self.own, strict=True)
        ]
        mu, nu = np.array(pairs).reshape(-1, 2).T
        parts, dual = [], nu_p * (self.shared.budget_micros or 0.0)
        kkt, charged = 0.0, 0.0
        for rows, limit, mu_b, nu_b in zip(self.rows, self.own, mu, nu, strict=True):
            price = mu_b * (limit.target_roas or 0.0) + nu_b + (1 + mu_p) * floor
            worth = (1 + mu_b + mu_p) * self.revenue[rows] - price * self.cost[rows]
            dual += float(np.maximum(worth, 0.0).sum()) + nu_b * (limit.budget_micros or 0.0)
            parts.append((float(self.revenue[rows] @ won[rows]), float(self.cost[rows] @ won[rows]), limit, mu_b, nu_b))
        revenue, cost = sum(part[0] for part in parts), sum(part[1] for part in parts)
        for earned, spent, limit, mu_j, nu_j in [*parts, (revenue, cost, self.shared, mu_p, nu_p)]:
            for most, used, multiplier in (
                (earned, (limit.target_roas or 0.0) * spent, mu_j if limit.target_roas is not None else 0.0),
                (math.inf if limit.budget_micros is None else limit.budget_micros, spent, nu_j),
            ):
                kkt = max(kkt, (used - most) / max(used, TINY))
                charged += multiplier * abs(most - used) if multiplier else 0.0
        scale = max(dual, self.least)
        kkt, gap = max(kkt, charged / scale), (dual - revenue) / scale
        enough = kkt <= TOLERANCE and abs(gap) <= TOLERANCE
        nothing = shared.binding == "target" and cost <= 0
        unreachable = np.array(
            [nothing or (cut.binding == "target" and part[1] <= 0) for cut, part in zip(own, parts, strict=True)]
        )
        return _Fitted(
            mu, nu, mu_p, nu_p, unreachable, revenue, dual, Convergence(rounds, float(kkt), float(gap), bool(enough))
        )


def _ratio(revenue: Floats, cost: Floats) -> Floats:
    """(n,) revenue ÷ cost; infinite where the cost is 0."""
    with np.errstate(all="ignore"):
        return np.where(cost > 0, np.minimum(revenue / cost, MOST_RATIO), np.inf)


def _cut(ratio: Floats, revenue: Floats, cost: Floats, limit: Constraint, last: Last) -> _Cut:
    """The exact step: take opportunities, best first, as far as the limits allow.

    Args:
        ratio: (n,) revenue ÷ cost of the opportunities.
        revenue, cost: (n,) in micros, × weight × the share that other limits have left of them.
        last: what happens to the marginal opportunity and to all that tie with it.

    Returns:
        What is won, and the price that selects it: in part, the marginal opportunity's ratio; whole, a price between it
        and the next better one. A target is kept by leaving the marginal ones out. A budget is kept by the ledger
        anyway: they are won if everything together, until the money is spent, earns more than without them.
    """
    n = len(ratio)
    order = np.argsort(-ratio, kind="stable")
    best = ratio[order]
    earned, spent = (np.concatenate([[0.0], np.cumsum(column[order])]) for column in (revenue, cost))
    target, budget = limit.target_roas, limit.budget_micros
    by_target = math.inf if target is None else _crossing(earned - target * spent, earned)
    by_budget = math.inf if budget is None else _crossing(budget - spent, np.full(n + 1, budget))
    reach = min(by_target, by_budget)
    if reach >= n:
        return _Cut(np.ones(n), 0.0, None)
    binding: Literal["target", "budget"] = "target" if by_target <= by_budget else "budget"
    share, price = np.empty(n), float(best[int(reach)])
    if last == "in part":
        share[order] = np.clip(reach - np.arange(n), 0.0, 1.0)
        return _Cut(share, price, binding)
    start = int(np.searchsorted(-best, -price * (1 + ROUNDING), side="left"))
    end = int(np.searchsorted(-best, -price * (1 - ROUNDING), side="right"))
    if last == "stays" and budget is not None and by_target >= end:
        paid = np.where(np.isinf(best), 1.0, min(1.0, budget / max(float(spent[end]), TINY)))
        share[order] = np.where(np.arange(n) < end, paid, 0.0)
        if float(share @ revenue) > earned[start] * (1 + ROUNDING):
            return _Cut(share, price * (1 - ROUNDING), binding, overflows=True)
    share[order] = np.arange(n) < start
    if start > 0 and math.isfinite(best[start - 1]):
        return _Cut(share, float(price + best[start - 1]) / 2, binding)
    return _Cut(share, float(target or 1.0) if binding == "target" else max(target or 1.0, 2 * price), binding)


def _crossing(slack: Floats, size: Floats) -> float:
    """How many opportunities a limit allows, the last one in part. `slack`: (n + 1,), which once negative stays so."""
    exceeded = np.flatnonzero(slack < -ROUNDING * size)
    if not len(exceeded):
        return math.inf
    after = max(int(exceeded[0]), 1)
    before = max(float(slack[after - 1]), 0.0)
    return after - 1 + min(before / max(before - float(slack[after]), TINY), 1 - ROUNDING)


def _multipliers(cut: _Cut, limit: Constraint, charge: float) -> tuple[float, float]:
    """(μ, ν) of the binding limit, so that it charges `charge` on top of the portfolio's price."""
    if cut.binding == "budget":
        return 0.0, charge
    if cut.binding == "target" and limit.target_roas is not None and charge > 0:
        return min(MOST_MU, charge / max(limit.target_roas - cut.price, TINY)), 0.0
    return 0.0, 0.0
