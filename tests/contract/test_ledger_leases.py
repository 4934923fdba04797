"""Leases on real databases: what replicas may draw, what comes back, and when. The money always adds up."""

import asyncio
import datetime as dt
import itertools
import random
from dataclasses import replace

import pytest
from sqlalchemy import select

from db import tables as t
from db.brands import PortfolioSettings
from ledger.client.lease_cache import NO_LEASE
from ledger.domain.messages import Award, Beat, Claim, LeaseLine
from ledger.domain.reservation_ids import decode, encode
from ledger.domain.settings import LedgerSettings
from ledger.service.ledger import Ledger
from ledger.service.sessions import LAPSE_GRACE_S
from tests.contract.ledgers import (
    DAY,
    HOUR,
    NOON,
    brand,
    claim,
    event,
    journal,
    offer,
    statuses,
)
from tests.contract.replica import Replica

SECOND = dt.timedelta(seconds=1)
TTL, LASTING = HOUR / 2, 30 * DAY
DRAWING = dt.timedelta(seconds=LedgerSettings().lease_s)
"""So long a replica may go on drawing after it was last heard."""
SILENT = dt.timedelta(seconds=LedgerSettings().lease_s + LAPSE_GRACE_S)


async def today(ledger, brand_id="b"):
    """(available, leased, reserved, settled)"""
    shown = (await ledger.administration.get_brand(brand_id))["today"]
    return tuple(shown[name] for name in ("available", "leased", "reserved", "settled"))


async def ask(replica: Replica, one: Claim) -> Award:
    """As a request does it: ask for what is missing, then draw. The leases stay."""
    await replica.open()
    for offered in one.offers:
        if replica.leases.refusal(offered, replica.now_s) == NO_LEASE:
            replica.leases.want(offered)
    await replica.beat()
    return replica.draw(one)


async def winner(ledger, *claims: Claim) -> tuple[Replica, list[str]]:
    """A replica that has won these, and not told the ledger yet."""
    replica = Replica(ledger)
    ids: list[str] = []
    for one in claims:
        award = replica.draw(one) if ids else await ask(replica, one)
        assert len(award.wins) == 1
        ids.append(award.wins[0].reservation_id)
    return replica, ids


def paid(event_id, reservation_id, cost=80, **fields):
    return event(event_id, "impression", reservation_id=reservation_id, cost_micros=cost, **fields)


async def lapse(ledger, clock) -> None:
    """Nobody beats for so long that every session is over."""
    clock.forward(SILENT)
    await ledger.sweep()


async def sessions(database) -> list[str]:
    async with database.read() as connection:
        query = select(t.ledger_sessions.c.status).order_by(t.ledger_sessions.c.session_id)
        return list((await connection.execute(query)).scalars())


async def leased(database) -> dict[tuple, int]:
    async with database.read() as connection:
        rows = await connection.execute(
            select(t.leases.c.session_id, t.leases.c.brand_id, t.leases.c.day, t.leases.c.leased_micros)
        )
        return {tuple(row[:3]): row[3] for row in rows}


# Beats


async def test_a_lease_is_debited_before_it_is_drawn_on(ledger, clock, database):
    await brand(ledger)
    replica, _ = await winner(ledger, claim(clock, "r"))
    available, lent, *rest = await today(ledger)
    assert (available + lent, rest) == (1000, [0, 0])
    assert lent == replica.leases.left("b") + 100, "drawn, and not recorded yet"
    await replica.beat()
    assert (await today(ledger))[2] == 100
    assert sum(await today(ledger)) == 1000
    assert "reserve" in await journal(database)


async def test_what_is_closed_comes_back(ledger, clock, database):
    await brand(ledger)
    replica, _ = await winner(ledger, claim(clock, "r"))
    await replica.beat(is_last=True)
    assert await today(ledger) == (900, 0, 100, 0)
    assert (await sessions(database), await leased(database)) == (["closed"], {})


async def test_a_lost_replys_grant_comes_back_with_the_next_beat(ledger, clock):
    await brand(ledger)
    replica = Replica(ledger)
    await replica.open()
    replica.leases.want(offer(amount=100))
    lost = replica.leases.beat(replica.now_s)
    await ledger.beat([lost])
    replica.leases.failed(lost)
    assert (await today(ledger))[1] > 0
    assert replica.leases.left("b") == 0
    await replica.beat()
    assert await today(ledger) == (1000, 0, 0, 0)


