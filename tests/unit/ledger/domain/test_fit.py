"""κ of a fit under limits that may have changed since."""

import datetime as dt

import pytest

from db.brands import BrandSettings, PortfolioSettings
from ledger.domain.brand import Fit
from ledger.domain.pricing import kappa

AT = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
BRAND = BrandSettings(target_roas=2.0, daily_budget_micros=1_000)
PORTFOLIO = PortfolioSettings(target_roas=1.5, daily_budget_micros=5_000)


def fit(**given):
    """μ = 1 explains κ = 1.0; whole opportunities made it 1.4."""
    alone = {"portfolio_target_roas": None, "portfolio_daily_budget_micros": None}
    multipliers = {"mu_brand": 1.0, "mu_portfolio": 0.0, "nu_brand": 0.0, "nu_portfolio": 0.0}
    limits = {"target_roas": 2.0, "daily_budget_micros": 1_000}
    return Fit(**{"fitted_at": AT, "kappa": 1.4} | multipliers | limits | alone | given)


SHARED = {
    "mu_portfolio": 1.0, "nu_portfolio": 0.5, "portfolio_target_roas": 1.5, "portfolio_daily_budget_micros": 5_000,
}  # fmt: skip


@pytest.mark.parametrize("untouched", [True, False])
@pytest.mark.parametrize(
    ("story", "change", "expected"),
    [
        ("nothing", {}, 1.4),
        ("what is no limit", {"strategy_multiplier": 3.0, "exploration": 0.5, "throttle_roas": 0.1}, 1.4),
        ("another budget", {"daily_budget_micros": 9}, 1.4),
        ("another target", {"target_roas": 4.0}, 2.8),
    ],
)
def test_a_fits_price_outlives_any_put_and_moves_with_the_target(untouched, story, change, expected):
    assert fit().price(BRAND.model_copy(update=change), None, untouched) == pytest.approx(expected), story


def test_a_portfolios_new_target_moves_its_members_and_keeps_what_whole_opportunities_asked_for():
    one = fit(**SHARED)
    assert one.price(BRAND, PORTFOLIO, untouched=False) == 1.4
    moved = PORTFOLIO.model_copy(update={"target_roas": 3.0})
    raised = 1.4 / kappa(1.0, 2.0, 1.0, 1.5, 0.0, 0.5)
    assert one.price(BRAND, moved, untouched=False) == pytest.approx(kappa(1.0, 2.0, 1.0, 3.0, 0.0, 0.5) * raised)


def test_a_brand_that_joined_or_left_a_portfolio_starts_at_its_target():
    assert fit(**SHARED).price(BRAND, None, untouched=False) == 2.0
    assert fit().price(BRAND, PORTFOLIO, untouched=False) == 2.0


def test_multipliers_that_explain_nothing_are_not_divided_by():
    free = fit(mu_brand=0.0)
    assert free.price(BRAND, None, untouched=False) == 1.4
    assert free.price(BRAND.model_copy(update={"target_roas": 3.0}), None, untouched=False) == 0.0


def test_a_fit_from_before_limits_were_kept_holds_until_something_is_written():
    old = fit(target_roas=None, daily_budget_micros=None)
    assert old.price(BRAND, None, untouched=True) == 1.4
    assert old.price(BRAND, None, untouched=False) == 1.0
