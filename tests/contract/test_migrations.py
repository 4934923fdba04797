"""The tables in the code and the tables in the database are the same, on both databases."""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import create_engine, text

from db import schema
from db.errors import CannotMigrate
from db.schema import config, upgrade
from tests.servers.mysql import MySqlServer


@pytest.fixture(params=["sqlite", "mysql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'empty.db'}"
    else:
        yield request.getfixturevalue("fresh_mysql_url")


def test_autogenerate_finds_nothing_after_an_upgrade_and_down_leads_back(empty_url: str) -> None:
    upgrade(empty_url)
    command.check(config(empty_url))  # raises when the models and the database differ
    upgrade(empty_url)
    command.downgrade(config(empty_url), "base")
    upgrade(empty_url)
    command.check(config(empty_url))


def test_an_older_database_is_brought_up_to_date(empty_url: str) -> None:
    upgrade(empty_url)
    command.downgrade(config(empty_url), "base")
    upgrade(empty_url)
    command.check(config(empty_url))


def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "newer.db"
    upgrade(f"sqlite+aiosqlite:///{file}")
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(CannotMigrate, match=r"9999.*newer Paceline"):
        upgrade(f"sqlite+aiosqlite:///{file}")


def test_an_unreachable_or_foreign_database_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(CannotMigrate, match=r"127\.0\.0\.1:1"):
        upgrade("mysql+aiomysql://user:secret@127.0.0.1:1/paceline")
    with pytest.raises(CannotMigrate) as told:
        upgrade("mysql+aiomysql://user:secret@127.0.0.1:1/paceline")
    assert "secret" not in str(told.value)
    rubbish = tmp_path / "rubbish.db"
    rubbish.write_bytes(b"this is no database" * 100)
    with pytest.raises(CannotMigrate, match=r"rubbish\.db"):
        upgrade(f"sqlite+aiosqlite:///{rubbish}")


def test_ids_differ_by_case_on_mysql(mysql_server: MySqlServer, fresh_mysql_url: str) -> None:
    upgrade(fresh_mysql_url)
    engine = create_engine(fresh_mysql_url.replace("+aiomysql", "+pymysql"))
    with engine.begin() as connection:
        for name in ("AbC", "abc"):
            connection.execute(
                text(
                    "INSERT INTO imports (source, sha256, `rows`, rejected, simulated, imported_at)"
                    " VALUES (:name, 'x', 1, 0, 0, '2026-01-01 00:00:00.5')"
                ),
                {"name": name},
            )
        assert connection.execute(text("SELECT COUNT(*) FROM imports")).scalar_one() == 2
        charset = connection.execute(
            text(
                "SELECT CCSA.character_set_name FROM information_schema.tables T"
                " JOIN information_schema.collation_character_set_applicability CCSA"
                " ON CCSA.collation_name = T.table_collation"
                " WHERE T.table_schema = DATABASE() AND T.table_name = 'brands'"
            )
        ).scalar_one()
        assert charset == "utf8mb4"
    engine.dispose()


def test_the_views_of_the_first_migration_are_those_of_the_sql_files() -> None:
    first = importlib.import_module("db.migrations.versions.0001_first_tables")
    folder = Path(schema.__file__).parent
    assert first.PERFORMANCE.strip() == (folder / "performance.sql").read_text().strip()
    assert first.FEATURE_STORE.strip() == (folder / "features.sql").read_text().strip()
