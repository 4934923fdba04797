"""λ against the LP that it stands for: HiGHS solves small random markets, the fit must agree, its policy hold."""

import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from training.pricing import lagrange
from training.pricing.lagrange import (
    LEAST_OPPORTUNITIES,
    ROUNDING,
    SAMPLE,
    TOLERANCE,
    Constraint,
    Opportunities,
    fit,
    lp_gap,
    sample,
)

N = 2_000
NONE = Constraint(None, None)


def opportunities(seed, roas=1.0, n=N):
    random = np.random.default_rng(seed)
    cost = random.lognormal(6, 0.4, n)
    return Opportunities(cost * roas * random.lognormal(0, 0.6, n), cost, np.ones(n))


# Random markets


def lognormal(random, n):
    cost = random.lognormal(5, 0.4, n)
    return cost * random.lognormal(0, 0.6, n), cost


def heavy_tailed(random, n):
    cost = random.lognormal(5, 2, n)
    return cost * random.lognormal(0, 3, n), cost


def lumpy(random, n):
    cost = np.where(random.random(n) < 0.1, 1e4, 10.0)
    return cost * random.lognormal(0, 1, n), cost


def tied(random, n):
    cost = random.choice([100.0, 300.0], n)
    return cost * random.choice([0.5, 1.0, 1.5, 2.0], n), cost


def free_or_fruitless(random, n):
    revenue, cost = lognormal(random, n)
    return revenue * (random.random(n) < 0.5), cost * (random.random(n) < 0.7)


class Market(NamedTuple):
    brands: dict[str, tuple[Opportunities, Constraint]]
    portfolio: Constraint | None


def limits(random, cost):
    target = random.choice([None, 0.5, 1.0, 1.4, 5.0])
    budget = random.choice([None, 0.0, 0.02, 0.3, 0.9, 1.0], p=[0.4, 0.02, 0.18, 0.2, 0.1, 0.1])
    return Constraint(target, None if budget is None else budget * cost)


@st.composite
def markets(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    brands = {}
    for number in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from([lognormal, heavy_tailed, lumpy, tied, free_or_fruitless]))
        n = draw(st.integers(1, 60))
        weight = random.choice([1.0, 3.3, 100.0], n) if draw(st.booleans()) else np.ones(n)
        revenue, cost = kind(random, n)
        seen = Opportunities(revenue, cost, weight)
        brands[f"b{number}"] = (seen, limits(random, float(seen.cost_micros @ weight)))
    total = sum(float(seen.cost_micros @ seen.weight) for seen, _ in brands.values())
    alone = len(brands) == 1 and draw(st.booleans())
    return Market(brands, None if alone else limits(random, total))


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch, request):
    if "market" in request.fixturenames or "hypothesis" in request.keywords:
        monkeypatch.setattr(lagrange, "LEAST_OPPORTUNITIES", 1)


class Flat(NamedTuple):
    """A market's opportunities in one row; money by weight."""

    revenue: np.ndarray
    cost: np.ndarray
    owner: np.ndarray
    ratio: np.ndarray


def flat(market):
    seen = [one for one, _ in market.brands.values()]
    revenue, cost, weight = (
        np.concatenate([getattr(one, name) for one in seen]) for name in ("revenue_micros", "cost_micros", "weight")
    )
    owner = np.repeat(np.arange(len(seen)), [len(one.weight) for one in seen])
    with np.errstate(all="ignore"):
        return Flat(revenue * weight, cost * weight, owner, np.where(cost > 0, revenue / cost, np.inf))


def constraints(market):
    """(whose, target, budget) of every brand and the portfolio."""
    owner = flat(market).owner
    return [
        *((owner == b, limit) for b, (_, limit) in enumerate(market.brands.values())),
        (np.ones(len(owner), bool), market.portfolio or NONE),
    ]


