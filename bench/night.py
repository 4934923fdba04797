"""`python -m bench night`: how long a night's λ fit takes, and how far it is from the LP's optimum."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from training.pricing.lagrange import Constraint, Opportunities, fit, lp_gap, sample


def main(argv: Sequence[str]) -> str | None:
    """Seconds of a night's λ fit, and its distance from the LP."""
    parser = argparse.ArgumentParser(prog="python -m bench night", description=main.__doc__)
    parser.add_argument("--opportunities", type=int, default=1_000_000, help="(default 1,000,000)")
    parser.add_argument("--brands", type=int, default=100, help="(default 100)")
    parser.add_argument("--portfolios", type=int, default=20, help="that share them (default 20)")
    arguments = parser.parse_args(argv)
    random, each = np.random.default_rng(0), arguments.opportunities // arguments.brands
    groups: list[dict[str, tuple[Opportunities, Constraint]]] = [{} for _ in range(arguments.portfolios)]
    for number in range(arguments.brands):
        cost = random.lognormal(6, 1, each)
        revenue = cost * random.lognormal(0, 0.8, each) * random.uniform(0.6, 1.6)
        limit = Constraint(random.uniform(1, 2), 10 * cost.sum() * random.uniform(0.1, 0.9))
        seen = Opportunities(revenue, cost, np.full(each, 10.0))
        groups[number % len(groups)][f"brand-{number}"] = (seen, limit)
    shared = [Constraint(1.5, 0.6 * sum(limit.budget_micros or 0 for _, limit in group.values())) for group in groups]
    began = time.perf_counter()
    fits = [one for group, limit in zip(groups, shared, strict=True) for one in fit(group, limit)]
    fitted_s = time.perf_counter() - began
    checks = [lp_gap(sample(group, seed=0), limit) for group, limit in zip(groups, shared, strict=True)]
    checked_s = time.perf_counter() - began - fitted_s
    return "\n".join(
        [
            f"- {arguments.brands} brands in {arguments.portfolios} portfolios, {arguments.opportunities:,} "
            f"opportunities: {fitted_s:.2f} s; {sum(one.convergence.converged for one in fits)} converged, worst KKT "
            f"residual {max(one.convergence.kkt_residual for one in fits):.1e}, worst duality gap "
            f"{max(abs(one.convergence.duality_gap) for one in fits):.1e}",
            f"- {len(checks)} samples of {checks[0].opportunities:,} against HiGHS: {checked_s:.2f} s; worst gap to "
            f"the LP {max(check.lp_gap for check in checks):.1e}, worst loss of the threshold policy "
            f"{max(check.policy_loss for check in checks):.2%}",
        ]
    )
