import datetime as dt
import math
from types import SimpleNamespace

import numpy as np
import pytest

from training.pricing.lagrange import Constraint, Convergence, LpCheck, fit
from training.pricing.opportunities import LEAST_SPAN_DAYS, Logged, NightFits, daily, fit_groups, groups_of

NOW = dt.datetime(2026, 3, 1, 2, tzinfo=dt.UTC)


def logged(**at_days):
    """Rows of one opportunity each, at these times by brand."""
    brand = [name for name, times in at_days.items() for _ in times]
    times = np.array([at for times in at_days.values() for at in times], float)
    n = len(times)
    return Logged(brand, times, np.full(n, 20.0), np.full(n, 10.0), np.full(n, 100.0))


def days(seen):
    """Over how many days the brand's weights spread its rows."""
    return 100.0 / seen.weight[0]


@pytest.mark.parametrize(
    ("story", "times", "expected"),
    [
        ("a week, every hour", np.linspace(0, 7, 7 * 24 + 1), 7.0),
        ("since yesterday", np.linspace(6, 7, 25), 1.0),
        ("away for three days", [*np.linspace(0, 2, 49), *np.linspace(5, 7, 49)], 4.0),
        ("gone since", np.linspace(0, 2, 49), 2.0),
        ("quiet at night", [day + hour / 24 for day in range(7) for hour in range(8, 24)] + [7.0], 7 - 8 / 24),
        ("just begun", [7.0, 7.0], LEAST_SPAN_DAYS),
    ],
)
def test_a_weight_is_what_a_day_of_the_brands_brings(story, times, expected):
    found = daily(logged(clock=[0.0, 7.0], brand=times))
    assert days(found["brand"]) == pytest.approx(expected, rel=1e-9), story


def test_rows_that_are_no_numbers_are_left_out():
    rows = logged(a=[0.0, 1.0, 2.0, 3.0], b=[3.0])
    rows.revenue_micros[0], rows.cost_micros[1], rows.weight[2] = math.nan, -1.0, 0.0
    rows.revenue_micros[4] = math.inf
    found = daily(rows)
    assert list(found) == ["a"]
    assert len(found["a"].weight) == 1
    assert daily(logged()) == {}


def brand(brand_id, portfolio_id=None, moves_to=None, moves_at=None, **limits):
    limits = {"target_roas": 1.0, "daily_budget_micros": None} | limits
    return SimpleNamespace(
        brand_id=brand_id, portfolio_id=portfolio_id, next_portfolio_id=moves_to, next_from=moves_at, **limits
    )


def test_brands_are_fitted_with_those_whose_budget_they_share():
    names = ["alone", "lost", "m1", "m2", "moved", "moving", "left"]
    seen = daily(logged(**{name: [0.0, 1.0] for name in [*names, "paused"]}))
    hour = dt.timedelta(hours=1)
    members = [
        brand("alone", daily_budget_micros=500),
        brand("lost", "nowhere"),
        brand("m1", "f"),
        brand("m2", "f"),
        brand("moved", None, "f", NOW - hour),
        brand("moving", None, "f", NOW + hour),
        brand("left", "f", None, NOW),
        brand("silent", "f"),
    ]
    groups = groups_of(seen, members, {"f": Constraint(1.0, 1e6)}, NOW)
    by_portfolio = [(portfolio, sorted(group)) for portfolio, group in groups]
    assert by_portfolio == [
        (None, ["alone"]),
        (None, ["left"]),
        (None, ["lost"]),
        (None, ["moving"]),
        ("f", ["m1", "m2", "moved"]),
    ]
    assert groups[0][1]["alone"][1] == Constraint(1.0, 500)


def test_a_budget_lasts_a_day_whatever_time_the_log_covers():
    """The same traffic, logged for two days or for seven, asks for the same price."""
    random = np.random.default_rng(0)
    ratio = random.lognormal(0, 0.5, 40_000)

    def kappa(span):
        n = len(ratio) * span // 7
        rows = Logged(["a"] * n, np.linspace(7 - span, 7, n), ratio[:n] * 100, np.full(n, 100.0), np.full(n, 10.0))
        return fit({"a": (daily(rows)["a"], Constraint(None, 2e6))})[0].kappa

    assert kappa(2) == pytest.approx(kappa(7), rel=0.02)
    assert kappa(7) > 0.5


def test_every_night_checks_its_fits_against_the_lp_and_says_what_it_found():
    random = np.random.default_rng(0)
    n = 1_000
    rows = Logged(
        list(random.choice(["a", "b", "c"], n)),
        np.linspace(0, 7, n),
        random.lognormal(6, 1, n),
        random.lognormal(6, 1, n),
        np.full(n, 10.0),
    )
    shared = {"f": Constraint(1.2, 100_000)}
    members = [brand("a", "f"), brand("b", "f"), brand("c", target_roas=1e9)]
    groups = groups_of(daily(rows), members, shared, NOW)
    night = fit_groups(groups, shared, seed=1)
    assert night == fit_groups(groups, shared, seed=1)
    assert len(night.checks) == 2
    summary = night.summary()
    assert summary["fitted"] == 3
    assert summary["not_converged"] == []
    assert summary["target_unreachable"] == ["c"]
    assert summary["lp_gap"] < 1e-6
    assert [line for line in night.warnings() if "c cannot" in line or "of c" in line] == night.warnings() != []


def test_a_fit_that_did_not_converge_is_told_and_not_used():
    night = fit_groups(groups_of(daily(logged(a=np.linspace(0, 1, 300))), [brand("a")], {}, NOW), {}, seed=1)
    off = Convergence(2, 0.25, 0.5, False)
    night = NightFits([night.fits[0]._replace(convergence=off)], [LpCheck(10, math.nan, math.nan)])
    assert night.usable == []
    assert night.summary()["not_converged"] == ["a"]
    assert night.summary()["lp_gap"] is None
    assert night.summary()["lp_unsolved"] == 1
    assert "0.25" in night.warnings()[0]