def optimum(market):
    """The LP that may win opportunities in part."""
    revenue, cost, _, _ = flat(market)
    rows, bounds = [np.zeros(len(revenue))], [0.0]
    for mine, limit in constraints(market):
        if limit.target_roas is not None:
            rows.append((limit.target_roas * cost - revenue) * mine)
            bounds.append(0.0)
        if limit.budget_micros is not None:
            rows.append(cost * mine)
            bounds.append(limit.budget_micros)
    size = np.maximum(np.abs(rows).max(axis=1), 1e-9)
    money = max(revenue.max(), 1e-9)
    solved = linprog(-revenue / money, np.array(rows) / size[:, None], np.array(bounds) / size, bounds=(0, 1))
    assert solved.status == 0
    return -solved.fun * money


def dual(market, fits):
    """Σ max(0, worth at the multipliers) + Σ ν · budget."""
    revenue, cost, owner, _ = flat(market)
    shared, total = market.portfolio or NONE, fits[0].nu_portfolio * ((market.portfolio or NONE).budget_micros or 0.0)
    for b, (one, (_, limit)) in enumerate(zip(fits, market.brands.values(), strict=True)):
        price = one.mu_brand * (limit.target_roas or 0.0) + one.mu_portfolio * (shared.target_roas or 0.0)
        price += one.nu_brand + one.nu_portfolio
        worth = (1 + one.mu_brand + one.mu_portfolio) * revenue[owner == b] - price * cost[owner == b]
        total += np.maximum(worth, 0).sum() + one.nu_brand * (limit.budget_micros or 0.0)
    return total


class Outcome(NamedTuple):
    won: np.ndarray  # whole opportunities: revenue ≥ κ · cost
    share: np.ndarray  # and how much of them the budgets pay for, spent as they come


def outcome(market, fits):
    revenue, cost, owner, _ = flat(market)
    won = revenue >= np.array([one.kappa for one in fits])[owner] * cost
    share = won.astype(float)
    for mine, limit in constraints(market):
        if limit.budget_micros is not None:
            share[mine & (cost > 0)] *= min(1.0, limit.budget_micros / max((share * cost)[mine].sum(), 1e-300))
    return Outcome(won, share)


def next_in_line(market, fits):
    """(revenue of each brand's best opportunities that are not won, their ratio), ties together."""
    revenue, _, owner, ratio = flat(market)
    won = outcome(market, fits).won
    found = []
    for b in range(len(fits)):
        lost = (owner == b) & ~won
        best = ratio[lost].max(initial=-1.0)
        found.append((float(revenue[lost & (ratio >= best * (1 - 1e-9))].sum()), float(best)))
    return found


def last_won(market, fits):
    revenue, _, owner, ratio = flat(market)
    won = outcome(market, fits).won
    found = []
    for b in range(len(fits)):
        mine = (owner == b) & won & np.isfinite(ratio)
        worst = ratio[mine].min(initial=math.inf)
        found.append(float(revenue[mine & (ratio <= worst * (1 + 1e-9))].sum()))
    return found


# The optimum


@given(market=markets())
def test_the_fit_finds_the_optimum_of_the_lp_and_knows_it(market):
    fits = fit(*market)
    best = optimum(market)
    for one in fits:
        assert one.convergence.converged
        assert max(one.convergence.kkt_residual, abs(one.convergence.duality_gap)) <= 1e-7
    slack = 1e-6 * max(best, 1e-3 * flat(market).revenue.sum())
    if market.portfolio is not None or len(fits) == 1:
        assert dual(market, fits) == pytest.approx(best, abs=slack)


@given(market=markets(), factors=st.lists(st.floats(0, 10), min_size=4, max_size=4))
def test_no_multipliers_promise_less_than_can_be_had(market, factors):
    """Weak duality: of the fit's multipliers and of any others."""
    mu, nu, mu_p, nu_p = factors
    fits = fit(*market)
    best = optimum(market)
    for tried in (fits, [one._replace(mu_brand=mu, nu_brand=nu, mu_portfolio=mu_p, nu_portfolio=nu_p) for one in fits]):
        no_target = (market.portfolio or NONE).target_roas is None
        tried = [
            one._replace(
                mu_brand=0.0 if limit.target_roas is None else one.mu_brand,
                nu_brand=0.0 if limit.budget_micros is None else one.nu_brand,
                mu_portfolio=0.0 if no_target else one.mu_portfolio,
                nu_portfolio=0.0 if (market.portfolio or NONE).budget_micros is None else one.nu_portfolio,
            )
            for one, (_, limit) in zip(tried, market.brands.values(), strict=True)
        ]
        assert dual(market, tried) >= best - 1e-6 * flat(market).revenue.sum()