async def test_a_delayed_beat_changes_nothing(ledger, clock, database):
    await brand(ledger)
    replica, _ = await winner(ledger, claim(clock, "r"))
    replica.leases.want(offer(amount=300))
    delayed = replica.leases.beat(replica.now_s)
    replica.leases.failed(delayed)
    await replica.beat()
    before = await today(ledger), await leased(database), await journal(database)
    (reply,) = await ledger.beat([delayed])
    assert (reply.grants, reply.refused) == ((), {})
    assert (await today(ledger), await leased(database), await journal(database)) == before
    late_and_new = [delayed, replica.leases.beat(replica.now_s)]
    replies = await ledger.beat(late_and_new)
    assert [reply.is_open for reply in replies] == [True, True]
    assert (await today(ledger))[2] == 100


async def test_a_replica_that_claims_too_much_is_sent_away_and_its_block_kept(ledger, clock, database):
    await brand(ledger)
    await winner(ledger, claim(clock, "r"))
    session_id = next(iter(await leased(database)))[0]
    too_much = LeaseLine("b", NOON.date(), holds_micros=10**6)
    (reply,) = await ledger.beat([Beat(session_id, 10**6, lines=(too_much,))])
    assert not reply.is_open
    assert sum((await today(ledger))[:2]) == 1000 and (await today(ledger))[1] > 0
    assert await sessions(database) == ["lapsed"]
    clock.forward(TTL + DRAWING)
    await ledger.sweep()
    assert await today(ledger) == (1000, 0, 0, 0)


async def test_brand_and_portfolio_are_lent_and_taken_back_together(ledger, clock):
    await ledger.administration.put_portfolio("f", PortfolioSettings(daily_budget_micros=700))
    await brand(ledger, "a", portfolio_id="f")
    await brand(ledger, "b", portfolio_id="f")
    replica = Replica(ledger)
    await ask(replica, claim(clock, "1", offer("a"), offer("b"), winners=2))
    lent = sum([(await today(ledger, id_))[1] for id_ in "ab"])
    shown = (await ledger.administration.get_portfolio("f"))["today"]
    assert (shown["leased"], shown["available"]) == (lent, 700 - lent)
    await replica.return_all()
    shown = (await ledger.administration.get_portfolio("f"))["today"]
    assert (shown["leased"], shown["reserved"], shown["available"]) == (0, 200, 500)


async def test_a_lease_ends_at_midnight_and_its_rest_returns_to_its_day(ledger, clock, database):
    clock.now = dt.datetime(2024, 5, 1, 23, 59, 58, tzinfo=dt.UTC)
    await brand(ledger)
    replica, _ = await winner(ledger, claim(clock, "r"))
    clock.forward(2 * SECOND)
    assert replica.leases.refusal(offer(), replica.now_s) == NO_LEASE
    award = await ask(replica, claim(clock, "s"))
    assert decode(award.wins[0].reservation_id).day == dt.date(2024, 5, 2)
    await replica.return_all()
    async with database.read() as connection:
        columns = (t.budget_days.c.available_micros, t.budget_days.c.leased_micros, t.budget_days.c.reserved_micros)
        rows = (await connection.execute(select(t.budget_days.c.day, *columns))).all()
    assert {row[0].day: tuple(row[1:]) for row in rows} == {1: (900, 0, 100), 2: (900, 0, 100)}


async def test_a_new_day_known_to_the_ledger_only_mends_after_a_lost_answer(ledger, clock, database):
    """Midnight has passed, the replica's terms are of yesterday, and the answer that lent of today is lost."""
    clock.now = dt.datetime(2024, 5, 1, 23, 59, 59, tzinfo=dt.UTC)
    await brand(ledger)
    replica = Replica(ledger)
    await replica.open()
    clock.forward(SECOND)
    replica.leases.want(offer())
    lost = replica.leases.beat(replica.now_s)
    await ledger.beat([lost])
    replica.leases.failed(lost)
    replica.leases.want(offer())
    await replica.beat()
    left = replica.leases.left("b")
    assert left >= 100
    assert (await today(ledger))[1] == left
    replica.draw(claim(clock, "r"))
    await replica.beat()
    assert (await today(ledger))[2] == 100, "there was money behind it"


