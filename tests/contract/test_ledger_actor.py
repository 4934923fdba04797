"""The actor without Ray: what it promises while its database is away, and afterwards."""

import asyncio
import dataclasses

import pytest
from sqlalchemy import text

from db import Database, DatabaseSettings
from db.brands import BrandSettings
from ledger import Claim, LedgerActor, LedgerSettings, LedgerUnavailable, RoasSettings
from tests.contract.test_ledger import event, offer

SETTINGS = LedgerSettings(reservation_ttl_s=1.0, sweep_s=0.02, refresh_s=0.02)


@pytest.fixture
async def actor(database_url):
    actor = LedgerActor(DatabaseSettings(url=database_url), None, SETTINGS, RoasSettings())
    await actor.start()
    yield actor
    await actor.close()


def claim(request_id: str) -> Claim:
    return Claim("sub", request_id, "body", 1, (offer(),), within_s=30.0)


async def available(actor):
    return (await actor.get_brand("b"))["today"]["available"]


@pytest.mark.parametrize("table", ["ledger_epochs", "reservations", "brands", "budget_days", "events"])
async def test_whatever_is_missing_callers_hear_one_error_and_the_ledger_goes_on(actor, database_url, table):
    await actor.put_brand("b", BrandSettings(daily_budget_micros=1000))
    (award,) = await actor.reserve([claim("1")])
    assert award.wins
    database = Database(DatabaseSettings(url=database_url))

    async def rename(before, after):
        async with database.write() as connection:
            await connection.execute(text(f"ALTER TABLE {before} RENAME TO {after}"))

    await rename(table, "elsewhere")
    try:
        calls = [
            actor.reserve([claim("2")]),
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
    (award,) = await actor.reserve([claim("3")])
    assert award.wins
    for _ in range(400):  # the sweep is alive: all holds end
        if await available(actor) == 1000:
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("the holds have not ended")


async def test_a_claim_is_timed_from_its_arrival(actor):
    await actor.put_brand("b", BrandSettings(daily_budget_micros=1000))
    awards = await actor.reserve([dataclasses.replace(claim("1"), within_s=0.0), claim("2")])
    assert [len(award.wins) for award in awards] == [0, 1]