# The policy


@given(market=markets())
def test_whole_opportunities_keep_every_target_and_leave_budgets_at_most_one_too_many(market):
    fits = fit(*market)
    revenue, cost, _, ratio = flat(market)
    won, share = outcome(market, fits)
    for mine, limit in constraints(market):
        earned, spent = (revenue * share)[mine].sum(), (cost * share)[mine].sum()
        if limit.target_roas is not None:
            assert earned >= limit.target_roas * spent * (1 - 1e-8)
        if limit.budget_micros is not None and (cost * won)[mine].sum() > limit.budget_micros * (1 + 1e-8):
            worst = ratio[mine & won].min()
            without = mine & won & (ratio > worst * (1 + 2 * ROUNDING))
            assert paid(market, without) <= limit.budget_micros * (1 + 1e-8)


def paid(market, won):
    """Cost of these opportunities, as far as their brands' own budgets reach."""
    _, cost, owner, _ = flat(market)
    most = [math.inf if limit.budget_micros is None else limit.budget_micros for _, limit in market.brands.values()]
    return sum(min((cost * won)[owner == b].sum(), budget) for b, budget in enumerate(most))


@given(market=markets())
def test_the_policy_loses_at_most_the_opportunities_next_in_line(market):
    """One brand: LP − revenue ≤ r, its best opportunity not won (or, where a budget cuts it off, its worst one won).

    Several: ≤ (1 + μ_p) · Σ r, with the portfolio's μ_p = ρ ÷ (τ_p − ρ) at the best ratio ρ under the common floor.
    """
    fits = fit(*market)
    revenue = flat(market).revenue
    won, share = outcome(market, fits)
    marginal = next_in_line(market, fits)
    cut_off = bool((share[won] < 1 - 1e-9).any())
    r = sum(
        max(mine, last if cut_off else 0.0) for (mine, _), last in zip(marginal, last_won(market, fits), strict=True)
    )
    floor = min(one.kappa for one in fits)
    ratio = max(best for one, (_, best) in zip(fits, marginal, strict=True) if one.kappa == floor)
    target = (market.portfolio or NONE).target_roas
    factor = target / (target - ratio) if target is not None and 0 <= ratio < target * (1 - 1e-9) else 1.0
    assert (revenue * share).sum() >= optimum(market) - factor * r - 1e-6 * revenue.sum()


def test_a_brand_whose_opportunities_all_tie_spends_its_budget():
    """Left out because all of them together are too many, it would never win again."""
    seen = Opportunities(np.full(N, 30.0), np.full(N, 10.0), np.ones(N))
    (one,) = fit({"a": (seen, Constraint(1.0, 5_000.0))})
    assert 2.9 < one.kappa <= 3.0
    (none,) = fit({"a": (seen, Constraint(1.0, 0.0))})
    assert none.kappa > 3.0


def test_a_poor_crowd_does_not_eat_the_budget_of_the_best():
    """10 at ratio 10 earn 1,000 for 100 µ; with 2,000 at ratio 1 among them the budget would be gone for less."""
    seen = Opportunities(np.repeat([100.0, 10.0], [10, N]), np.full(N + 10, 10.0), np.ones(N + 10))
    (one,) = fit({"a": (seen, Constraint(None, 120.0))})
    assert 1.0 < one.kappa <= 10.0


