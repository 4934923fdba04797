"""Several ledgers on one database: each has its own brands, and no two layouts ever write side by side."""

import asyncio
import datetime as dt

import pytest
from sqlalchemy import func, insert, select, text

from db import tables as t
from db.brands import BrandSettings, PortfolioSettings
from ledger.domain.errors import Fenced, LayoutReplaced, NotFound, OtherShard
from ledger.domain.messages import Beat, LeaseLine
from ledger.domain.settings import LedgerSettings, RoasSettings
from ledger.domain.sharding import shard_of
from ledger.service.gauges import read_gauges
from ledger.service.ledger import Ledger
from ledger.service.roas_counters import RoasCounters
from tests.contract.ledgers import DAY, HOUR, NOON, claim, event, offer
from tests.contract.replica import Replica, reserve

ONE, TWO, THREE = (LedgerSettings(shards=number) for number in (1, 2, 3))


def named(shard: int, prefix: str = "b") -> str:
    """A brand without a portfolio (`b…`) or a portfolio (`p…`) of that shard of two."""
    ids = (f"{prefix}{number}" for number in range(100))
    return next(id_ for id_ in ids if shard_of(id_ if prefix == "p" else None, id_, 2) == shard)


B0, B1, P0, P1 = named(0), named(1), named(0, "p"), named(1, "p")


async def pair(database, clock, decided_at=1.0) -> list[Ledger]:
    return [await Ledger.open(database, TWO, clock=clock, shard=shard, decided_at=decided_at) for shard in (0, 1)]


async def put(ledger, brand_id="b", **fields):
    return await ledger.administration.put_brand(brand_id, BrandSettings(**({"daily_budget_micros": 1000} | fields)))


def paid(event_id, brand_id, cost, at=NOON):
    return event(event_id, "impression", at, brand_id, cost_micros=cost)


async def days(database, owner="portfolio"):
    b = t.budget_days.c
    async with database.read() as connection:
        rows = await connection.execute(select(b.owner_id, b.day, b.settled_micros).where(b.owner == owner))
        return {(id_, day.day): settled for id_, day, settled in rows}


# Layouts


async def test_a_younger_layout_ends_the_epochs_of_all_shards(database, clock):
    before = await Ledger.open(database, ONE, clock=clock, decided_at=1.0)
    await put(before, B0)
    first, second = await pair(database, clock, decided_at=2.0)
    with pytest.raises(LayoutReplaced):
        await put(before, B0)
    with pytest.raises(LayoutReplaced):
        await before.check_epoch()
    with pytest.raises(LayoutReplaced):
        await Ledger.open(database, ONE, clock=clock, decided_at=1.0)
    with pytest.raises(LayoutReplaced):
        await Ledger.open(database, THREE, shard=2, clock=clock, decided_at=2.0)
    await put(first, B0)
    await put(second, B1)
    for ledger in (first, second):
        await ledger.check_epoch()


async def test_a_smaller_layout_fences_the_shards_that_it_does_not_have(database, clock):
    first, second = await pair(database, clock)
    await put(second, B1)
    alone = await Ledger.open(database, ONE, clock=clock, decided_at=2.0)
    for ledger, brand_id in ((first, B0), (second, B1)):
        with pytest.raises(LayoutReplaced):
            await put(ledger, brand_id)
    with pytest.raises(LayoutReplaced):
        await second.check_epoch()
    await put(alone, B1)
    assert set(alone.directory.brands()) == {B1}


async def test_shards_of_one_layout_do_not_end_each_others_epochs(database, clock):
    first, second = await pair(database, clock)
    successor = await Ledger.open(database, TWO, clock=clock, shard=0, decided_at=3.0)
    await put(second, B1)
    await put(successor, B0)
    with pytest.raises(Fenced) as told:
        await put(first, B0)
    assert type(told.value) is Fenced, "the layout is the same: Ray may start it again"
    with pytest.raises(Fenced):
        await first.check_epoch()
    # What was decided between the two is too old by now.
    with pytest.raises(LayoutReplaced):
        await Ledger.open(database, ONE, clock=clock, decided_at=2.0)


async def test_an_epoch_of_before_shards_belongs_to_the_layout_of_one(database, clock):
    async with database.write() as connection:
        await connection.execute(insert(t.ledger_epochs).values(shard=0, epoch=7, taken_at=NOON))
    assert (await Ledger.open(database, ONE, clock=clock, decided_at=1.0)).epoch == 8
    first, second = await pair(database, clock, decided_at=2.0)
    assert (first.epoch, second.epoch) == (9, 1)


async def test_a_shard_that_the_layout_does_not_have_cannot_be_opened(database, clock):
    with pytest.raises(ValueError, match="no shard 2 of 2"):
        await Ledger.open(database, TWO, clock=clock, shard=2)


