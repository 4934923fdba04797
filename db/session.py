"""Connections: a reader may only read, a writer holds the write lock from its first statement."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import event, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from db.settings import DatabaseSettings

T = TypeVar("T")
RETRIED_MYSQL_ERRORS = (1205, 1213)
"""Lock wait timeout, deadlock: the server rolled back, the whole transaction may be tried again."""


class Database:
    """One engine. `read()` and `write()` give SQLAlchemy Core connections inside a transaction."""

    def __init__(self, settings: DatabaseSettings) -> None:
        if settings.url is None:
            raise ValueError("no database URL")
        url = make_url(settings.url)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.engine: AsyncEngine = create_async_engine(
                url, pool_size=settings.pool_size, connect_args={"timeout": settings.busy_timeout_s}
            )
            event.listen(self.engine.sync_engine, "connect", _prepare_sqlite)
        else:
            query = dict(url.query)
            query.setdefault("charset", "utf8mb4")
            self.engine = create_async_engine(
                url.set(query=query),
                pool_size=settings.pool_size,
                pool_recycle=settings.pool_recycle_s,
                pool_pre_ping=True,
                isolation_level="READ COMMITTED",
                connect_args={"init_command": "SET time_zone='+00:00'"},
            )

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A consistent look; whatever it might write is rolled back."""
        async with self.engine.connect() as connection:
            if self.is_sqlite:
                await connection.exec_driver_sql("BEGIN")
            try:
                yield connection
            finally:
                await connection.rollback()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Commits at the end of the block, rolls back on any error."""
        async with self.engine.connect() as connection:
            if self.is_sqlite:
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
                await connection.commit()
            except BaseException:
                await connection.rollback()
                raise

    async def transact(self, work: Callable[[AsyncConnection], Awaitable[T]], tries: int = 5) -> T:
        """Run `work` in a write transaction, again from its start after a deadlock or a lock time-out."""
        for attempt in range(tries):
            try:
                async with self.write() as connection:
                    return await work(connection)
            except OperationalError as error:
                if attempt == tries - 1 or not _may_retry(error):
                    raise
                await asyncio.sleep(0.01 * 2**attempt * (1 + random.random()))
        raise AssertionError("unreachable")

    async def ping(self) -> None:
        async with self.read() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        await self.engine.dispose()


def _may_retry(error: DBAPIError) -> bool:
    cause = error.orig
    code = cause.args[0] if cause is not None and cause.args else None
    return code in RETRIED_MYSQL_ERRORS or (isinstance(code, str) and "database is locked" in code)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # Transactions are begun by hand above: the driver's own BEGIN is deferred, and a deferred writer
    # that has read before may find the database changed under it.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA cache_size=-16000")
    cursor.close()


def sqlite_version() -> str:
    return sqlite3.sqlite_version