def test_a_poor_crowd_kept_out_by_the_portfolio_frees_its_members_own_budget():
    rich = Opportunities(np.repeat([50.0, 10.0], [100, N]), np.full(N + 100, 10.0), np.ones(N + 100))
    other = Opportunities(np.full(N, 30.0), np.full(N, 10.0), np.ones(N))
    fits = fit({"a": (rich, Constraint(None, 19_000.0)), "b": (other, NONE)}, Constraint(None, 21_000.0))
    assert 1.0 < fits[0].kappa <= 5.0
    assert fits[1].kappa <= 3.0


# What the fit says of itself


@given(market=markets(), power=st.integers(-20, 20))
def test_the_currency_does_not_matter(market, power):
    scale = 2.0**power
    scaled = {
        name: (
            Opportunities(seen.revenue_micros * scale, seen.cost_micros * scale, seen.weight),
            Constraint(limit.target_roas, None if limit.budget_micros is None else limit.budget_micros * scale),
        )
        for name, (seen, limit) in market.brands.items()
    }
    shared = market.portfolio and Constraint(
        market.portfolio.target_roas,
        None if market.portfolio.budget_micros is None else market.portfolio.budget_micros * scale,
    )
    assert [one[1:6] for one in fit(scaled, shared)] == [one[1:6] for one in fit(*market)]


@given(market=markets(), seed=st.integers(0, 2**32))
def test_neither_order_nor_repetition_matters(market, seed):
    random = np.random.default_rng(seed)
    shuffled = {}
    for name in reversed(market.brands):
        seen, limit = market.brands[name]
        order = random.permutation(len(seen.weight))
        columns = (seen.revenue_micros[order], seen.cost_micros[order], seen.weight[order])
        shuffled[name] = (Opportunities(*columns), limit)
    once = fit(*market)
    assert fit(*market) == once
    for one, other in zip(fit(shuffled, market.portfolio), once, strict=True):
        assert one[1:6] == pytest.approx(other[1:6], rel=1e-6)


@given(market=markets())
def test_weights_count_as_repetitions(market):
    weighted, listed = {}, {}
    for name, (seen, limit) in market.brands.items():
        times = np.arange(len(seen.weight)) % 3 + 1
        money = (seen.revenue_micros, seen.cost_micros)
        weighted[name] = (Opportunities(*money, seen.weight * times), limit)
        listed[name] = (Opportunities(*(np.repeat(column, times) for column in (*money, seen.weight))), limit)
    for one, other in zip(fit(weighted, market.portfolio), fit(listed, market.portfolio), strict=True):
        assert one[2:6] == pytest.approx(other[2:6], rel=1e-6)
        seen = market.brands[one.brand_id][0]
        won = [seen.revenue_micros >= each.kappa * seen.cost_micros for each in (one, other)]
        # Between two opportunities' ratios, or above all, one price is as good as another.
        assert one.kappa == pytest.approx(other.kappa, rel=1e-6) or np.array_equal(*won)


@given(market=markets())
def test_the_multipliers_explain_kappa_but_for_the_marginal_opportunity(market):
    """κ is the multipliers' price, or the next better one's side of it."""
    _, _, owner, ratio = flat(market)
    shared = market.portfolio or NONE
    for b, (one, (_, limit)) in enumerate(zip(fit(*market), market.brands.values(), strict=True)):
        assert min(one[2:6]) >= 0
        assert math.isfinite(max(one[1:6]))
        price = one.mu_brand * (limit.target_roas or 0) + one.mu_portfolio * (shared.target_roas or 0)
        price = (price + one.nu_brand + one.nu_portfolio) / (1 + one.mu_brand + one.mu_portfolio)
        if len(market.brands) == 1:
            better = ratio[(owner == b) & (ratio > price * (1 + 1e-6))]
            ceiling = max(better.min(initial=math.inf), 0.0)
            assert price * (1 - 1e-6) <= one.kappa
            assert one.kappa <= (
                ceiling
                if math.isfinite(ceiling)
                else max(limit.target_roas or 1.0, shared.target_roas or 1.0, 2 * price) + 1e-6
            )