async def test_shards_that_open_together_all_open(database, clock):
    settings = LedgerSettings(shards=8)
    before = await Ledger.open(database, ONE, clock=clock, decided_at=1.0)
    ledgers = await asyncio.gather(
        *(Ledger.open(database, settings, clock=clock, shard=shard, decided_at=2.0) for shard in range(8))
    )
    for ledger in ledgers:
        await ledger.check_epoch()
    with pytest.raises(Fenced):
        await before.check_epoch()


# Side by side


async def test_each_shard_has_its_own_brands_and_portfolios(database, clock):
    ledgers = await pair(database, clock)
    members = {}
    for shard, (ledger, brand_id, portfolio_id) in enumerate(zip(ledgers, (B0, B1), (P0, P1), strict=True)):
        await ledger.administration.put_portfolio(portfolio_id, PortfolioSettings(daily_budget_micros=500))
        await put(ledger, brand_id)
        members[shard] = f"member-{shard}"
        await put(ledger, members[shard], portfolio_id=portfolio_id)
    for shard, ledger in enumerate(ledgers):
        await ledger.refresh()
        own = {(B0, B1)[shard], members[shard]}
        assert (
            set(ledger.directory.brands())
            == set(ledger.terms.since().brands)
            == set(await ledger.budgets.today())
            == own
        )
        assert [shown["brand_id"] for shown in (await ledger.administration.list_brands())[0]] == sorted(own)
        assert set(ledger.directory.portfolios()) == {(P0, P1)[shard]}
        assert (await ledger.administration.get_portfolio((P0, P1)[shard]))["brand_ids"] == [members[shard]]


async def test_who_asks_the_wrong_shard_is_told_the_right_one(database, clock):
    first, second = await pair(database, clock)
    await second.administration.put_portfolio(P1, PortfolioSettings())
    await put(second, B1)
    await put(second, "member", portfolio_id=P1)
    calls = [
        lambda: put(first, B1),
        lambda: put(first, "member"),
        lambda: put(first, "new", portfolio_id=P1),
        lambda: first.administration.get_brand("member"),
        lambda: first.administration.put_portfolio(P1, PortfolioSettings()),
        lambda: first.administration.get_portfolio(P1),
    ]
    for call in calls:
        with pytest.raises(OtherShard) as told:
            await call()
        assert told.value.shard == 1
    with pytest.raises(NotFound):
        await first.administration.get_brand("nobody")


async def test_two_shards_write_at_once(database, clock):
    first, second = await pair(database, clock)
    await put(first, B0, daily_budget_micros=10**6)
    await put(second, B1, daily_budget_micros=10**6)
    await asyncio.gather(
        *(
            ledger.record([paid(f"{brand_id}-{number}", brand_id, 10)])
            for number in range(25)
            for ledger, brand_id in ((first, B0), (second, B1))
        )
    )
    assert await days(database, "brand") == {(B0, 1): 250, (B1, 1): 250}


async def test_a_brand_moves_to_another_shard_at_midnight(database, clock):
    first, second = await pair(database, clock)
    await first.administration.put_portfolio(P0, PortfolioSettings(daily_budget_micros=500))
    await second.administration.put_portfolio(P1, PortfolioSettings(daily_budget_micros=700))
    await put(first, "b", portfolio_id=P0)
    await first.refresh()
    moving = await put(first, "b", portfolio_id=P1)
    assert moving["scheduled"]["portfolio_id"] == P1
    await second.refresh()
    assert (set(first.directory.brands()), set(second.directory.brands())) == ({"b"}, set())
    clock.now = NOON.replace(hour=0) + DAY
    assert (set(first.directory.brands()), set(second.directory.brands())) == (set(), {"b"})
    for ledger in (second, first):
        await ledger.sweep()
        await ledger.refresh()
    assert (set(first.terms.since().brands), set(second.terms.since().brands)) == (set(), {"b"})
    assert (await second.administration.get_brand("b"))["portfolio_id"] == P1


async def test_what_the_old_shard_wrote_last_is_kept_when_a_brand_moves(database, clock):
    first, second = await pair(database, clock)
    await second.administration.put_portfolio(P1, PortfolioSettings())
    await first.refresh()
    await put(first, B0)
    await put(first, B0, portfolio_id=P1)
    await second.refresh()
    await put(first, B0, portfolio_id=P1, target_roas=3.0)  # the second shard has not seen this yet
    clock.now = NOON + DAY
    await second.sweep()
    assert (await second.administration.get_brand(B0))["target_roas"] == 3.0


