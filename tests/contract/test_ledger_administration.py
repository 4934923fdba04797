"""Brands and portfolios: what may change, when it holds, and which terms replicas hear."""

import datetime as dt

import pytest
from sqlalchemy import insert

from db import tables as t
from db.brands import BrandSettings, PortfolioSettings
from ledger.bidding.throttle import Throttle
from ledger.domain.errors import CurrencyFixed, NotFound, PortfolioMismatch, PortfolioUnknown
from ledger.service.ledger import Ledger
from tests.contract.ledgers import DAY, HOUR, NOON, brand, claim, event
from tests.contract.replica import reserve


async def test_the_currency_is_fixed_once_money_has_moved(ledger, clock):
    await brand(ledger, currency="EUR")
    await brand(ledger, currency="USD")
    await ledger.record([event("1", "impression")])
    await brand(ledger, currency="GBP")
    await reserve(ledger, [claim(clock, "r")])
    with pytest.raises(CurrencyFixed):
        await brand(ledger, currency="EUR")
    assert (await ledger.administration.get_brand("b"))["currency"] == "GBP"


async def test_revenue_fixes_the_currency_too(ledger):
    await brand(ledger)
    await ledger.record([event("1", "conversion", conversion_id="c", status="pending", revenue_micros=5)])
    with pytest.raises(CurrencyFixed):
        await brand(ledger, currency="USD")


async def test_members_share_currency_and_budget_day(ledger):
    with pytest.raises(PortfolioUnknown):
        await brand(ledger, portfolio_id="f")
    await ledger.administration.put_portfolio("f", PortfolioSettings(timezone="Europe/London"))
    with pytest.raises(PortfolioMismatch, match="timezone"):
        await brand(ledger, portfolio_id="f")
    with pytest.raises(PortfolioMismatch, match="currency"):
        await brand(ledger, portfolio_id="f", timezone="Europe/London", currency="USD")
    with pytest.raises(NotFound):
        await ledger.administration.get_brand("b")
    await brand(ledger, portfolio_id="f", timezone="Europe/London")
    with pytest.raises(PortfolioMismatch, match="timezone"):
        await ledger.administration.put_portfolio("f", PortfolioSettings(timezone="UTC"))


async def test_a_change_of_portfolio_waits_for_midnight(ledger, clock, database):
    for id_ in "fg":
        await ledger.administration.put_portfolio(id_, PortfolioSettings(daily_budget_micros=500))
    await brand(ledger, portfolio_id="f")
    await reserve(ledger, [claim(clock, "1")])
    shown = await brand(ledger, portfolio_id="g")
    assert shown["portfolio_id"] == "f"
    assert shown["scheduled"] == {
        "portfolio_id": "g",
        "timezone": "UTC",
        "from": dt.datetime(2024, 5, 2, tzinfo=dt.UTC),
    }
    await reserve(ledger, [claim(clock, "2")])
    assert (await ledger.administration.get_portfolio("f"))["today"]["reserved"] == 200
    with pytest.raises(PortfolioMismatch):
        await ledger.administration.put_portfolio("g", PortfolioSettings(timezone="Europe/London"))
    clock.forward(DAY / 2)  # midnight: no sweep has run yet
    await reserve(ledger, [claim(clock, "3")])
    assert (await ledger.administration.get_portfolio("g"))["today"]["reserved"] == 100
    await ledger.sweep()
    again = await Ledger.open(database, clock=clock)
    shown = await again.administration.get_brand("b")
    assert shown["portfolio_id"] == "g"
    assert "scheduled" not in shown


async def test_a_scheduled_change_can_be_taken_back(ledger, clock):
    await brand(ledger, timezone="UTC")
    assert "scheduled" in await brand(ledger, timezone="Asia/Tokyo")
    assert "scheduled" not in await brand(ledger, timezone="UTC")
    clock.forward(DAY)
    await ledger.sweep()
    assert (await ledger.administration.get_brand("b"))["timezone"] == "UTC"


