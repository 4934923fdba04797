"""What every test may ask for: real servers, started when first needed, and databases that begin empty."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pymysql
import pytest
from hypothesis import settings
from sqlalchemy.engine import make_url

from tests.profile import PROFILE
from tests.servers.mysql import MySqlServer, connect
from tests.servers.redis import RedisServer
from tests.servers.snapshots import Snapshots

# No deadline: the machine may be busy with a whole cluster beside the tests.
settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=300)
settings.register_profile("deep", deadline=None, max_examples=2000)
settings.load_profile(PROFILE)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shuffle", type=int, metavar="SEED", help="another order of files and of the tests in each")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files stay together, for their fixtures' sake; every worker shuffles alike."""
    seed = config.getoption("--shuffle")
    if seed is None:
        return
    random = Random(seed)
    order = {file: random.random() for file in dict.fromkeys(item.path for item in items)}
    random.shuffle(items)
    items.sort(key=lambda item: order[item.path])


@pytest.fixture(scope="session")
def mysql_server(request: pytest.FixtureRequest) -> Iterator[MySqlServer]:
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # building its Debian root takes a while, and says so
        server = MySqlServer()
    with server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis database."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture(params=["sqlite", "mysql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database at the newest migration; the test runs once on SQLite and once on MySQL."""
    fixture: str = request.getfixturevalue(f"{request.param}_url")
    return fixture


@pytest.fixture
def sqlite_url(migrated_sqlite_file: Path, tmp_path: Path) -> str:
    """An empty SQLite database at the newest migration, in a file of its own."""
    file = tmp_path / "paceline.sqlite"
    shutil.copyfile(migrated_sqlite_file, file)
    return f"sqlite+aiosqlite:///{file}"


@pytest.fixture
def mysql_url(migrated_mysql_url: str) -> str:
    """An empty MySQL database at the newest migration; the session's one, emptied."""
    _empty(migrated_mysql_url)
    return migrated_mysql_url


@pytest.fixture
def fresh_mysql_url(mysql_server: MySqlServer) -> Iterator[str]:
    """A MySQL database without a single table, for tests of the migrations."""
    url = mysql_server.create_database()
    yield url
    mysql_server.drop_database(url)


@pytest.fixture(scope="session")
def migrated_sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrated once, copied for every test. Copy it, never open it."""
    from db.schema import upgrade

    file = tmp_path_factory.mktemp("template") / "paceline.sqlite"
    upgrade(f"sqlite+aiosqlite:///{file}")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # else half of it stays in a file not copied
    return file


@pytest.fixture(scope="session")
def migrated_mysql_url(mysql_server: MySqlServer) -> Iterator[str]:
    """Migrated once, for a migration takes MySQL seconds. Ask for `mysql_url`, which empties it."""
    from db.schema import upgrade

    url = mysql_server.create_database()
    upgrade(url)
    yield url
    mysql_server.drop_database(url)


@pytest.fixture(scope="session")
def snapshots(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Snapshots:
    """Filled databases, for tests that begin with the same rows."""

    def new_mysql_url() -> str:
        server: MySqlServer = request.getfixturevalue("mysql_server")
        return server.create_database()  # dropped with the server's others

    return Snapshots(tmp_path_factory.mktemp("snapshots"), new_mysql_url)


def _empty(url: str) -> None:
    """Delete every row but the migration's mark; a test that still holds a lock is named by a timeout, not a hang."""
    with connect(make_url(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION foreign_key_checks = 0, lock_wait_timeout = 10, innodb_lock_wait_timeout = 10")
        cursor.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() "
            "AND table_type = 'BASE TABLE' AND table_name <> 'alembic_version'"
        )
        for (table,) in cursor.fetchall():
            try:
                cursor.execute(f"DELETE FROM `{table}`")
            except pymysql.err.OperationalError as error:
                raise RuntimeError(f"an earlier test left a transaction open on {table}: {error}") from error