# Pause, cut, top-up


@pytest.mark.parametrize(("change", "excess"), [({"active": False}, 0), ({"budget": 50}, 50), ({"budget": 0}, 100)])
async def test_a_pause_or_a_cut_takes_the_leases_back(ledger, clock, change, excess):
    await brand(ledger)
    replica, _ = await winner(ledger, claim(clock, "r"))
    shown = (await brand(ledger, **change))["today"]
    budget = change.get("budget", 1000)
    assert shown["excess"] == max(0, shown["leased"] - budget), "until the replica has heard of it"
    await replica.beat()
    assert replica.leases.left("b") == 0
    await replica.beat()
    shown = (await ledger.administration.get_brand("b"))["today"]
    assert (shown["leased"], shown["reserved"], shown["excess"]) == (0, 100, excess)
    assert shown["available"] == max(0, budget - 100)


async def test_after_a_top_up_replica_and_ledger_agree_on_what_is_lent(ledger, clock):
    await brand(ledger)
    replica, _ = await winner(ledger, claim(clock, "r"))
    await brand(ledger, budget=2000)
    replica.leases.want(offer(amount=600))
    await replica.beat()  # brings the news, and a grant with it
    assert replica.leases.left("b") >= 600
    await replica.beat()
    assert await today(ledger) == (1900 - replica.leases.left("b"), replica.leases.left("b"), 100, 0)


async def test_a_portfolios_cut_takes_its_members_leases_back(ledger, clock):
    await ledger.administration.put_portfolio("f", PortfolioSettings(daily_budget_micros=500))
    await brand(ledger, portfolio_id="f")
    replica, _ = await winner(ledger, claim(clock, "r"))
    await ledger.administration.put_portfolio("f", PortfolioSettings(daily_budget_micros=150))
    await replica.beat()
    await replica.beat()
    shown = (await ledger.administration.get_portfolio("f"))["today"]
    assert (shown["leased"], shown["reserved"], shown["available"], shown["excess"]) == (0, 100, 50, 0)


async def test_what_others_need_is_asked_back(ledger, clock):
    await brand(ledger, budget=1000)
    rich, poor = Replica(ledger), Replica(ledger)
    await ask(rich, claim(clock, "1", offer(amount=30)))
    await poor.open()
    clock.forward(2 * SECOND)
    assert not (await ask(poor, claim(clock, "2", offer(amount=900)))).wins
    await rich.beat()  # hears of it
    await rich.beat()  # returns it
    clock.forward(SECOND)
    assert (await ask(poor, claim(clock, "3", offer(amount=900)))).wins


# A replica dies


async def test_a_dead_replicas_block_waits_until_its_wins_have_expired(ledger, clock, database):
    await brand(ledger)
    await winner(ledger, claim(clock, "r"))
    before = await today(ledger)
    clock.forward(SILENT - SECOND)
    await ledger.sweep()
    assert await sessions(database) == ["open"]
    clock.forward(SECOND)
    await ledger.sweep()
    assert await sessions(database) == ["lapsed"]
    assert await today(ledger) == before
    clock.forward(TTL + DRAWING - SECOND)
    await ledger.sweep()
    assert await today(ledger) == before
    clock.forward(SECOND)
    await ledger.sweep()
    assert await today(ledger) == (1000, 0, 0, 0)
    assert await sessions(database) == ["closed"]


async def test_a_block_that_conversions_were_drawn_on_waits_as_long_as_they_live(ledger, clock, database):
    await brand(ledger)
    await brand(ledger, "c")
    replica = Replica(ledger)
    assert (await ask(replica, claim(clock, "r", offer(model="cpa")))).wins
    assert (await ask(replica, claim(clock, "s", offer("c")))).wins
    await lapse(ledger, clock)
    clock.forward(TTL + DRAWING)
    await ledger.sweep()
    assert [key[1] for key in await leased(database)] == ["b"]
    clock.forward(LASTING - TTL - SECOND)
    await ledger.sweep()
    assert [key[1] for key in await leased(database)] == ["b"]
    clock.forward(SECOND)
    await ledger.sweep()
    assert await leased(database) == {}


