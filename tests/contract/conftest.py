"""A database whose money adds up when the test ends, and a ledger on it."""

import datetime as dt
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from db.session import Database
from db.settings import DatabaseSettings
from ledger.audit import audit
from ledger.service.ledger import Ledger
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
