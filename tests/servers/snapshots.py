"""What a test has put into a database, kept for others that begin with the same: rows are copied, not made again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import URL, make_url

from tests.servers.mysql import connect


class Snapshots:
    """Copies of whole databases, by name and kind, for one test session.

    Args:
        folder: of this session's, on disk; holds the copies of SQLite.
        new_mysql_url: makes a MySQL database, on the server of those that are copied.
    """

    def __init__(self, folder: Path, new_mysql_url: Callable[[], str]) -> None:
        self._folder = folder
        self._new_mysql_url = new_mysql_url
        self._mysql_urls: dict[str, URL] = {}

    def folder_of(self, name: str, url: str | URL) -> Path:
        """For files that belong to a snapshot; made empty when first asked for."""
        folder = self._folder / f"{name}-{make_url(url).get_backend_name()}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def remember(self, name: str, url: str | URL) -> None:
        """Keep all rows as they are now, under a name. Nobody may be writing."""
        database = make_url(url)
        if database.get_backend_name() == "sqlite":
            _copy_sqlite(Path(str(database.database)), self._sqlite_file(name, url))
            return
        kept = self._mysql_urls[name] = make_url(self._new_mysql_url())
        with connect(database) as connection, connection.cursor() as cursor:
            for table in _tables(database):
                cursor.execute(f"CREATE TABLE `{kept.database}`.`{table}` AS SELECT * FROM `{table}`")

    def recall(self, name: str, url: str | URL) -> bool:
        """Put the rows kept under a name into a database that is empty and has the same tables.

        Returns:
            Whether there were any; else nothing is changed.
        """
        database = make_url(url)
        if database.get_backend_name() == "sqlite":
            file = self._sqlite_file(name, url)
            if file.exists():
                _copy_sqlite(file, Path(str(database.database)))
                return True
            return False
        if name not in self._mysql_urls:
            return False
        kept = self._mysql_urls[name].database
        with connect(database) as connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION foreign_key_checks = 0")
            for table in _tables(database):
                if table != "alembic_version":
                    cursor.execute(f"INSERT INTO `{table}` SELECT * FROM `{kept}`.`{table}`")
        return True

    def _sqlite_file(self, name: str, url: str | URL) -> Path:
        return self.folder_of(name, url) / "snapshot.sqlite"


def _copy_sqlite(source: Path, target: Path) -> None:
    """Page by page, by SQLite itself: whoever has one of them open sees either all of it or nothing."""
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)


def _tables(url: URL) -> list[str]:
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name FROM information_schema.tables "
            "WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'"
        )
        return [table for (table,) in cursor.fetchall()]
