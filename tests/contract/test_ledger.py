"""The ledger on real databases: whatever happens, the money adds up in the tables."""

import asyncio
import datetime as dt

import pytest
from sqlalchemy import select

from db import tables as t
from db.brands import PortfolioSettings
from ledger.domain.budget import MONEY_MOST
from ledger.domain.errors import Fenced
from ledger.domain.messages import Beat, Event
from ledger.domain.settings import LedgerSettings
from ledger.service import sweep
from ledger.service.ledger import Ledger
from ledger.service.write_queue import WriteQueue
from ledger.transaction.working_set import WorkingSet
from tests.contract.ledgers import DAY, HOUR, NOON, brand, claim, event, journal, offer, statuses, today, update_of
from tests.contract.replica import Replica, reserve


async def test_a_win_is_held_then_settled(ledger, clock, database):
    await brand(ledger)
    (award,) = await reserve(ledger, [claim(clock, "r")])
    (win,) = award.wins
    assert (win.bid_id, win.reserved_micros, win.expires_at) == ("bid-b", 100, NOON + HOUR / 2)
    assert await today(ledger) == (1000, 900, 100, 0, 0, 0)
    paid = event("i", "impression", reservation_id=win.reservation_id, cost_micros=80)
    assert statuses(await ledger.record([paid])) == ["accepted"]
    assert await today(ledger) == (1000, 920, 0, 80, 0, 0)
    assert await journal(database) == ["reserve", "settle", "settle"]


async def test_money_comes_back_when_nothing_happens(ledger, clock, database):
    await brand(ledger)
    await reserve(ledger, [claim(clock, "r")])
    clock.forward(HOUR / 2 - dt.timedelta(microseconds=1))
    assert await ledger.sweep() == 0
    clock.forward(dt.timedelta(microseconds=1))
    assert await ledger.sweep() == 1
    assert await today(ledger) == (1000, 1000, 0, 0, 0, 0)
    assert await ledger.sweep() == 0
    assert await journal(database) == ["reserve", "expire"]


async def test_a_conversions_hold_shrinks_by_the_day(ledger, clock, database):
    await brand(ledger)
    await reserve(ledger, [claim(clock, "r", offer(amount=300, model="cpa"))])
    for days, held in [(1, 290), (10, 200), (29, 10), (30, 0)]:
        clock.now = NOON + days * DAY
        await ledger.sweep()
        async with database.read() as connection:
            row = (await connection.execute(select(t.budget_days.c.reserved_micros))).scalar_one()
        assert row == held
    assert await journal(database) == ["reserve", "shrink", "shrink", "shrink", "expire"]


async def test_many_expiries_are_swept_in_parts(ledger, clock):
    await brand(ledger, budget=10**9)
    await reserve(ledger, [claim(clock, f"r{n}") for n in range(1100)])
    clock.forward(HOUR)
    assert await ledger.sweep() == 1100
    assert await today(ledger) == (10**9, 10**9, 0, 0, 0, 0)


async def test_a_hold_keeps_the_lifetime_it_was_promised(ledger, clock, database, monkeypatch):
    monkeypatch.setattr(sweep, "SWEEP_ROWS", 2)
    await brand(ledger)
    await reserve(ledger, [claim(clock, str(n), offer(amount=300, model="cpa")) for n in range(3)])
    shorter = await Ledger.open(database, LedgerSettings(conversion_days=7), clock=clock)
    clock.forward(10 * DAY)
    async with asyncio.timeout(30):
        assert await shorter.sweep() == 3
    assert await shorter.sweep() == 0
    async with database.read() as connection:
        assert (await connection.execute(select(t.budget_days.c.reserved_micros))).scalar_one() == 600


async def test_a_sweep_that_gets_nowhere_stops(ledger, clock, monkeypatch):
    monkeypatch.setattr(sweep, "SWEEP_ROWS", 2)
    await brand(ledger)
    await reserve(ledger, [claim(clock, str(n)) for n in range(5)])
    clock.forward(HOUR)
    with monkeypatch.context() as stuck:
        stuck.setattr(WorkingSet, "age", lambda *_: None)
        async with asyncio.timeout(30):
            assert await ledger.sweep() == 2
    assert await ledger.sweep() == 5


