"""The API over two ledgers that share the portfolios: callers do not notice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ledger.domain.sharding import shard_of
from tests.contract.http import World, bid, event, request, served
from tests.servers.snapshots import Snapshots

NAMES = [f"brand-{number}" for number in range(8)]


@pytest.fixture
async def api(database_url: str, redis_url: str, tmp_path: Path, snapshots: Snapshots) -> AsyncIterator[World]:
    async with served(database_url, redis_url, tmp_path, snapshots, PACELINE_LEDGER_SHARDS="2") as found:
        yield found


def a_brand_of(shard: int) -> str:
    return next(name for name in NAMES if shard_of(None, name, 2) == shard)


async def test_one_request_wins_from_both(api: World) -> None:
    one, two = a_brand_of(0), a_brand_of(1)
    for brand_id in (one, two):
        await api.brand(brand_id, target_roas=0.0001, daily_budget_micros=1_000_000)
    admin = api.client()
    bids = [bid("b-1", one), bid("b-2", two)]
    answer = await admin.post("/api/score", request("both", *bids, winners=2))
    assert answer.status_code == 200, answer.text
    ranked = {item["brand_id"]: item for item in answer.json()["ranked"]}
    assert {item["status"] for item in ranked.values()} == {"won"}
    for brand_id in (one, two):
        today = (await admin.get(f"/api/brands/{brand_id}")).json()["today"]
        assert today["reserved"] == ranked[brand_id]["reserved_micros"]
    paid = [
        event(brand_id, brand_id=brand_id, cost_micros=1, reservation_id=ranked[brand_id]["reservation_id"])
        for brand_id in (two, one)
    ]
    reported = (await admin.post("/api/performance", {"events": [*paid, event("x", brand_id="nobody"), *paid]})).json()
    assert [item["status"] for item in reported["items"]] == [
        "accepted", "accepted", "rejected", "duplicate", "duplicate",
    ]  # fmt: skip
    assert [item["event_id"] for item in reported["items"]] == [two, one, "x", two, one]
    for brand_id in (one, two):
        today = (await admin.get(f"/api/brands/{brand_id}")).json()["today"]
        assert (today["reserved"], today["settled"]) == (0, 1)


async def test_brands_of_both_are_listed_in_pages(api: World) -> None:
    for brand_id in NAMES:
        await api.brand(brand_id)
    admin = api.client()
    listed: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await admin.get("/api/brands", limit=3, **cursor)).json()
        listed += [brand["brand_id"] for brand in page["brands"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert listed == sorted(listed)
    assert set(NAMES) <= set(listed) and len(listed) == len(set(listed))


async def test_members_follow_their_portfolio(api: World) -> None:
    admin = api.client()
    for portfolio_id in ("group-a", "group-b", "group-c"):
        answer = await admin.put(f"/api/portfolios/{portfolio_id}", {"daily_budget_micros": 1_000_000})
        assert answer.status_code == 200, answer.text
        for brand_id in NAMES[:3]:
            await api.brand(f"{portfolio_id}-{brand_id}", portfolio_id=portfolio_id, target_roas=0.0001)
        bids = [bid(name, f"{portfolio_id}-{name}") for name in NAMES[:3]]
        ranked = (await admin.post("/api/score", request(portfolio_id, *bids, winners=3))).json()["ranked"]
        assert {item["status"] for item in ranked} == {"won"}
        shown = (await admin.get(f"/api/portfolios/{portfolio_id}")).json()
        assert shown["today"]["reserved"] == sum(item["reserved_micros"] for item in ranked)
        assert len(shown["brand_ids"]) == 3


async def test_every_shard_says_its_epoch_and_every_brand_is_measured(api: World) -> None:
    for brand_id in NAMES:
        await api.brand(brand_id)
    text = ""
    async with asyncio.timeout(30):
        while not all(f'brand_lambda{{brand_id="{name}"}}' in text for name in NAMES):
            await asyncio.sleep(0.2)
            text = (await api.client().get("/metrics")).text
    assert 'ledger_epoch{shard="0"} 1.0' in text
    assert 'ledger_epoch{shard="1"} 1.0' in text
