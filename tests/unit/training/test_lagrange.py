import numpy as np
import pytest
from scipy.optimize import linprog

from training.lagrange import LEAST_OPPORTUNITIES, Constraint, Opportunities, fit

N = 2_000


def opportunities(seed, roas=1.0, n=N):
    random = np.random.default_rng(seed)
    cost = random.lognormal(6, 0.4, n)
    return Opportunities(cost * roas * random.lognormal(0, 0.6, n), cost, np.ones(n))


def optimum(brands, portfolio):
    """The LP that may win opportunities in part."""
    seen = [one for one, _ in brands.values()]
    revenue, cost = (np.concatenate([getattr(one, name) for one in seen]) for name in ("revenue_micros", "cost_micros"))
    owner = np.repeat(np.arange(len(seen)), [len(one.weight) for one in seen])
    rows, bounds = [], []
    limits = [(owner == b, limit) for b, (_, limit) in enumerate(brands.values())]
    for mine, limit in [*limits, (np.ones(len(owner), bool), portfolio)]:
        if limit.target_roas is not None:
            rows.append((limit.target_roas * cost - revenue) * mine)
            bounds.append(0.0)
        if limit.budget_micros is not None:
            rows.append(cost * mine)
            bounds.append(limit.budget_micros)
    scale = cost.mean()
    solved = linprog(
        -revenue, A_ub=np.array(rows) / scale, b_ub=np.array(bounds) / scale, bounds=(0, 1), method="highs"
    )
    return -solved.fun, revenue, cost, owner, rows, bounds


CASES = {
    "target only": ({"a": (opportunities(1), Constraint(1.4, None))}, Constraint(None, None)),
    "target that binds nothing": ({"a": (opportunities(1, 3.0), Constraint(0.5, None))}, Constraint(None, None)),
    "budget only": ({"a": (opportunities(2), Constraint(0.1, 150_000.0))}, Constraint(None, None)),
    "target and budget": ({"a": (opportunities(3), Constraint(1.5, 200_000.0))}, Constraint(None, None)),
    "portfolio target": (
        {"a": (opportunities(4, 1.5), Constraint(0.8, None)), "b": (opportunities(5, 0.7), Constraint(0.8, None))},
        Constraint(1.6, None),
    ),
    "portfolio budget": (
        {"a": (opportunities(6), Constraint(1.0, 200_000.0)), "b": (opportunities(7, 1.2), Constraint(1.5, None))},
        Constraint(None, 300_000.0),
    ),
    "everything at once": (
        {
            "a": (opportunities(8), Constraint(1.3, 250_000.0)),
            "b": (opportunities(9, 1.4), Constraint(1.1, None)),
            "c": (opportunities(10, 0.6), Constraint(0.9, 50_000.0)),
        },
        Constraint(1.5, 500_000.0),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_fitted_prices_reach_the_optimum_within_the_limits(case):
    brands, portfolio = CASES[case]
    best, revenue, cost, owner, rows, bounds = optimum(brands, portfolio)
    fits = fit(brands, portfolio)
    won = revenue >= np.array([one.kappa for one in fits])[owner] * cost
    assert (revenue * won).sum() >= 0.98 * best
    for row, bound in zip(rows, bounds, strict=True):
        assert (row * won).sum() <= bound + 0.005 * max(bound, (cost * won).sum())


def test_the_multipliers_explain_kappa():
    brands, portfolio = CASES["everything at once"]
    for one in fit(brands, portfolio):
        target = brands[one.brand_id][1].target_roas
        assert target is not None
        assert portfolio.target_roas is not None
        explained = one.mu_brand * target + one.mu_portfolio * portfolio.target_roas + one.nu_brand + one.nu_portfolio
        assert one.kappa == pytest.approx(explained / (1 + one.mu_brand + one.mu_portfolio), rel=0.02)


def test_weights_count_as_repetitions():
    once = opportunities(1)
    thrice = Opportunities(once.revenue_micros, once.cost_micros, np.full(N, 3.0))
    alone, weighted = fit({"a": (once, Constraint(1.4, 2e5))}), fit({"a": (thrice, Constraint(1.4, 6e5))})
    assert alone[0].kappa == pytest.approx(weighted[0].kappa, rel=1e-3)


def test_nothing_worth_its_target_is_nothing_won():
    seen = Opportunities(np.full(N, 1.0), np.full(N, 10.0), np.ones(N))
    assert fit({"a": (seen, Constraint(1.0, None))})[0].kappa > 0.1


def test_brands_with_few_opportunities_keep_their_cold_start():
    few = opportunities(1, n=LEAST_OPPORTUNITIES - 1)
    assert (
        fit({"few": (few, Constraint(1.0, None)), "many": (opportunities(2), Constraint(1.0, None))})[0].brand_id
        == "many"
    )


def test_the_fit_is_deterministic():
    brands, portfolio = CASES["everything at once"]
    assert fit(brands, portfolio) == fit(dict(reversed(brands.items())), portfolio)
