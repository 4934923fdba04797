"""Counters, current ROAS, throttle and gauges against a real Redis and real databases."""

import datetime as dt
import math

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import insert

from db import tables as t
from db.brands import BrandSettings, PortfolioSettings
from db.performance import PRECEDENCE, key_hash
from ledger.domain.budget import MONEY_MOST
from ledger.domain.errors import LedgerUnavailable
from ledger.domain.messages import Event
from ledger.domain.settings import LedgerSettings, RoasSettings
from ledger.service.day_counters import built_key
from ledger.service.gauges import Gauges, gauges_key, read_gauges
from ledger.service.ledger import Ledger
from ledger.service.roas_counters import RoasCounters
from ledger.storage.epochs import Epochs
from tests.contract.ledgers import NOON, claim, event
from tests.contract.replica import reserve

MINUTE = dt.timedelta(minutes=1)
ROAS = RoasSettings(min_impressions=10)


@pytest.fixture
async def ledger(database, clock):
    return await Ledger.open(database, LedgerSettings(gauges_s=5.0), clock=clock)


@pytest.fixture
def counters(ledger, redis):
    return RoasCounters(ledger, redis, ROAS)


async def gauges_of(redis) -> Gauges:
    gauges = await read_gauges(redis)
    assert gauges is not None
    return gauges


def no_redis(tmp_path) -> Redis:
    return Redis(unix_socket_path=str(tmp_path / "none.sock"), retry=Retry(NoBackoff(), 0))