async def test_beats_get_between_the_parts_of_a_sweep(ledger, clock, monkeypatch):
    monkeypatch.setattr(sweep, "SWEEP_ROWS", 2)
    await brand(ledger, budget=10**6)
    await reserve(ledger, [claim(clock, str(n)) for n in range(100)])
    clock.forward(HOUR)
    writer, moves = WriteQueue(ledger), ledger.moves
    loop = asyncio.create_task(writer.keep_writing())
    sweeping = asyncio.create_task(writer.sweep())
    for _ in range(10_000):
        if ledger.moves > moves:  # the sweep has begun
            break
        await asyncio.sleep(0.001)
    reply = await writer.beat(Beat(None, 1))
    assert reply.is_open and not sweeping.done()
    assert await sweeping == 100
    loop.cancel()


async def test_what_the_caller_gives_back_is_available_again(ledger, clock):
    await brand(ledger)
    (award,) = await reserve(ledger, [claim(clock, "r")])
    ids = [award.wins[0].reservation_id, "no-such"]
    assert await ledger.release(ids) == 1
    assert await ledger.release(ids) == 0
    assert await today(ledger) == (1000, 1000, 0, 0, 0, 0)
    (again,) = await reserve(ledger, [claim(clock, "r")])
    assert again.wins, "it may be ranked afresh"
    assert await ledger.release([again.wins[0].reservation_id]) == 0, (
        "but the request's first record stands: this is void"
    )
    assert await today(ledger) == (1000, 1000, 0, 0, 0, 0)


async def test_a_request_that_two_replicas_answered_is_paid_for_once(ledger, clock, database):
    """The first record stands; the other's money returns, and its events go to the first one's hold."""
    await brand(ledger)
    await brand(ledger, "c")
    one, two = Replica(ledger), Replica(ledger)
    (first,) = await one.reserve([claim(clock, "r", offer("b"))])
    (second,) = await two.reserve([claim(clock, "r", offer("b"), offer("c"), winners=2, body="other")])
    assert len(second.wins) == 2
    assert await today(ledger) == (1000, 900, 100, 0, 0, 0)
    assert await today(ledger, "c") == (1000, 1000, 0, 0, 0, 0)
    b, c = (win.reservation_id for win in second.wins)
    paid = [
        event("1", "impression", reservation_id=b, cost_micros=80),
        event("2", "impression", brand_id="c", reservation_id=c, cost_micros=7),
    ]
    assert statuses(await ledger.record(paid)) == ["accepted", "accepted"]
    assert await today(ledger) == (1000, 920, 0, 80, 0, 0)
    assert await today(ledger, "c") == (1000, 993, 0, 7, 0, 0)
    assert (await journal(database))[-1] == "late_settle"
    assert await ledger.release([first.wins[0].reservation_id]) == 0


async def test_several_winners_of_one_answer_all_stand(ledger, clock):
    await brand(ledger)
    await brand(ledger, "c")
    (award,) = await reserve(ledger, [claim(clock, "r", offer("b"), offer("c"), winners=2)])
    assert len(award.wins) == 2
    assert [(await today(ledger, id_))[2] for id_ in "bc"] == [100, 100]


async def test_ids_differ_by_case(ledger, clock):
    await brand(ledger, "b")
    await brand(ledger, "B", budget=50)
    awards = await reserve(ledger, [claim(clock, "r", offer("b")), claim(clock, "R", offer("B"))])
    assert [len(award.wins) for award in awards] == [1, 0]
    batch = [event("e", "impression", cost_micros=1), event("E", "impression", cost_micros=2)]
    assert statuses(await ledger.record(batch)) == ["accepted", "accepted"]
    assert (await today(ledger))[3] == 3


