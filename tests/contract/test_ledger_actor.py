"""The actor without Ray: what it promises while its database is away, and afterwards."""

import asyncio

import pytest
from sqlalchemy import text

from db.brands import BrandSettings
from db.session import Database
from db.settings import DatabaseSettings
from ledger.client.ledger_client import LedgerClient
from ledger.client.shard_client import ShardClient
from ledger.domain.errors import LedgerUnavailable
from ledger.domain.messages import Award, Beat, Claim, LeaseLine
from ledger.domain.settings import LedgerSettings, RoasSettings
from ledger.runtime.actor import LedgerActor
from ledger.runtime.beat_format import pack_beat
from tests.contract.http import Local
from tests.contract.ledgers import event, offer

SETTINGS = LedgerSettings(reservation_ttl_s=1.0, beat_s=0.02, sweep_s=0.02, refresh_s=0.02)


@pytest.fixture
async def actor(database_url):
    actor = LedgerActor(DatabaseSettings(url=database_url), None, SETTINGS, RoasSettings())
    await actor.start()
    yield actor
    await actor.close()


def claim(request_id: str) -> Claim:
    return Claim("sub", request_id, "body", 1, (offer(),), within_s=5.0)


async def available(actor):
    return (await actor.get_brand("b"))["today"]["available"]


@pytest.fixture
async def client(actor):
    """A replica of it."""
    client = LedgerClient([ShardClient(lambda: Local(actor), SETTINGS)])
    beating = asyncio.create_task(client.keep_beating())
    yield client
    await client.close()
    beating.cancel()


async def wins(client, request_id) -> Award:
    """Sooner or later: the ledger may be away still."""
    for _ in range(1500):
        award: Award = await client.reserve(claim(request_id))
        if award.wins:
            return award
        await asyncio.sleep(0.02)
    pytest.fail("nothing is won")


@pytest.mark.parametrize(
    "table", ["ledger_epochs", "ledger_sessions", "leases", "reservations", "brands", "budget_days", "events"]
)
async def test_whatever_is_missing_callers_hear_one_error_and_the_ledger_goes_on(actor, client, database_url, table):
    await actor.put_brand("b", BrandSettings(daily_budget_micros=1000))
    await client.beat_within(30.0)
    await wins(client, "1")
    opened = await actor.beat(pack_beat(Beat(None, 1)))
    line = LeaseLine("b", opened.now.date(), holds_micros=0)
    database = Database(DatabaseSettings(url=database_url))

    async def rename(before, after):
        async with database.write() as connection:
            await connection.execute(text(f"ALTER TABLE {before} RENAME TO {after}"))

    await rename(table, "elsewhere")
    try:
        calls = [
            actor.beat(pack_beat(Beat(opened.session_id, 2, lines=(line,)))),
            actor.beat(pack_beat(Beat(None, 1))),
            actor.release(["x"]),
            actor.record([event("e", "impression")]),
            actor.put_brand("b", BrandSettings()),
            actor.get_brand("b"),
            actor.list_brands(),
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        assert errors and all(isinstance(error, LedgerUnavailable) for error in errors), answers
        await asyncio.sleep(0.1)  # the loops have their turns too
    finally:
        await rename("elsewhere", table)
        await database.close()
    await actor.put_brand("b", BrandSettings(daily_budget_micros=1000))
    await wins(client, "3")
    await client.close()
    for _ in range(400):  # the sweep is alive: all holds end
        if await available(actor) == 1000:
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("the holds have not ended")


async def test_all_replicas_tell_and_hear_when_one_of_them_asks(actor):
    """Without it a second would pass: these do not beat by themselves."""
    settings = SETTINGS.model_copy(update={"beat_s": 3600.0})
    one, other = (LedgerClient([ShardClient(lambda: Local(actor), settings)]) for _ in range(2))
    loops = [asyncio.create_task(client.keep_beating()) for client in (one, other)]
    for client in (one, other):
        await client.beat_within(30.0)
    await one.put_brand(30.0, "b", BrandSettings(daily_budget_micros=1000))
    await one.summon_within(30.0)
    assert "b" in other.terms.brands
    (win,) = (await wins(other, "r-1")).wins
    await one.summon_within(30.0)
    assert (await actor.get_brand("b"))["today"]["reserved"] == win.reserved_micros > 0
    for client, loop in zip((one, other), loops, strict=True):
        await client.close()
        loop.cancel()
