"""What brands make of their pending conversions is learned from what they decided."""

import datetime as dt

import pytest
from sqlalchemy import insert

from db.session import Database
from db.tables import events
from training.columns import EVERYBODY
from training.etl.approvals import pending_shares

AT = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)


def decided(brand_id: str, status: str, number: int) -> list[dict[str, object]]:
    zero = dict.fromkeys(("impressions", "clicks", "conversions"), 0)
    fixed = {"content_hash": "0" * 64, "type": "conversion_update", "occurred_at": AT, "received_at": AT}
    return [
        {**zero, **fixed, "brand_id": brand_id, "partner_id": "p", "event_id": f"{status}-{n}", "day": AT.date()}
        | {"status": status, "conversion_id": f"{status}-{n}"}
        for n in range(number)
    ]


async def test_before_anybody_has_decided_the_setting_is_believed(database: Database) -> None:
    assert await pending_shares(database, 0.7) == {EVERYBODY: pytest.approx(0.7)}


async def test_a_strict_brand_is_told_from_an_easy_one(database: Database) -> None:
    rows = [*decided("strict", "approved", 20), *decided("strict", "rejected", 180), *decided("easy", "approved", 200)]
    waiting = decided("easy", "pending", 500)
    async with database.write() as connection:
        await connection.execute(insert(events), [*rows, *waiting])
    found = await pending_shares(database, 0.8)
    assert 0.1 <= found["strict"] < 0.2 and found["easy"] > 0.9
    assert found["strict"] < found[EVERYBODY] < found["easy"]
