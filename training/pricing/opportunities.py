"""The night's fit of λ: scales logged opportunities to a day, groups brands by portfolio, and fits each group. Pure."""

from __future__ import annotations

import datetime as dt
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from training.arrays import Floats
from training.pricing.lagrange import BrandFit, Brands, Constraint, LpCheck, Opportunities, fit, lp_gap, sample

LEAST_SPAN_DAYS = 1 / 24
MOST_SILENCE_DAYS = 1.0
"""A longer time without opportunities of a brand is a pause, and does not count as part of its days."""
MOST_CHECKS = 20
"""Groups of brands whose fits are checked against their LPs; others every night."""


class Logged(NamedTuple):
    """The n rows of the score log that are fitted to."""

    brand: list[str]
    at_days: Floats  # days since 1970, with fraction
    revenue_micros: Floats  # predicted, per impression
    cost_micros: Floats
    weight: Floats  # how many bids a row stands for


class NightFits(NamedTuple):
    """κ of all fitted brands, and the checks against LPs."""

    fits: list[BrandFit]
    checks: list[LpCheck]

    @property
    def usable(self) -> list[BrandFit]:
        """The fits that converged."""
        return [one for one in self.fits if one.convergence.converged]

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the table `lambda_fits`: each fit, with the limits it was made for."""
        return [_row(fit) for fit in self.fits]

    def summary(self) -> dict[str, Any]:
        """For the night's summary line; figures that do not exist are None."""
        return {
            "fitted": len(self.usable),
            "not_converged": [one.brand_id for one in self.fits if not one.convergence.converged],
            "target_unreachable": [one.brand_id for one in self.fits if one.unreachable],
            "kkt_residual": _worst(one.convergence.kkt_residual for one in self.fits),
            "duality_gap": _worst(abs(one.convergence.duality_gap) for one in self.fits),
            "lp_gap": _worst(check.lp_gap for check in self.checks),
            "policy_loss": _worst(check.policy_loss for check in self.checks),
            "lp_unsolved": sum(math.isnan(check.lp_gap) for check in self.checks),
        }

    def warnings(self) -> list[str]:
        """A warning for each brand whose fit is not used, or whose target cannot be reached."""
        lost = [
            f"warning: the λ fit of {one.brand_id} did not converge (KKT residual {one.convergence.kkt_residual:.2g},"
            f" duality gap {one.convergence.duality_gap:.2g}): its last good fit stays in force"
            for one in self.fits
            if not one.convergence.converged
        ]
        return lost + [
            f"warning: the target ROAS of {one.brand_id} cannot be reached: no logged opportunity is predicted to "
            "reach it, so the brand wins nothing that costs; lower target_roas or check its prices"
            for one in self.fits
            if one.unreachable
        ]


def daily(logged: Logged) -> dict[str, Opportunities]:
    """Each brand's opportunities of an average day: a row's weight is how many such opportunities a day brings.

    A brand's days are counted from its first row to the end of the log, without pauses: budgets are per day, and a
    brand that started yesterday has not been offered a week's worth. Rows that are not finite are left out.
    """
    if not logged.brand:
        return {}
    names, owner = np.unique(np.array(logged.brand, dtype=object), return_inverse=True)
    money = np.stack([logged.revenue_micros, logged.cost_micros, logged.weight])
    good = np.isfinite(money).all(axis=0) & (money >= 0).all(axis=0) & (logged.weight > 0)
    end = float(logged.at_days.max())
    found = {}
    for index, name in enumerate(names):
        rows = np.flatnonzero((owner == index) & good)
        if len(rows):
            silences = np.diff(np.sort(np.append(logged.at_days[rows], end)))
            days = max(float(silences[silences <= MOST_SILENCE_DAYS].sum()), LEAST_SPAN_DAYS)
            found[str(name)] = Opportunities(
                logged.revenue_micros[rows], logged.cost_micros[rows], logged.weight[rows] / days
            )
    return found


def logged_of(rows: Sequence[Any], times: float) -> Logged:
    """Rows of the score log (brand_id, at, revenue, cost, weight) as columns, with weights multiplied by `times`."""
    brand, at, revenue, cost, weight = zip(*rows, strict=True) if rows else ((),) * 5
    return Logged(
        list(brand),
        np.array([moment.timestamp() for moment in at], np.float64) / 86_400,
        np.array(revenue, np.float64),
        np.array(cost, np.float64),
        np.array(weight, np.float64) * times,
    )


def groups_of(
    seen: Mapping[str, Opportunities], members: Sequence[Any], shared: Mapping[str, Constraint], now: dt.datetime
) -> list[tuple[str | None, Brands]]:
    """(portfolio_id, its brands) of each portfolio, and (None, one brand) of each brand without one, ordered by id."""
    groups: dict[tuple[str, str], dict[str, tuple[Opportunities, Constraint]]] = defaultdict(dict)
    for brand in members:
        moved = brand.next_from is not None and brand.next_from <= now  # the row still names the former portfolio
        portfolio_id = brand.next_portfolio_id if moved else brand.portfolio_id
        if brand.brand_id in seen:
            key = (portfolio_id, "") if portfolio_id in shared else ("", brand.brand_id)
            groups[key][brand.brand_id] = (seen[brand.brand_id], limits_of(brand))
    return [(key[0] or None, groups[key]) for key in sorted(groups)]


def fit_groups(groups: Sequence[tuple[str | None, Brands]], shared: Mapping[str, Constraint], seed: int) -> NightFits:
    """Fit each group, and check some of the fits against LPs.

    Args:
        groups: see `groups_of`.
        shared: limits by portfolio_id.
        seed: decides which groups, and which of their opportunities, are checked.
    """
    fits: list[BrandFit] = []
    fitted: list[tuple[Brands, Constraint | None]] = []
    for portfolio_id, group in groups:
        portfolio = None if portfolio_id is None else shared[portfolio_id]
        found = fit(group, portfolio)
        fits += found
        if found:
            fitted.append((group, portfolio))
    drawn = np.random.default_rng(seed).permutation(len(fitted))[:MOST_CHECKS]
    checks = [lp_gap(sample(fitted[index][0], seed), fitted[index][1]) for index in sorted(drawn)]
    return NightFits(fits, checks)


def _row(fit: BrandFit) -> dict[str, Any]:
    brand, portfolio = fit.limit, fit.shared
    return {
        "brand_id": fit.brand_id,
        "kappa": fit.kappa,
        "mu_brand": fit.mu_brand,
        "mu_portfolio": fit.mu_portfolio,
        "nu_brand": fit.nu_brand,
        "nu_portfolio": fit.nu_portfolio,
        "opportunities": fit.opportunities,
        "target_roas": brand.target_roas,
        "portfolio_target_roas": portfolio.target_roas if portfolio else None,
        "daily_budget_micros": brand.budget_micros,
        "portfolio_daily_budget_micros": portfolio.budget_micros if portfolio else None,
        "kkt_residual": fit.convergence.kkt_residual,
        "duality_gap": fit.convergence.duality_gap,
        "converged": fit.convergence.converged,
    }


def limits_of(row: Any) -> Constraint:
    """The limits in a row of `brands` or `portfolios`."""
    return Constraint(row.target_roas, row.daily_budget_micros)


def _worst(values: Any) -> float | None:
    return max((value for value in values if not math.isnan(value)), default=None)
