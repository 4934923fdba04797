"""λ by day on a real ledger: what replicas saw, what the books say, to the terms that replicas hear."""

import datetime as dt
import itertools

import pytest
from sqlalchemy import insert

from db import tables as t
from db.brands import BrandSettings, PortfolioSettings
from db.performance import PRECEDENCE, key_hash
from ledger.bidding.controller import SEEN_LEAST
from ledger.bidding.demand import WON, Demand, Opportunity
from ledger.domain.settings import RoasSettings
from ledger.service.controller_loop import ControllerLoop
from ledger.service.ledger import Ledger
from tests.contract.ledgers import NOON, claim, event, offer
from tests.contract.replica import reserve
from tests.unit.ledger.bidding.test_controller import market


@pytest.fixture
def pilot(ledger, clock):
    hours = itertools.count()  # one between two looks, for λ falls slowly

    def stopwatch() -> float:
        return float(clock.now.timestamp()) + 3600.0 * next(hours)

    return ControllerLoop(ledger, RoasSettings(min_impressions=3, watch_s=0), stopwatch=stopwatch)


def seen(*opportunities) -> bytes:
    collected = Demand()
    collected.add(opportunities)
    return collected.take()


async def steer(pilot, *opportunities):
    """Two looks: a brand is known from the first one on."""
    for some in (opportunities[:1], opportunities[1:]):
        pilot.observe(seen(*some))
        await pilot.step()


async def brand(ledger, brand_id="b", **settings):
    await ledger.administration.put_brand(
        brand_id, BrandSettings(**{"target_roas": 2.6, "daily_budget_micros": None, **settings})
    )


def lambda_of(ledger, brand_id="b"):
    return ledger.terms.newest.brands[brand_id].lambda_


async def test_terms_carry_the_days_lambda_times_the_multiplier(ledger, pilot, clock):
    await brand(ledger, strategy_multiplier=2.0)
    assert lambda_of(ledger) == 5.2, "cold: the target"
    await steer(pilot, *market(number=SEEN_LEAST - 1))
    assert lambda_of(ledger) == 5.2
    await steer(pilot, *market(number=5000))
    steered = lambda_of(ledger)
    assert 0.1 < steered < 5.2
    assert (await ledger.administration.get_brand("b"))["lambda"] == steered
    terms = ledger.terms.since(ledger.terms.newest.version - 1)
    assert terms is not None and not terms.is_whole and terms.brands["b"].lambda_ == steered


async def test_lambda_stays_at_or_above_its_floor(ledger, pilot, clock):
    """Whatever is seen: 1-µ bids of much predicted revenue moved λ to 1e-6 and below."""
    await brand(ledger, target_roas=2.0, throttle_roas=1.0, lambda_floor=0.25)
    for _ in range(60):
        clock.now += dt.timedelta(minutes=1)
        await steer(pilot, *[Opportunity("b", 1e6, 1.0, WON)] * SEEN_LEAST)
    assert lambda_of(ledger) == 0.5
    await brand(ledger, target_roas=2.0, throttle_roas=1.0, lambda_floor=0.0)
    assert lambda_of(ledger) < 1e-6


async def test_nothing_is_solved_without_news(ledger, pilot):
    await brand(ledger)
    await steer(pilot, *market())
    version = ledger.terms.newest.version
    await pilot.step()
    assert ledger.terms.newest.version == version


async def test_what_is_held_and_spent_leaves_less_to_spend(ledger, pilot, clock):
    await brand(ledger, daily_budget_micros=3_000_000)
    await steer(pilot, *market(number=3000))
    before = lambda_of(ledger)
    await reserve(ledger, [claim(clock, "r", offer(amount=2_900_000))])
    await steer(pilot, *market(number=10))
    assert lambda_of(ledger) > before


async def test_what_was_earned_moves_lambda_once_it_says_something(ledger, pilot, clock):
    await brand(ledger)
    await steer(pilot, *market(number=3000))
    hopeful = lambda_of(ledger)
    two = [event(str(n), "impression", cost_micros=1_000_000) for n in range(2)]
    await ledger.record(two)
    await steer(pilot, *market(number=10))
    assert lambda_of(ledger) == pytest.approx(hopeful, rel=0.05), "two impressions are too few to say anything"
    await ledger.record([event("3", "impression", cost_micros=1_000_000)])
    await steer(pilot, *market(number=10))
    assert lambda_of(ledger) > 1.2 * hopeful, "three million spent, nothing earned"