async def test_brand_and_portfolio_are_debited_together(ledger, clock):
    await ledger.administration.put_portfolio("f", PortfolioSettings(daily_budget_micros=150))
    await brand(ledger, "a", portfolio_id="f")
    await brand(ledger, "b", portfolio_id="f")
    first, second = await reserve(ledger, [claim(clock, "1", offer("a")), claim(clock, "2", offer("b"))])
    assert first.wins
    assert second.refused == {"bid-b": "portfolio_budget"}
    shown = await ledger.administration.get_portfolio("f")
    assert (shown["brand_ids"], shown["today"]["available"], shown["today"]["reserved"]) == (["a", "b"], 50, 100)
    await ledger.record([event("i", "impression", brand_id="b", cost_micros=30)])
    assert (await ledger.administration.get_portfolio("f"))["today"]["settled"] == 30
    await ledger.administration.put_portfolio("f", PortfolioSettings(daily_budget_micros=100))
    assert (await ledger.administration.get_portfolio("f"))["today"]["excess"] == 30


async def test_a_paused_brand_wins_nothing(ledger, clock):
    await brand(ledger, active=False)
    (award,) = await reserve(ledger, [claim(clock, "r")])
    assert award.refused == {"bid-b": "brand_paused"}
    assert not ledger.terms.newest.brands["b"].active


async def test_a_budget_moves_during_the_day(ledger, clock):
    await brand(ledger, budget=1000)
    await reserve(ledger, [claim(clock, "r", offer(amount=600))])
    for budget, expected in [
        (500, (500, 0, 600, 0, 100, 0)),
        (800, (800, 200, 600, 0, 0, 0)),
        (None, (None, None, 600, 0, 0, 0)),
        (700, (700, 100, 600, 0, 0, 0)),
        (0, (0, 0, 600, 0, 600, 0)),
    ]:
        await brand(ledger, budget=budget)
        assert await today(ledger) == expected


async def test_a_top_up_before_the_first_win_makes_the_day(ledger, clock):
    await brand(ledger, budget=10)
    await brand(ledger, budget=200)
    (award,) = await reserve(ledger, [claim(clock, "r")])
    assert award.wins
    assert await today(ledger) == (200, 100, 100, 0, 0, 0)


@pytest.mark.parametrize(
    ("timezone", "midday", "midnight"),
    [
        ("UTC", NOON, dt.datetime(2024, 5, 2, tzinfo=dt.UTC)),
        # The day the clocks go forward has 23 hours, the day they go back 25.
        ("Europe/London", dt.datetime(2024, 3, 31, 12, tzinfo=dt.UTC), dt.datetime(2024, 3, 31, 23, tzinfo=dt.UTC)),
        ("Europe/London", dt.datetime(2024, 10, 27, 12, tzinfo=dt.UTC), dt.datetime(2024, 10, 28, tzinfo=dt.UTC)),
        ("America/New_York", dt.datetime(2024, 3, 10, 12, tzinfo=dt.UTC), dt.datetime(2024, 3, 11, 4, tzinfo=dt.UTC)),
    ],
)
async def test_a_budget_day_ends_at_the_brands_midnight(ledger, clock, timezone, midday, midnight):
    clock.now = midday
    await brand(ledger, budget=100, timezone=timezone)
    assert ledger.terms.newest.brands["b"].day_ends_at == midnight
    clock.now = midnight - dt.timedelta(microseconds=1)
    full, empty = await reserve(ledger, [claim(clock, "1"), claim(clock, "2")])
    assert full.wins
    assert empty.refused == {"bid-b": "brand_budget"}
    clock.now = midnight
    (award,) = await reserve(ledger, [claim(clock, "3")])
    assert award.wins, "a new day, a new budget"
    assert await today(ledger) == (100, 0, 100, 0, 0, 0)
    await ledger.refresh()
    assert ledger.terms.newest.brands["b"].day_ends_at > midnight


async def test_late_and_unknown_reservations_settle_all_the_same(ledger, clock, database):
    await brand(ledger)
    (award,) = await reserve(ledger, [claim(clock, "r")])
    clock.forward(HOUR)
    await ledger.sweep()
    late = event("1", "impression", reservation_id=award.wins[0].reservation_id, cost_micros=70)
    unknown = event("2", "impression", reservation_id="never-made", cost_micros=5)
    assert statuses(await ledger.record([late, unknown])) == ["accepted", "accepted"]
    assert await today(ledger) == (1000, 925, 0, 75, 0, 0)
    assert (await journal(database))[-2:] == ["late_settle", "late_settle"]