@pytest.mark.parametrize("roas", [0.0, 0.1, 0.999_999])
def test_a_target_that_nothing_reaches_is_told_and_costs_nothing(roas):
    seen = Opportunities(np.full(N, 10.0 * roas), np.full(N, 10.0), np.ones(N))
    (one,) = fit({"a": (seen, Constraint(1.0, 500.0))})
    assert one.unreachable
    assert one.convergence.converged
    assert math.isfinite(one.mu_brand)
    assert one.kappa == 1.0


def test_a_portfolios_target_that_nothing_reaches_is_told_of_every_member():
    brands = {name: (opportunities(seed), Constraint(0.1, None)) for seed, name in enumerate("ab")}
    fits = fit(brands, Constraint(1e3, None))
    assert [one.unreachable for one in fits] == [True, True]
    assert [one.kappa for one in fits] == [1e3, 1e3]
    assert not any(one.unreachable for one in fit(brands, Constraint(1.0, None)))


def test_a_fit_that_is_not_good_enough_says_so(monkeypatch):
    monkeypatch.setattr(lagrange, "TOLERANCE", -1.0)
    assert [one.convergence.converged for one in fit({"a": (opportunities(1), Constraint(1.4, None))})] == [False]


def test_a_portfolio_that_leaves_its_brands_alone_takes_one_round():
    brands = {name: (opportunities(seed), Constraint(1.4, None)) for seed, name in enumerate("ab")}
    assert {one.convergence.rounds for one in fit(brands, Constraint(1.0, 1e12))} == {1}
    assert {one.convergence.rounds for one in fit(brands, Constraint(1.6, 1e12))} == {2}


def test_brands_with_few_opportunities_keep_their_cold_start_and_their_part_of_the_portfolio():
    few, many = opportunities(1, n=LEAST_OPPORTUNITIES - 1), opportunities(2, n=LEAST_OPPORTUNITIES)
    alone = {"few": (few, NONE), "many": (many, NONE)}
    assert [one.brand_id for one in fit(alone)] == ["many"]
    budget = float(many.cost_micros.sum())
    (beside,) = fit(alone, Constraint(None, budget))
    (only,) = fit({"many": (many, NONE)}, Constraint(None, budget))
    assert beside.kappa > only.kappa == 0.0
    assert fit({"few": (few, NONE)}, NONE) == fit({}) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("field", ["revenue_micros", "cost_micros", "weight"])
def test_what_is_no_opportunity_is_refused(field, bad):
    columns = {name: np.ones(N) for name in ("revenue_micros", "cost_micros", "weight")}
    columns[field] = np.full(N, bad)
    with pytest.raises(ValueError, match="finite"):
        fit({"a": (Opportunities(**columns), NONE)})


# The night's check


@settings(max_examples=30)
@given(market=markets())
def test_the_check_agrees_with_the_fit_on_any_market(market):
    check = lp_gap(market.brands, market.portfolio or NONE)
    assert check.opportunities == len(flat(market).revenue)
    assert check.lp_gap <= TOLERANCE
    assert -1e-6 <= check.policy_loss <= 1 + 1e-6


def test_a_sample_stands_for_all():
    brands = {name: (opportunities(seed, n=20_000), Constraint(1.4, 4e6)) for seed, name in enumerate("ab")}
    drawn = sample(brands, seed=7)
    assert sum(len(seen.weight) for seen, _ in drawn.values()) == SAMPLE
    assert all(seen.weight.sum() == pytest.approx(20_000) for seen, _ in drawn.values())
    assert lp_gap(drawn, Constraint(1.5, 7e6)).lp_gap <= TOLERANCE
    for few, all_ in zip(fit(drawn, Constraint(1.5, 7e6)), fit(brands, Constraint(1.5, 7e6)), strict=True):
        assert few.kappa == pytest.approx(all_.kappa, rel=0.1)
    again = sample(brands, seed=7)
    assert all((again[name][0].cost_micros == drawn[name][0].cost_micros).all() for name in brands)
    assert [len(one.weight) for one, _ in sample({"a": (opportunities(1, n=3), NONE)}, 1).values()] == [3]