async def test_terms_change_when_something_in_them_does(ledger, clock, database):
    await brand(ledger, target_roas=2.0, strategy_multiplier=1.5)
    terms = ledger.terms.newest
    assert terms.brands["b"].lambda_ == 3.0
    assert (terms.brands["b"].share, terms.brands["b"].throttled) == (1.0, False)
    assert ledger.terms.since(terms.version) is None
    await reserve(ledger, [claim(clock, "r")])
    await ledger.refresh()
    assert ledger.terms.since(terms.version) is None, "money moves outside the terms"
    await brand(ledger, lambda_floor=0.25, max_cost_micros=9_000_000, cost_tolerance=2.0, holds_share=0.5)
    heard = ledger.terms.newest.brands["b"]
    assert (heard.lambda_floor, heard.max_cost_micros) == (0.25, 9_000_000)
    stored = (await Ledger.open(database, clock=clock)).directory.brands()["b"]
    assert (stored.lambda_floor, stored.max_cost_micros) == (0.25, 9_000_000)
    assert (stored.cost_tolerance, stored.holds_share) == (2.0, 0.5)
    ledger.terms.set_throttles({"b": Throttle(0.4, True)})
    assert ledger.terms.newest.brands["b"].share == 0.4
    assert (await ledger.administration.get_brand("b"))["throttled"] is True


async def test_a_fit_is_used_with_the_targets_of_now(ledger, clock, database):
    await brand(ledger, target_roas=2.0)
    fit = {
        "brand_id": "b", "model_version": "v", "kappa": 9.9, "mu_portfolio": 0.0, "nu_brand": 0.5, "nu_portfolio": 0.0,
        "opportunities": 1, "fitted_at": NOON,
    }  # fmt: skip
    async with database.write() as connection:
        await connection.execute(insert(t.lambda_fits), [{**fit, "mu_brand": 7.0}, {**fit, "mu_brand": 1.0}])
    assert await ledger.refresh()
    assert ledger.terms.newest.brands["b"].lambda_ == pytest.approx(1.25)
    await brand(ledger, target_roas=4.0)
    assert ledger.terms.newest.brands["b"].lambda_ == pytest.approx(2.25)


async def test_a_fits_own_price_is_kept_until_a_target_may_have_changed(ledger, clock, database):
    """The multipliers alone say 1.0; the fit found that only 1.4 keeps the target over its opportunities."""
    at = NOON + HOUR
    await ledger.administration.put_portfolio("f", PortfolioSettings())
    await brand(ledger, target_roas=2.0, portfolio_id="f")
    fit = {
        "brand_id": "b", "model_version": "v", "kappa": 1.4, "mu_brand": 1.0, "mu_portfolio": 0.0, "nu_brand": 0.0,
        "nu_portfolio": 0.0, "opportunities": 1, "fitted_at": at,
    }  # fmt: skip
    async with database.write() as connection:
        await connection.execute(insert(t.lambda_fits), fit)
    await ledger.refresh()
    assert ledger.terms.newest.brands["b"].lambda_ == pytest.approx(1.4)
    assert (await Ledger.open(database, clock=clock)).terms.newest.brands["b"].lambda_ == pytest.approx(1.4)
    ledger = await Ledger.open(database, clock=clock)
    clock.now = at
    await ledger.administration.put_portfolio("f", PortfolioSettings(target_roas=3.0))
    assert ledger.terms.newest.brands["b"].lambda_ == pytest.approx(1.0)
    await brand(ledger, target_roas=4.0, portfolio_id="f")
    await ledger.refresh()
    assert ledger.terms.newest.brands["b"].lambda_ == pytest.approx(2.0)


async def test_an_imported_brand_can_bid_at_once(ledger, clock, database):
    row = BrandSettings(daily_budget_micros=1000).model_dump() | {
        "brand_id": "b",
        "created_at": NOON,
        "updated_at": NOON,
    }
    async with database.write() as connection:
        await connection.execute(insert(t.brands), row)
    assert await ledger.refresh()
    assert "b" in ledger.terms.newest.brands
    (award,) = await reserve(ledger, [claim(clock, "r")])
    assert award.wins
    assert not await ledger.refresh(), "nothing has changed since"


async def test_brands_are_listed_in_pages(ledger):
    for id_ in "dbca":
        await brand(ledger, id_)
    first, cursor = await ledger.administration.list_brands(limit=3)
    rest, end = await ledger.administration.list_brands(cursor, limit=3)
    assert [item["brand_id"] for item in (*first, *rest)] == ["a", "b", "c", "d"]
    assert end is None
    assert first[1] == await ledger.administration.get_brand("b")