async def test_a_conversion_is_restated_in_any_order(ledger, clock):
    await brand(ledger)
    (award,) = await reserve(ledger, [claim(clock, "r", offer(model="cpa"))])
    click = event("k", "click", click_id="k-1", reservation_id=award.wins[0].reservation_id)
    clock.forward(2 * HOUR)
    later = update_of("u2", NOON + 2 * HOUR, conversion_id="c", status="approved")
    sooner = update_of("u1", NOON + HOUR, conversion_id="c", status="rejected", cost_micros=60)
    conversion = Event(
        "c", "conversion", NOON, "b", "p", click_id="k-1", conversion_id="c", status="pending",
        cost_micros=90, revenue_micros=500,
    )  # fmt: skip
    assert statuses(await ledger.record([later])) == ["accepted"]
    assert statuses(await ledger.record([click])) == ["accepted"]
    assert statuses(await ledger.record([conversion, sooner, conversion])) == ["accepted", "accepted", "duplicate"]
    assert await today(ledger) == (1000, 940, 0, 60, 0, 0)
    shown = (await ledger.administration.get_brand("b"))["today"]
    assert (shown["cost"], shown["revenue"], shown["roas"]) == (60, 500, 500 / 60)


async def test_a_click_may_come_after_its_conversion(ledger, clock):
    """The conversion then belongs to the click's reservation and its day; the audit agrees."""
    await brand(ledger)
    (award,) = await reserve(ledger, [claim(clock, "r", offer(model="cpa"))])
    clock.forward(DAY)
    conversion = event("c", "conversion", NOON + DAY, click_id="k", conversion_id="c", status="pending", cost_micros=90)
    await ledger.record([conversion])
    assert await today(ledger) == (1000, 910, 0, 90, 0, 0)
    await ledger.record([event("k", "click", click_id="k", reservation_id=award.wins[0].reservation_id)])
    assert await today(ledger) == (1000, 1000, 0, 0, 0, 0)
    clock.now = NOON
    assert await today(ledger) == (1000, 910, 0, 90, 0, 0)


async def test_one_brands_large_numbers_harm_nobody(ledger, clock):
    await brand(ledger)
    await brand(ledger, "c")
    most = {"period": "day", "revenue_micros": MONEY_MOST, "impressions": 1}
    huge = [event(str(n), "aggregate", slot_id=f"s{n}", cost_micros=int(n == 0), **most) for n in range(1200)]
    assert {result.status for result in await ledger.record(huge)} == {"accepted"}
    (shown, other), _ = await ledger.administration.list_brands()
    assert (shown["today"]["revenue"], shown["today"]["cost"], other["today"]["revenue"]) == (MONEY_MOST, 1, 0)
    over = [event(f"o{n}", "aggregate", slot_id=f"o{n}", period="day", cost_micros=MONEY_MOST - 1) for n in range(2)]
    assert statuses(await ledger.record(over)) == ["accepted", "amount_too_large"]


async def test_a_batch_is_answered_item_by_item(ledger, clock):
    await brand(ledger)
    first = event("1", "impression", cost_micros=1)
    results = await ledger.record(
        [
            first,
            first,
            event("1", "impression", cost_micros=2),
            event("2", "impression", brand_id="nobody"),
            event("3", "impression", currency="USD"),
            Event("4", "conversion", NOON, "b", "p", click_id="none", conversion_id="c", status="pending"),
            event("5", "impression", currency="EUR"),
        ]
    )
    assert statuses(results) == [
        "accepted", "duplicate", "conflict", "not_found", "currency_mismatch", "click_unknown", "accepted",
    ]  # fmt: skip
    assert all(result.message for result in results if result.status == "rejected")


async def test_ten_thousand_events_are_recorded_once(ledger, clock):
    for n in range(20):
        await brand(ledger, f"b{n}", budget=10**12)
    types = ("impression", "click", "conversion")
    events = []
    for n in range(10_000):
        type_ = types[n % 3]
        more = {"conversion_id": f"c{n}", "status": "pending", "revenue_micros": 9} if type_ == "conversion" else {}
        events.append(event(f"e{n}", type_, brand_id=f"b{n % 20}", cost_micros=n, slot_id=f"s{n % 50}", **more))
    assert {result.status for result in await ledger.record(events)} == {"accepted"}
    assert {result.status for result in await ledger.record(events)} == {"duplicate"}
    shown = [await today(ledger, f"b{n}") for n in range(20)]
    assert sum(row[3] for row in shown) == sum(range(10_000))