async def leaving_brands(database, clock, *brand_ids) -> list[Ledger]:
    """Brands that are the first shard's until midnight, with a conversion each, and the second's afterwards."""
    first, second = await pair(database, clock)
    await first.administration.put_portfolio(P0, PortfolioSettings(daily_budget_micros=500))
    await second.administration.put_portfolio(P1, PortfolioSettings(daily_budget_micros=500))
    await first.refresh()
    for brand_id in (*brand_ids, "stays"):
        await put(first, brand_id, portfolio_id=P0)
    for brand_id in brand_ids:
        await put(first, brand_id, portfolio_id=P1)
    clock.now = NOON.replace(hour=23)
    await first.record([conversion(brand_id, clock.now, 10) for brand_id in (*brand_ids, "stays")])
    return [first, second]


async def midnight(clock, *ledgers):
    clock.now = NOON.replace(hour=0, minute=10) + DAY
    for ledger in ledgers:
        await ledger.refresh()
        await ledger.sweep()


def conversion(brand_id, at, cost, number=0):
    """The brand's one conversion, first told or corrected."""
    type_ = "conversion_update" if number else "conversion"
    fields = {"conversion_id": "c", "status": "approved", "cost_micros": cost}
    return event(f"c-{number}", type_, at, brand_id, **fields)


async def test_a_moved_brands_cost_of_yesterday_stays_with_the_portfolio_of_then(database, clock):
    first, second = await leaving_brands(database, clock, "b")
    await midnight(clock, first, second)
    await second.record([conversion("b", clock.now, 17, number=1), paid("new", "b", 5, clock.now)])
    assert await days(database) == {(P0, 1): 27, (P1, 2): 5}
    assert await days(database, "brand") == {("b", 1): 17, ("b", 2): 5, ("stays", 1): 10}


async def test_shards_that_meet_in_an_old_day_of_a_portfolio_lose_no_cost(database, clock):
    brand_ids = [f"b{number}" for number in range(10)]
    first, second = await leaving_brands(database, clock, *brand_ids)
    await midnight(clock, first, second)
    calls = []
    for number, brand_id in enumerate(brand_ids, 1):
        calls.append(second.record([conversion(brand_id, clock.now, 13, number=1)]))
        calls.append(first.record([conversion("stays", clock.now + number * HOUR / 3600, 10 + number, number=number)]))
    results = await asyncio.gather(*calls)
    assert {result.status for batch in results for result in batch} == {"accepted"}
    assert await days(database) == {(P0, 1): 10 * 13 + 20}


async def test_an_event_that_comes_by_the_wrong_shard_is_not_lost(database, clock):
    first, second = await pair(database, clock)
    await put(second, B1)
    (result,) = await first.record([paid("e", B1, 7)])
    assert result.status == "accepted"
    (again,) = await second.record([paid("e", B1, 7)])
    assert again.status == "duplicate"
    assert await days(database, "brand") == {(B1, 1): 7}


# The pulse


async def test_the_gauges_of_all_shards_are_shown_together(database, clock, redis):
    ledgers = await pair(database, clock)
    await put(ledgers[0], B0)
    await put(ledgers[1], B1)
    await ledgers[0].administration.put_portfolio(P0, PortfolioSettings())
    counters = [RoasCounters(ledger, redis, RoasSettings(min_impressions=1)) for ledger in ledgers]
    for one in counters:
        await one.beat()
    await ledgers[1].record([event("e", "aggregate", NOON, B1, period="hour", impressions=10, cost_micros=10)])
    await ledgers[0].record([event("f", "aggregate", NOON, B1, period="hour", impressions=10, revenue_micros=30)])
    clock.forward(dt.timedelta(minutes=1))
    for one in counters:
        await one.beat()
    gauges = await read_gauges(redis)
    assert set(gauges.brands) == {B0, B1}
    assert set(gauges.portfolios) == {P0}
    assert gauges.ledger_epoch == {shard: ledgers[shard].epoch for shard in (0, 1)}
    assert gauges.brands[B0].roas_current is None
    alone = await Ledger.open(database, ONE, clock=clock, decided_at=2.0)
    clock.forward(HOUR)
    await RoasCounters(alone, redis, RoasSettings()).beat()
    gauges = await read_gauges(redis)
    assert (set(gauges.brands), gauges.ledger_epoch) == ({B0, B1}, {0: alone.epoch})