@pytest.mark.parametrize("is_dead", [True, False])
async def test_an_event_finds_the_money_of_an_unrecorded_win(ledger, clock, database, is_dead):
    await brand(ledger)
    replica, (id_,) = await winner(ledger, claim(clock, "r"))
    _, lent, *_ = await today(ledger)
    if is_dead:
        await lapse(ledger, clock)
    first = event("k", "click", reservation_id=id_)
    assert statuses(await ledger.record([first])) == ["accepted"]
    assert (await today(ledger))[1:] == (lent - 100, 100, 0), "a click alone ends no cpm hold"
    assert statuses(await ledger.record([paid("i", id_), paid("j", id_, 5)])) == ["accepted", "accepted"]
    assert (await today(ledger))[1:] == (lent - 100, 0, 85)
    assert "late_settle" not in await journal(database)
    if not is_dead:  # now its replica tells of it
        await replica.beat()
        assert (await today(ledger))[2:] == (0, 85)
        assert replica.leases.is_open
        async with database.read() as connection:
            query = select(t.reservations.c.sub, t.reservations.c.request_id, t.reservations.c.status)
            assert (await connection.execute(query)).all() == [("sub", "r", "settled")]


async def test_two_events_of_one_batch_adopt_a_win_once(ledger, clock):
    await brand(ledger)
    _, (id_,) = await winner(ledger, claim(clock, "r"))
    _, lent, *_ = await today(ledger)
    await ledger.record([paid("1", id_, 10), paid("2", id_, 20), paid("1", id_, 10)])
    assert (await today(ledger))[1:] == (lent - 100, 0, 30)


async def test_nobody_can_make_up_a_hold(ledger, clock, database):
    await brand(ledger)
    await brand(ledger, "c")
    _, (id_,) = await winner(ledger, claim(clock, "r"))
    drawn = decode(id_)
    before = await today(ledger)
    forged = [
        encode(drawn, "b", "p", b"guessed"),
        encode(drawn._replace(session_id=drawn.session_id + 1), "b", "p", b""),
        encode(drawn._replace(session_id=2**63 - 1, amount_micros=2**53), "b", "p", b""),
        encode(drawn._replace(session_id=2**64 - 1), "b", "p", b""),  # more than a database can be asked for
        id_[:20] + ("A" if id_[20] != "A" else "B") + id_[21:],
        id_.swapcase(),
        "_" * len(id_),
        "never-made",
    ]
    events = [paid(str(n), one, 1) for n, one in enumerate(forged)]
    events += [paid("c", id_, 1, brand_id="c"), replace(paid("q", id_, 1), partner_id="q")]
    assert set(statuses(await ledger.record(events))) == {"accepted"}, "a cost is a cost"
    _, lent, reserved, settled = await today(ledger)
    assert (lent, reserved, settled) == (before[1], 0, len(forged) + 1)
    assert set(await journal(database)) == {"late_settle"}
    async with database.read() as connection:
        assert (await connection.execute(select(t.reservations.c.reservation_id))).all() == []


async def test_the_wins_of_a_silent_replica_are_recorded_during_quarantine(ledger, clock, database):
    await brand(ledger)
    replica, _ = await winner(ledger, claim(clock, "r"), claim(clock, "s"))
    await lapse(ledger, clock)
    assert replica.leases.refusal(offer(), replica.now_s) == NO_LEASE
    reply = await replica.beat()
    assert not reply.is_open
    assert (await today(ledger))[2] == 200
    await replica.beat()  # the lapsed session's last one: nothing more is drawn, the rest may go back
    assert await today(ledger) == (800, 0, 200, 0)
    assert (await ask(replica, claim(clock, "t"))).wins
    assert await sessions(database) == ["closed", "open"]


async def test_what_is_recorded_after_the_quarantine_has_no_money(ledger, clock, database):
    await brand(ledger)
    replica, (id_,) = await winner(ledger, claim(clock, "r"))
    await lapse(ledger, clock)
    clock.forward(TTL + DRAWING)
    await ledger.sweep()
    await replica.beat()
    assert await today(ledger) == (1000, 0, 0, 0)
    await ledger.record([paid("i", id_)])
    assert await today(ledger) == (920, 0, 0, 80)
    assert await journal(database) == ["late_settle"]


