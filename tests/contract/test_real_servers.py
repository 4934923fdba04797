"""The servers that the other tests trust are what they claim to be."""

import asyncio
import datetime as dt
from pathlib import Path

import pytest
import redis.asyncio
from sqlalchemy import func, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from db.session import Database
from db.settings import DatabaseSettings
from db.tables import ledger_epochs, metadata
from tests.servers import debian
from tests.servers.mysql import GIVEN_URL, MySqlServer
from tests.servers.process import ServerUnavailable
from tests.servers.redis import RedisServer


async def scalar(url: str, statement: str) -> str:
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            return str((await connection.execute(text(statement))).scalar_one())
    finally:
        await engine.dispose()


async def test_mysql_is_mysql_8_or_newer(fresh_mysql_url: str) -> None:
    version = await scalar(fresh_mysql_url, "SELECT VERSION()")
    assert int(version.split(".")[0]) >= 8
    assert "mariadb" not in version.lower()


async def test_a_fresh_mysql_database_is_empty_and_utf8mb4(fresh_mysql_url: str) -> None:
    tables = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE()"
    assert await scalar(fresh_mysql_url, tables) == "0"
    assert await scalar(fresh_mysql_url, "SELECT @@character_set_database") == "utf8mb4"


async def test_a_dropped_mysql_database_is_gone(mysql_server: MySqlServer) -> None:
    url = mysql_server.create_database()
    mysql_server.drop_database(url)
    with pytest.raises(OperationalError, match="1049"):
        await scalar(url, "SELECT 1")


def test_the_tests_drop_no_database_but_their_own(mysql_server: MySqlServer) -> None:
    with pytest.raises(ValueError, match="not made by these tests"):
        mysql_server.drop_database(mysql_server.url("mysql"))


async def test_mysql_asks_for_a_password(mysql_server: MySqlServer) -> None:
    nobody = make_url(mysql_server.url("mysql")).set(password="wrong").render_as_string(hide_password=False)
    with pytest.raises(OperationalError, match="1045"):
        await scalar(nobody, "SELECT 1")


def test_a_given_mysql_is_used_and_left_as_it_was(mysql_server: MySqlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GIVEN_URL, mysql_server.url(""))
    with MySqlServer() as guest:
        url = guest.create_database()
        assert make_url(url).port == make_url(mysql_server.url("")).port
    with pytest.raises(OperationalError, match="1049"):
        asyncio.run(scalar(url, "SELECT 1"))
    asyncio.run(scalar(mysql_server.url("mysql"), "SELECT 1"))


def test_a_given_database_that_is_not_mysql_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GIVEN_URL, "postgresql://somewhere/")
    with pytest.raises(ServerUnavailable, match=r"mysql\+aiomysql"):
        MySqlServer()


async def test_redis_is_redis(redis_url: str) -> None:
    async with redis.asyncio.from_url(redis_url) as client:
        assert await client.ping()
        assert (await client.info("server"))["redis_version"]
        assert await client.dbsize() == 0


async def test_the_redis_of_the_wheel_serves_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.redis.find_program", lambda _: None)
    monkeypatch.delenv("PACELINE_TEST_REDIS_URL", raising=False)
    with RedisServer() as server:
        async with redis.asyncio.from_url(server.url) as client:
            assert int((await client.info("server"))["redis_version"].split(".")[0]) >= 6


@pytest.mark.parametrize(
    ("name", "sources", "mirror"),
    [
        ("sources.list", "deb [arch=amd64 signed-by=/k] http://mirror.example/debian/ sid main\n", "/debian"),
        ("sources.list", "# deb http://old.example/debian sid main\ndeb http://x.example/ubuntu noble main\n", None),
        ("sources.list.d/a.sources", "Types: deb\nURIs: https://m.example/debian\nSuites: sid\n", "/debian"),
        ("sources.list.d/a.sources", "Types: deb\nURIs: https://m.example/debian-security\n", None),
    ],
)
def test_the_mirror_is_the_one_apt_uses(tmp_path: Path, name: str, sources: str, mirror: str | None) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / name).write_text(sources)
    found = debian.archive_mirror(tmp_path)
    assert found is None if mirror is None else found is not None and found.endswith(mirror)


@pytest.mark.parametrize("time", ["first", "second"])
async def test_every_test_begins_with_an_empty_migrated_database(database_url: str, time: str) -> None:
    database = Database(DatabaseSettings(url=database_url))
    try:
        async with database.write() as connection:
            rows = {
                table.name: (await connection.execute(select(func.count()).select_from(table))).scalar_one()
                for table in metadata.sorted_tables
            }
            assert rows == dict.fromkeys(rows, 0)
            await connection.execute(insert(ledger_epochs).values(shard=0, epoch=1, taken_at=dt.datetime.now(dt.UTC)))
            assert (await connection.execute(text("SELECT COUNT(*) FROM alembic_version"))).scalar_one() == 1
    finally:
        await database.close()