async def test_a_portfolios_budget_is_priced_for_all_its_members(ledger, pilot, clock):
    await ledger.administration.put_portfolio("f", PortfolioSettings(target_roas=0.1, daily_budget_micros=400_000))
    await brand(ledger, "b", portfolio_id="f", target_roas=0.1)
    await brand(ledger, "c", portfolio_id="f", target_roas=0.1)
    await brand(ledger, "free", target_roas=0.1)
    together = [*market("b", 3000), *market("c", 3000, seed=1), *market("free", 3000, seed=2)]
    await steer(pilot, *together)
    assert lambda_of(ledger, "b") == pytest.approx(lambda_of(ledger, "c"), rel=1e-6)
    assert lambda_of(ledger, "b") > 2 * lambda_of(ledger, "free")


async def test_a_new_day_begins_with_the_nights_lambda(ledger, pilot, clock):
    await brand(ledger)
    await steer(pilot, *market())
    clock.forward(dt.timedelta(days=1))
    await ledger.refresh()
    await steer(pilot, *market(number=10))
    assert lambda_of(ledger) == 2.6


async def test_runaway_spending_freezes_the_brand_and_shows(ledger, pilot, clock):
    await brand(ledger, daily_budget_micros=1_000_000, exploration=0.05)
    await steer(pilot, *market())
    clock.forward(dt.timedelta(minutes=10))
    await ledger.record([event("1", "impression", at=clock.now, cost_micros=700_000)])
    pilot.observe(seen(*market()))
    await pilot.step()
    terms = ledger.terms.newest.brands["b"]
    assert (terms.lambda_, terms.share) == (2.6, 0.05)
    assert not terms.throttled, "that is for ROAS alone"
    assert "pace" in pilot.frozen["b"]


async def test_a_ledger_that_takes_over_keeps_the_days_lambda(ledger, pilot, clock, database):
    """Until it has watched for as long itself, or the day ends."""
    await brand(ledger)
    await steer(pilot, *market())
    steered = lambda_of(ledger)
    again = await Ledger.open(database, clock=clock)
    again.terms.steer(ledger.terms.steered)  # as the gauges bring it
    other = ControllerLoop(again, RoasSettings(watch_s=300.0), stopwatch=lambda: clock.now.timestamp())
    await steer(other, *market(number=300))
    assert lambda_of(again) == steered
    clock.forward(dt.timedelta(days=1))
    await again.refresh()
    await steer(other, Opportunity("b", 1.0, 1.0, WON))
    assert lambda_of(again) != steered


async def test_a_days_shape_comes_from_the_hours_of_the_brands_own_day(ledger, database, pilot, clock):
    """15:00 to 24:00 UTC is the first nine hours of a day in Tokyo."""
    await brand(ledger, timezone="Asia/Tokyo")
    rows = []
    for hour in range(15, 24):
        at = (NOON - dt.timedelta(days=2)).replace(hour=hour)
        place = ("b", "p", "s", "mobile", "160x600", 0.7)
        rows.append(
            {
                "key_hash": key_hash("import", "x", "hour", at, *place), "kind": "import",
                "precedence": PRECEDENCE["import"], "source": "x", "period": "hour", "hour": at, "day": at.date(),
                "brand_id": "b", "partner_id": "p", "slot_id": "s", "device_type": "mobile",
                "creative_type": "160x600", "placement_score": 0.7, "impressions": 1_000_000, "clicks": 0,
                "conversions": 0, "cost_micros": 0, "revenue_micros": 0, "pending_revenue_micros": 0,
            }
        )  # fmt: skip
    async with database.write() as connection:
        await connection.execute(insert(t.performance_hourly), rows)
    found = await ledger.performance.traffic(28)
    assert {(brand_id, hour) for brand_id, hour, _ in found} == {("b", hour) for hour in range(9)}


async def test_what_cannot_be_read_harms_nobody(ledger, pilot):
    await brand(ledger)
    pilot.observe(b"garbage")
    await steer(pilot, *market())
    assert lambda_of(ledger) < 2.6