# The ledger restarts


async def test_a_restart_of_the_ledger_lapses_nobody(ledger, clock, database):
    await brand(ledger)
    replica, _ = await winner(ledger, claim(clock, "r"))
    clock.forward(5 * SILENT)  # the ledger was away
    again = await Ledger.open(database, clock=clock)
    await again.sweep()
    assert await sessions(database) == ["open"]
    replica.ledger = again
    await replica.beat()
    assert await today(again) == (*(await today(again))[:2], 100, 0)
    assert replica.leases.refusal(offer(), replica.now_s) is None
    clock.forward(SILENT)
    await again.sweep()
    assert await sessions(database) == ["lapsed"], "but from now on the time counts"


async def test_a_replica_of_another_database_begins_anew(ledger, clock):
    await brand(ledger)
    (reply,) = await ledger.beat([Beat(12345, 3)])
    assert (reply.is_open, reply.secret) == (False, b"")


# The last cents


@pytest.mark.parametrize("holds", [1000])
async def test_eight_replicas_spend_a_budget_to_its_last_hold(ledger, clock, holds):
    """Of N × the dearest hold at least 99.5 % is spent, and never more than all of it."""
    dearest, rng = 1000, random.Random(7)
    await brand(ledger, budget=holds * dearest)
    replicas = [Replica(ledger) for _ in range(8)]
    numbers, spent, quiet = itertools.count(), 0, 0
    for replica in replicas:
        await replica.open()
    while quiet < 12:
        before = spent
        for replica in replicas:
            for _ in range(12):
                one = claim(clock, f"r{next(numbers)}", offer(amount=rng.randint(1, dearest)))
                award = replica.draw(one)
                spent += sum(win.reserved_micros for win in award.wins)
                if award.refused.get("bid-b") == NO_LEASE:
                    replica.leases.want(one.offers[0])
        await asyncio.gather(*(replica.beat() for replica in replicas))
        clock.forward(dt.timedelta(seconds=0.5))
        quiet = quiet + 1 if spent == before else 0
        assert spent <= holds * dearest
    await asyncio.gather(*(replica.beat(is_last=True) for replica in replicas))
    available, lent, reserved, _ = await today(ledger)
    assert (lent, reserved) == (0, spent)
    assert spent >= 0.995 * holds * dearest, f"{available} µ were left"


async def test_idle_money_of_a_member_is_asked_back_from_the_replica_that_needs_it(ledger, clock):
    """One replica, one portfolio: what it holds of one brand is what another lacks."""
    await ledger.administration.put_portfolio("f", PortfolioSettings(daily_budget_micros=1000))
    await brand(ledger, "a", portfolio_id="f")
    await brand(ledger, "b", portfolio_id="f")
    replica = Replica(ledger)
    await ask(replica, claim(clock, "1", offer("a", amount=10)))
    clock.forward(2 * SECOND)
    for number in range(25):  # seconds: less than the minute after which idle leases go back by themselves
        await ask(replica, claim(clock, f"b{number}", offer("b", amount=100)))
        await replica.beat()
        clock.forward(SECOND)
    shown = (await ledger.administration.get_portfolio("f"))["today"]
    assert shown["reserved"] == 910


async def test_the_end_of_all_replicas_returns_what_they_hold(ledger, clock, database):
    """Once each was heard after nothing was drawn any more: its wins are recorded."""
    await brand(ledger)
    await brand(ledger, "c")
    replicas = [Replica(ledger), Replica(ledger)]
    for replica, name in zip(replicas, "bc", strict=True):
        assert (await ask(replica, claim(clock, name, offer(name)))).wins
    since = clock.now
    assert await ledger.end_sessions(since) == 2, "their last wins may still be on their way"
    clock.forward(SECOND)
    await replicas[0].beat()
    assert await ledger.end_sessions(since) == 1
    assert await today(ledger) == (900, 0, 100, 0)
    await replicas[1].beat()
    assert await ledger.end_sessions(since) == 0
    assert await today(ledger, "c") == (900, 0, 100, 0)
    assert await leased(database) == {}
    await replicas[0].beat()
    assert replicas[0].leases.refusal(offer(), replicas[0].now_s) == NO_LEASE