class OneOf:
    """Whichever Redis it stands for just now."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def __getattr__(self, name: str):
        return getattr(self.redis, name)


def _goes_away(*_args, **_more):
    raise RedisConnectionError("gone")


async def _has_no_database(*_args):
    raise LedgerUnavailable("gone")


async def brand(ledger, brand_id="b", **fields):
    await ledger.administration.put_brand(brand_id, BrandSettings(**({"daily_budget_micros": 10_000} | fields)))


def impressions(brand_id="b", cost=100, revenue=0, day="2024-05-01", tag="") -> list[Event]:
    """An aggregate of ten impressions."""
    at = dt.datetime.fromisoformat(f"{day}T06:00:00+00:00")
    return [
        event(
            f"{tag}{brand_id}-{day}", "aggregate", at, brand_id, period="hour", impressions=10, cost_micros=cost,
            revenue_micros=revenue,
        )
    ]  # fmt: skip


async def import_row(database, brand_id="b", day=dt.date(2024, 4, 30), **figures):
    hour = dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
    where = (brand_id, "p", "imported", "mobile", "160x600", None)
    names = ("brand_id", "partner_id", "slot_id", "device_type", "creative_type", "placement_score")
    none = {"impressions": 0, "clicks": 0, "conversions": 0, "revenue_micros": 0, "pending_revenue_micros": 0}
    row = {
        "key_hash": key_hash("import", "f.csv", "day", hour, *where), "kind": "import", "source": "f.csv",
        "precedence": PRECEDENCE["import"], "period": "day", "hour": hour, "day": day, "cost_micros": None,
    }  # fmt: skip
    file = {"source": "f.csv", "sha256": "0" * 64, "rows": 1, "rejected": 0, "simulated": False, "imported_at": NOON}
    async with database.write() as connection:
        await connection.execute(
            insert(t.performance_hourly), row | dict(zip(names, where, strict=True)) | none | figures
        )
        await connection.execute(insert(t.imports), file)


async def test_the_first_gauges_are_there_before_any_event(ledger, counters, redis):
    assert await read_gauges(redis) is None
    await brand(ledger, target_roas=2.0, strategy_multiplier=1.5)
    await brand(ledger, "asleep", active=False)
    await brand(ledger, "endless", daily_budget_micros=None)
    await ledger.administration.put_portfolio("f", PortfolioSettings(target_roas=3.0))
    await counters.beat()
    gauges = await gauges_of(redis)
    assert gauges.ledger_epoch == {0: ledger.epoch}
    assert gauges.updated_at == NOON
    assert set(gauges.brands) == {"b", "endless"}
    shown = gauges.brands["b"]
    assert (shown.roas_current, shown.roas_target, shown.lambda_) == (None, 2.0, 3.0)
    assert (shown.throttled, shown.share, shown.overspend_micros) == (False, 1.0, 0)
    assert shown.budget_micros == {"available": 10_000, "leased": 0, "reserved": 0, "settled": 0}
    assert gauges.brands["endless"].budget_micros["available"] is None
    assert (gauges.portfolios["f"].roas_current, gauges.portfolios["f"].roas_target) == (None, 3.0)


async def test_gauges_survive_json():
    gauges = Gauges({}, {}, {0: 7}, NOON)
    assert Gauges.of_json(gauges.to_json()) == gauges


async def test_the_current_roas_follows_the_events(ledger, counters, redis, clock):
    await brand(ledger)
    await counters.beat()
    await ledger.record(impressions(cost=100, revenue=120))
    await ledger.record([event("c", "conversion", conversion_id="c", status="pending", revenue_micros=50)])
    clock.forward(MINUTE)
    await counters.beat()
    # An event beats the aggregate of its day and tuple: only the conversion counts there.
    assert (await gauges_of(redis)).brands["b"].roas_current is None
    await ledger.record(
        [event(f"i{n}", "impression", cost_micros=10) for n in range(10)]
        + [event("u", "conversion_update", NOON + MINUTE, conversion_id="c2", status="approved", revenue_micros=120)]
    )
    clock.forward(MINUTE)
    await counters.beat()
    approval = (1 + 10 * 9 / 11) / 11
    assert (await gauges_of(redis)).brands["b"].roas_current == pytest.approx((120 + 50 * approval) / 100)


async def test_it_is_looked_at_once_a_minute(ledger, counters, redis, clock):
    await brand(ledger)
    await counters.beat()
    await ledger.record(impressions(cost=100, revenue=120))
    clock.forward(MINUTE - dt.timedelta(seconds=1))
    await counters.beat()
    assert (await gauges_of(redis)).brands["b"].roas_current is None
    clock.forward(dt.timedelta(seconds=1))
    await counters.beat()
    assert (await gauges_of(redis)).brands["b"].roas_current == pytest.approx(1.2)


async def test_budgets_and_new_brands_show_sooner(ledger, counters, redis, clock):
    await brand(ledger)
    await counters.beat()
    await reserve(ledger, [claim(clock, "r")])
    await brand(ledger, "new")
    clock.forward(dt.timedelta(seconds=4))
    await counters.beat()
    assert (await gauges_of(redis)).brands["b"].budget_micros["reserved"] == 0
    clock.forward(dt.timedelta(seconds=1))
    await counters.beat()
    gauges = await gauges_of(redis)
    assert gauges.brands["b"].budget_micros == {"available": 9_900, "leased": 0, "reserved": 100, "settled": 0}
    assert "new" in gauges.brands


async def test_the_window_is_seven_days_today_included(ledger, counters, redis):
    await brand(ledger)
    await ledger.record(impressions(cost=100, revenue=70, day="2024-04-25"))
    await ledger.record(impressions(cost=900, revenue=0, day="2024-04-24"))
    await counters.beat()
    assert (await gauges_of(redis)).brands["b"].roas_current == pytest.approx(0.7)


async def test_imports_count_and_are_noticed(ledger, counters, redis, database, clock):
    await brand(ledger)
    await counters.beat()
    await import_row(database, impressions=1000, cost_micros=200, revenue_micros=500)
    await ledger.refresh()
    clock.forward(MINUTE)
    await counters.beat()
    assert (await gauges_of(redis)).brands["b"].roas_current == pytest.approx(2.5)


async def test_revenue_without_a_known_cost_has_no_roas(ledger, counters, redis, database):
    await brand(ledger)
    await ledger.record(impressions(cost=100, revenue=120))
    await import_row(database, impressions=1000, revenue_micros=10**6)
    await ledger.refresh()
    await counters.beat()
    assert (await gauges_of(redis)).brands["b"].roas_current == pytest.approx(1.2)


async def test_below_throttle_roas_the_share_falls_and_the_replicas_hear_of_it(ledger, counters, redis, clock):
    await brand(ledger, throttle_roas=0.8)
    await ledger.record(impressions(cost=100, revenue=50))
    for minute in range(1, 4):
        await counters.beat()
        shown = ledger.terms.newest.brands["b"]
        assert shown.throttled
        assert shown.share == pytest.approx(1 - 0.1 * minute)
        clock.forward(MINUTE)
    gauges = await gauges_of(redis)
    assert gauges.brands["b"].throttled
    assert gauges.brands["b"].share == pytest.approx(0.7)


async def test_a_restart_does_not_lift_the_throttle(ledger, counters, redis, clock, database):
    await brand(ledger, throttle_roas=0.8)
    await ledger.record(impressions(cost=100, revenue=50))
    await counters.beat()
    clock.forward(MINUTE)
    again = await Ledger.open(database, clock=clock)
    await RoasCounters(again, redis, ROAS).beat()
    assert again.terms.newest.brands["b"].share == pytest.approx(0.8)


async def test_a_portfolio_throttles_the_brands_that_hold_it_down(ledger, counters, redis):
    await ledger.administration.put_portfolio("f", PortfolioSettings(throttle_roas=1.0))
    await brand(ledger, "good", portfolio_id="f", throttle_roas=0.5)
    await brand(ledger, "poor", portfolio_id="f", throttle_roas=0.5)
    await ledger.record(impressions("good", cost=100, revenue=150))
    await ledger.record(impressions("poor", cost=200, revenue=120))
    await counters.beat()
    gauges = await gauges_of(redis)
    assert gauges.portfolios["f"].roas_current == pytest.approx(0.9)
    assert (gauges.brands["good"].throttled, gauges.brands["poor"].throttled) == (False, True)


async def test_redis_may_forget_everything(ledger, counters, redis, clock):
    await brand(ledger)
    await ledger.record(impressions(cost=100, revenue=120))
    await counters.beat()
    await redis.flushdb()
    clock.forward(MINUTE)
    await counters.beat()
    assert (await gauges_of(redis)).brands["b"].roas_current == pytest.approx(1.2)
    assert await redis.exists(built_key(0), gauges_key(0)) == 2


async def test_without_redis_money_goes_on_and_one_line_is_logged(ledger, clock, caplog, tmp_path):
    away = no_redis(tmp_path)
    counters = RoasCounters(ledger, away, ROAS)
    await brand(ledger)
    for _ in range(3):
        await counters.beat()
        (award,) = await reserve(ledger, [claim(clock, f"r{clock().isoformat()}")])
        assert award.wins
        clock.forward(MINUTE)
    assert [record.message for record in caplog.records if record.name == "paceline.counters"] == [
        caplog.records[0].message
    ]
    assert "stand still until Redis answers" in caplog.records[0].message
    assert math.isnan(counters.roas("b"))
    await away.aclose()


async def test_large_sums_do_not_stop_the_gauges(ledger, counters, redis):
    await brand(ledger)
    await brand(ledger, "c")
    most = {"period": "day", "revenue_micros": MONEY_MOST, "impressions": 1}
    await ledger.record([event(str(n), "aggregate", slot_id=f"s{n}", **most) for n in range(1200)])
    await ledger.record(impressions("c", cost=100, revenue=120))
    await counters.beat()
    assert (await gauges_of(redis)).brands["c"].roas_current == pytest.approx(1.2)


async def test_without_the_database_gauges_wait_and_one_line_is_logged(ledger, counters, redis, clock, caplog):
    await brand(ledger)
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(Epochs, "read", _has_no_database)
        for _ in range(3):
            await counters.beat()
            clock.forward(MINUTE)
    assert [record.message for record in caplog.records if record.name == "paceline.counters"] == [
        "shard 0: ROAS and gauges stand still until the database answers: gone"
    ]
    await counters.beat()
    assert "b" in (await gauges_of(redis)).brands


async def test_what_changed_while_redis_was_away_is_counted_later(ledger, redis, clock, tmp_path):
    await brand(ledger)
    at_hand = OneOf(redis)
    counters = RoasCounters(ledger, at_hand, ROAS)
    await counters.beat()
    await ledger.record(impressions(cost=100, revenue=120))
    away = at_hand.redis = no_redis(tmp_path)
    await counters.beat()
    at_hand.redis = redis
    clock.forward(MINUTE)
    await counters.beat()
    assert (await gauges_of(redis)).brands["b"].roas_current == pytest.approx(1.2)
    await away.aclose()


async def test_a_write_that_redis_lost_is_written_again(ledger, counters, redis, clock, monkeypatch):
    await brand(ledger)
    await counters.beat()
    await ledger.record(impressions(cost=100, revenue=120))
    with monkeypatch.context() as broken:
        broken.setattr(Redis, "pipeline", _goes_away)
        await counters.beat()
    clock.forward(MINUTE)
    await counters.beat()
    assert (await gauges_of(redis)).brands["b"].roas_current == pytest.approx(1.2)


async def test_conversion_delays_are_learned_once_each(ledger, counters, redis, clock):
    """A slow brand that began today is worth more than what has come so far."""
    await brand(ledger)
    history = []
    for n in range(60):
        clicked = NOON - dt.timedelta(days=20)
        history.append(event(f"k{n}", "click", clicked, click_id=f"k{n}"))
        came = clicked + dt.timedelta(days=4 if n % 2 else 0)
        fields = {"click_id": f"k{n}", "conversion_id": f"c{n}", "status": "approved"}
        history.append(event(f"c{n}", "conversion", came, **fields))
    await ledger.record(history)
    await ledger.record([event(f"i{n}", "impression", cost_micros=10) for n in range(10)])
    await ledger.record([event("c", "conversion", conversion_id="c", status="approved", revenue_micros=100)])
    for _ in range(2):
        await counters.beat()
        # Half of the conversions come at once, spread over a day: a quarter of that in the first quarter day.
        expected = min(1 / (0.5 * 0.25), 5.0)
        assert (await gauges_of(redis)).brands["b"].roas_current == pytest.approx(expected)
        clock.forward(dt.timedelta(milliseconds=1))
        counters._ticked_at = None
