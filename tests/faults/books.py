"""The databases of simulated histories, with a fault at any commit.

`SqliteBooks` runs a transaction where it is called: no thread, no event loop, no file. `MysqlBooks` is the real thing.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine, make_url
from sqlalchemy.pool import StaticPool

from db.session import Database
from db.settings import DatabaseSettings

T = TypeVar("T")
DIES_BEFORE, DIES_AFTER = "it dies before the commit", "it dies after the commit"
AWAY_BEFORE, AWAY_AFTER = "the database is gone before the commit", "the answer to the commit is lost"
TWICE = "a deadlock: it runs once more"
FAULTS = (DIES_BEFORE, DIES_AFTER, AWAY_BEFORE, AWAY_AFTER, TWICE)


class Died(Exception):
    """The ledger's process ended here; nobody hears an answer."""


class Books:
    """What a history needs of a database."""

    connection: Connection
    """The oracle's own."""
    database: Any
    """The ledgers'."""

    def __init__(self) -> None:
        self.fault: Callable[[], str | None] = lambda: None
        """Asked once for each write transaction."""

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        raise NotImplementedError

    def _raise(self, fault: str | None, when: tuple[str, str]) -> None:
        died, away = when
        if fault == died:
            raise Died(fault)
        if fault == away:
            raise OSError(fault)


class SqliteBooks(Books):
    """Empty and migrated whenever `restart` is called. It is its ledgers' `Database` too."""

    is_sqlite = True

    def __init__(self) -> None:
        super().__init__()
        self._raw = sqlite3.connect(":memory:", isolation_level=None)
        engine = create_engine("sqlite://", creator=lambda: self._raw, poolclass=StaticPool)
        self.connection = engine.connect()
        self.database = self

    def restart(self) -> None:
        self.connection.rollback()
        _template().backup(self._raw)
        self._raw.execute("PRAGMA foreign_keys=ON")

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """A coroutine that never has to wait."""
        try:
            work.send(None)
        except StopIteration as end:
            answer: T = end.value
            return answer
        work.close()
        raise AssertionError("it waited for something")

    @property
    def changes(self) -> int:
        """Rows that were ever changed."""
        return self._raw.total_changes

    async def run_read(self, work: Callable[[Connection], T]) -> T:
        return work(self.connection)

    async def run_write(self, work: Callable[[Connection], T], tries: int = 5) -> T:
        fault = self.fault()
        self.connection.rollback()
        self.connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            answer = work(self.connection)
            if fault == TWICE:
                self.connection.rollback()
                self.connection.exec_driver_sql("BEGIN IMMEDIATE")
                answer = work(self.connection)
            self._raise(fault, (DIES_BEFORE, AWAY_BEFORE))
        except BaseException:
            self.connection.rollback()
            raise
        self.connection.commit()
        self._raise(fault, (DIES_AFTER, AWAY_AFTER))
        return answer


class MysqlBooks(Books):
    """A real `Database`, empty and migrated, on an event loop of its own."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.database = _Faulty(DatabaseSettings(url=url), self)
        self._runner = asyncio.Runner()
        plain = make_url(url).set(drivername="mysql+pymysql")
        self._engine = create_engine(plain, isolation_level="AUTOCOMMIT")
        self.connection = self._engine.connect()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def close(self) -> None:
        self.connection.close()
        self._engine.dispose()
        self._runner.run(self.database.close())
        self._runner.close()


class _Faulty(Database):
    def __init__(self, settings: DatabaseSettings, books: Books) -> None:
        super().__init__(settings)
        self._books = books

    async def run_write(self, work: Callable[[Connection], T], tries: int = 5) -> T:
        fault = self._books.fault()

        def faulty(connection: Connection) -> T:
            answer = work(connection)
            self._books._raise(fault, (DIES_BEFORE, AWAY_BEFORE))
            return answer

        answer = await super().run_write(faulty, tries)
        self._books._raise(fault, (DIES_AFTER, AWAY_AFTER))
        return answer


@cache
def _template() -> sqlite3.Connection:
    from db.schema import upgrade

    template = sqlite3.connect(":memory:")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "paceline.sqlite"
        upgrade(f"sqlite+aiosqlite:///{file}")
        with closing(sqlite3.connect(file)) as migrated:
            migrated.execute("PRAGMA journal_mode=DELETE")  # memory knows no write-ahead log
            migrated.backup(template)
    return template
