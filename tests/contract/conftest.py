"""A database whose money adds up when the test ends, a ledger on it, and the API over both."""

import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from db.session import Database
from db.settings import DatabaseSettings
from ledger.invariants import audit
from ledger.service.ledger import Ledger
from tests.contract.http import World, served
from tests.contract.ledgers import Clock
from tests.servers.snapshots import Snapshots
from training.etl.importer import import_frame
from training.etl.simulated_market import performance

LAST = dt.date(2020, 11, 21)
"""The newest day of `history`."""


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(DatabaseSettings(url=database_url))
    yield database
    # Whatever a test did, every invariant holds afterwards.
    problems = await audit(database)
    await database.close()
    assert problems == []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def ledger(database: Database, clock: Clock) -> Ledger:
    return await Ledger.open(database, clock=clock)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    redis = Redis.from_url(redis_url)
    yield redis
    await redis.aclose()


@pytest.fixture
async def history(database: Database, snapshots: Snapshots) -> None:
    """Ten days of a simulated market in the test's `database`."""
    url = database.engine.url
    if not snapshots.recall("history", url):
        await import_frame(database, performance(LAST, days=10), "simulated", simulated=True, say=lambda _: None)
        snapshots.remember("history", url)


@pytest.fixture
async def api(database_url: str, redis_url: str, tmp_path: Path, snapshots: Snapshots) -> AsyncIterator[World]:
    async with served(database_url, redis_url, tmp_path, snapshots) as found:
        yield found


@pytest.fixture
async def on_sqlite(sqlite_url: str, redis_url: str, tmp_path: Path, snapshots: Snapshots) -> AsyncIterator[World]:
    async with served(sqlite_url, redis_url, tmp_path, snapshots) as found:
        yield found
