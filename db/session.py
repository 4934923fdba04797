"""Connections: read transactions never write, write transactions hold the write lock from their first statement."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from db.settings import DatabaseSettings

T = TypeVar("T")
CONNECT_S = 5
RETRIED_MYSQL_ERRORS = (1205, 1213)
"""Lock wait timeout and deadlock: the server rolled back, and the whole transaction can be tried again."""


class Database:
    """One engine. `read()` and `write()` give SQLAlchemy Core connections inside a transaction."""

    def __init__(self, settings: DatabaseSettings) -> None:
        if settings.url is None:
            raise ValueError("the settings have no database URL; use `DatabaseSettings.at` or PACELINE_DATABASE_URL")
        url = make_url(settings.url)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.engine: AsyncEngine = create_async_engine(
                url, pool_size=settings.pool_size, connect_args={"timeout": settings.busy_timeout_s}
            )
            event.listen(self.engine.sync_engine, "connect", _prepare_sqlite)
            self._plain = create_engine(
                url.set(drivername="sqlite"),
                pool_size=settings.pool_size,
                connect_args={"timeout": settings.busy_timeout_s},
            )
            event.listen(self._plain, "connect", _prepare_sqlite)
        else:
            query = dict(url.query)
            query.setdefault("charset", "utf8mb4")
            self.engine = create_async_engine(
                url.set(query=query),
                pool_size=settings.pool_size,
                pool_recycle=settings.pool_recycle_s,
                pool_pre_ping=True,
                isolation_level="READ COMMITTED",
                connect_args={"init_command": "SET time_zone='+00:00'", "connect_timeout": CONNECT_S},
            )
        # SQLite always answers, or says that it is locked; a server behind a broken network may stay silent.
        self._timeout_s = None if self.is_sqlite else settings.timeout_s

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A read transaction, rolled back at its end. SQLite shows one moment; MySQL each statement's own.

        Raises:
            TimeoutError: on MySQL the block took longer than `timeout_s`.
        """
        async with asyncio.timeout(self._timeout_s), self.engine.connect() as connection:
            if self.is_sqlite:
                await connection.exec_driver_sql("BEGIN")
            try:
                yield connection
            finally:
                await connection.rollback()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A write transaction: commits at the end of the block, rolls back on any error.

        Raises:
            TimeoutError: on MySQL the block took longer than `timeout_s`; whether it has committed is not known.
        """
        async with asyncio.timeout(self._timeout_s), self.engine.connect() as connection:
            if self.is_sqlite:
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
                await connection.commit()
            except BaseException:
                await connection.rollback()
                raise

    async def transact(self, work: Callable[[AsyncConnection], Awaitable[T]], tries: int = 5) -> T:
        """Run `work` in a write transaction; after a deadlock or a lock timeout again from its start."""
        for attempt in range(tries):
            try:
                async with self.write() as connection:
                    return await work(connection)
            except OperationalError as error:
                if attempt == tries - 1 or not _may_retry(error):
                    raise
                await asyncio.sleep(0.01 * 2**attempt * (1 + random.random()))
        raise AssertionError("unreachable")

    async def run_read(self, work: Callable[[Connection], T]) -> T:
        """Run `work`, a plain function, in a read transaction.

        On SQLite all of it runs in one thread call; `read()` takes four for each statement, 0.1 ms each.
        """
        if self.is_sqlite:
            return await _in_thread(self._plainly, work, "BEGIN")
        async with self.read() as connection:
            return await connection.run_sync(work)

    async def run_snapshot(self, work: Callable[[Connection], T], timeout_s: float) -> T:
        """Run `work` in a read transaction in which all statements see the same moment, on MySQL, too.

        Raises:
            TimeoutError: MySQL took longer than `timeout_s` for all of it.
        """
        if self.is_sqlite:
            return await _in_thread(self._plainly, work, "BEGIN")
        async with asyncio.timeout(timeout_s), self.engine.connect() as opened:
            connection = await opened.execution_options(isolation_level="REPEATABLE READ")
            try:
                return await connection.run_sync(work)
            finally:
                await connection.rollback()

    async def run_write(self, work: Callable[[Connection], T], tries: int = 5) -> T:
        """`run_read` in a write transaction; after a deadlock or a lock timeout `work` runs again from its start."""
        if self.is_sqlite:
            return await _in_thread(self._plainly, work, "BEGIN IMMEDIATE")
        return await self.transact(lambda connection: connection.run_sync(work), tries)

    def _plainly(self, work: Callable[[Connection], T], begin: str) -> T:
        with self._plain.connect() as connection:
            connection.exec_driver_sql(begin)
            answer = work(connection)
            if begin != "BEGIN":
                connection.commit()
            return answer

    async def close(self) -> None:
        await self.engine.dispose()
        if self.is_sqlite:
            self._plain.dispose()


async def _in_thread(do: Callable[..., T], *args: Any) -> T:
    """Run a function in a thread. A thread cannot be cancelled, so a cancellation takes effect when it is done."""
    running = asyncio.ensure_future(asyncio.to_thread(do, *args))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _may_retry(error: DBAPIError) -> bool:
    cause = error.orig
    code = cause.args[0] if cause is not None and cause.args else None
    return code in RETRIED_MYSQL_ERRORS or (isinstance(code, str) and "database is locked" in code)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # BEGIN is sent by the code above, because the driver's own BEGIN is deferred: a transaction that reads first and
    # then writes would fail if another one has written in between.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA cache_size=-16000")
    cursor.close()