async def test_a_moved_brand_brings_its_days_along(database, clock, redis):
    first, second = await pair(database, clock)
    await second.administration.put_portfolio(P1, PortfolioSettings())
    await first.refresh()
    await put(first, B0)
    cost = {"period": "hour", "impressions": 10, "cost_micros": 100, "revenue_micros": 150}
    await first.record([event("e", "aggregate", NOON, B0, **cost)])
    counters = [RoasCounters(ledger, redis, RoasSettings(min_impressions=1)) for ledger in (first, second)]
    for one in counters:
        await one.beat()
    await put(first, B0, portfolio_id=P1)
    clock.now = NOON + DAY
    for ledger in (first, second):
        await ledger.refresh()
    for one in reversed(counters):
        await one.beat()
    gauges = await read_gauges(redis)
    assert gauges.brands[B0].roas_current == pytest.approx(1.5)
    assert gauges.portfolios[P1].roas_current == pytest.approx(1.5)


async def test_no_lock_outlives_a_fenced_transaction(database, clock):
    before = await Ledger.open(database, ONE, clock=clock)
    await Ledger.open(database, ONE, clock=clock)
    with pytest.raises(Fenced):
        await put(before)
    async with database.write() as connection:
        await connection.execute(text("UPDATE ledger_epochs SET epoch = epoch"))


# Leases and holds


async def held(database):
    r, b = t.reservations.c, t.budget_days.c
    async with database.read() as connection:
        rows = await connection.execute(select(r.brand_id, r.held_micros).where(r.status == "open"))
        sums = await connection.execute(select(func.sum(b.leased_micros), func.sum(b.reserved_micros)))
        return [tuple(row) for row in rows], tuple(int(value or 0) for value in sums.one())


async def test_the_first_shard_sweeps_while_the_others_write(database, clock):
    first, second = await pair(database, clock)
    await put(second, B1, daily_budget_micros=10**6)
    awards = await reserve(second, [claim(clock, f"r{number}", offer(B1)) for number in range(40)])
    clock.forward(HOUR)
    events = [
        event(f"i{number}", "impression", NOON, B1, cost_micros=9, reservation_id=award.wins[0].reservation_id)
        for number, award in enumerate(awards)
    ]
    sweep = asyncio.create_task(first.sweep())
    results = await asyncio.gather(*(second.record([one]) for one in events))
    await sweep
    assert {result.status for batch in results for result in batch} == {"accepted"}
    assert await second.sweep() == 0
    await first.sweep()
    assert await held(database) == ([], (0, 0))
    assert await days(database, "brand") == {(B1, 1): 40 * 9}


async def test_a_hold_of_yesterday_is_settled_by_the_brands_new_shard(database, clock):
    first, second = await leaving_brands(database, clock, "b")
    clock.now = NOON.replace(hour=23, minute=50)
    replica = Replica(first)
    await replica.open()
    for request in ("told", "untold"):
        replica.leases.want(offer("b"))
        await replica.beat()
        (win,) = replica.draw(claim(clock, request, offer("b"))).wins
        if request == "told":
            await replica.beat()
            told = win
    await midnight(clock, first, second)
    late = [
        event(
            f"i-{one.reservation_id}", "impression", clock.now, "b", cost_micros=30, reservation_id=one.reservation_id
        )
        for one in (told, win)
    ]
    assert {result.status for result in await second.record(late)} == {"accepted"}
    await replica.beat(is_last=True)  # records what was untold: the event has recorded it before
    assert await held(database) == ([], (0, 0))
    assert await days(database) == {(P0, 1): 20 + 60}
    assert await days(database, "brand") == {("b", 1): 10 + 60, ("stays", 1): 10}


async def test_a_shard_lends_only_its_own_brands(database, clock):
    first, second = await pair(database, clock)
    await put(second, B1)
    (opened,) = await first.beat([Beat(None, 1)])
    wants = LeaseLine(B1, NOON.date(), holds_micros=0, least_micros=10, want_micros=100)
    (reply,) = await first.beat([Beat(opened.session_id, 2, lines=(wants,))])
    assert (reply.grants, reply.refused) == ((), {B1: "brand_unknown"})


async def test_leases_of_a_shard_that_is_no_longer_there_come_back(database, clock):
    _, second = await pair(database, clock)
    await put(second, B1)
    silent, parting = Replica(second), Replica(second)
    for replica in (silent, parting):
        await replica.open()
        replica.leases.want(offer(B1))
        await replica.beat()
    (win,) = parting.draw(claim(clock, "r", offer(B1))).wins
    alone = await Ledger.open(database, ONE, clock=clock, decided_at=2.0)
    parting.ledger = alone
    await parting.beat(is_last=True)
    rows, (leased, reserved) = await held(database)
    assert rows == [(B1, win.reserved_micros)]
    assert leased > 0 and reserved == win.reserved_micros
    clock.forward(dt.timedelta(minutes=1))
    await alone.sweep()
    clock.forward(HOUR)
    await alone.sweep()
    assert await held(database) == ([], (0, 0))