async def test_a_conversion_restated_thousands_of_times_ends_at_the_latest_word(ledger, clock):
    await brand(ledger, budget=10**12)
    first = event("c", "conversion", conversion_id="c", status="pending", cost_micros=1, revenue_micros=1)
    more = [
        event(f"u{n:05}", "conversion_update", conversion_id="c", status="approved", cost_micros=n) for n in range(3000)
    ]
    assert {result.status for result in await ledger.record([first, *more])} == {"accepted"}
    assert (await today(ledger))[3] == 2999


async def test_the_last_cents_are_won_once(ledger, clock):
    await brand(ledger, budget=1050)
    replicas = [Replica(ledger) for _ in range(8)]
    awards = await asyncio.gather(*(replica.reserve([claim(clock, f"{n}-{m}") for m in range(5)])
        for n, replica in enumerate(replicas)))  # fmt: skip
    assert sum(len(award.wins) for part in awards for award in part) == 10
    assert {reason for part in awards for award in part for reason in award.refused.values()} == {"brand_budget"}
    assert await today(ledger) == (1050, 50, 1000, 0, 0, 0)


async def test_two_ledgers_never_write_together(ledger, clock, database):
    await brand(ledger)
    newer = await Ledger.open(database, clock=clock)
    assert newer.epoch == ledger.epoch + 1
    with pytest.raises(Fenced):
        await reserve(ledger, [claim(clock, "1")])
    with pytest.raises(Fenced):
        await ledger.record([event("1", "impression", cost_micros=5)])
    with pytest.raises(Fenced):
        await brand(ledger, budget=5)
    with pytest.raises(Fenced):
        await ledger.sweep()
    (award,) = await reserve(newer, [claim(clock, "1")])
    assert award.wins
    assert await today(newer) == (1000, 900, 100, 0, 0, 0)


async def test_two_old_ledgers_racing_with_a_new_one_lose(ledger, clock, database):
    await brand(ledger, budget=10**6)

    async def spend(book, start):
        won = 0
        for n in range(start, start + 30):
            try:
                won += len((await reserve(book, [claim(clock, f"r{n}")]))[0].wins)
            except Fenced:
                return won
        return won

    async def take_over():
        await asyncio.sleep(0.02)
        return await spend(await Ledger.open(database, clock=clock), 1000)

    won = sum(await asyncio.gather(spend(ledger, 0), take_over()))
    assert (await today(ledger))[2] == 100 * won


async def test_a_killed_ledger_comes_back_the_same(ledger, clock, database):
    await ledger.administration.put_portfolio("f", PortfolioSettings(daily_budget_micros=5000))
    await brand(ledger, portfolio_id="f", strategy_multiplier=1.5)
    awards = await reserve(ledger, [claim(clock, f"r{n}") for n in range(5)])
    await ledger.record([event("i", "impression", reservation_id=awards[0].wins[0].reservation_id, cost_micros=33)])
    before = (
        await ledger.administration.get_brand("b"),
        await ledger.administration.get_portfolio("f"),
        ledger.terms.newest.brands,
    )
    again = await Ledger.open(database, clock=clock)
    assert (
        await again.administration.get_brand("b"),
        await again.administration.get_portfolio("f"),
        again.terms.newest.brands,
    ) == before
    assert again.terms.newest.version > ledger.terms.newest.version
    clock.forward(HOUR)
    assert await again.sweep() == 4


async def test_a_conversion_hold_may_be_configured(database, clock):
    ledger = await Ledger.open(database, LedgerSettings(reservation_ttl_s=60.0, conversion_days=2), clock=clock)
    await brand(ledger)
    awards = await reserve(ledger, [claim(clock, "1"), claim(clock, "2", offer(model="cpa"))])
    assert [award.wins[0].expires_at - NOON for award in awards] == [dt.timedelta(seconds=60), 2 * DAY]
