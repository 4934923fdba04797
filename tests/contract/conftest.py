"""A database whose money adds up when the test ends, and a ledger on it."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from db.session import Database
from db.settings import DatabaseSettings
from ledger.audit import audit
from ledger.service.ledger import Ledger
from tests.contract.ledgers import Clock


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
