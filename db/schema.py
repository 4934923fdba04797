"""Finds which migration a database is at, and upgrades it to the newest (`migrate.py` is the command)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import inspect, make_url, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from db.errors import CannotMigrate, UserError, database_cure, in_a_line
from db.session import Database
from db.settings import DatabaseSettings
from db.sqlite_file import file_of, newer

MYSQL_LEAST = (8, 0)


class Upgraded(NamedTuple):
    """The migrations before and after an upgrade."""

    before: str | None  # None: the database was empty
    after: str


def config(url: str) -> Config:
    """Alembic's configuration for a database."""
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    settings.attributes["url"] = url
    return settings


def upgrade(url: str) -> Upgraded:
    """Migrate to the newest revision. Call it outside an event loop.

    Raises:
        CannotMigrate: unreachable, MariaDB or a MySQL that is too old, or a schema newer than this program.
    """
    settings = config(url)
    scripts = ScriptDirectory.from_config(settings)
    try:
        at = asyncio.run(_examine(url))
        if at is not None and at not in {script.revision for script in scripts.walk_revisions()}:
            raise newer(at)
        command.upgrade(settings, "head")
    except (SQLAlchemyError, OSError, CommandError) as error:
        raise CannotMigrate(
            f"cannot use the database {make_url(url).render_as_string(hide_password=True)}: {_reason(url, error)}"
        ) from error
    newest = scripts.get_current_head()
    assert newest is not None
    return Upgraded(at, newest)


def _reason(url: str, error: Exception) -> str:
    """Why a database cannot be used, and what to do."""
    file = file_of(url)
    if file is not None and not file.parent.is_dir():
        return f"there is no folder {file.parent}; make it, or name another with --state"
    if file is not None and file.is_dir():
        return "that is a folder; remove it, or name another state folder with --state"
    return f"{in_a_line(error)}; {database_cure(in_a_line(error))}"


def require_file(settings: DatabaseSettings) -> None:
    """Check that an SQLite database exists.

    Raises:
        UserError: there is no such file, or it is empty.
    """
    assert settings.url is not None
    file = file_of(settings.url)
    if file is not None and not (file.is_file() and file.stat().st_size):
        what = (
            "that is a folder" if file.is_dir() else "that file is empty" if file.is_file() else "there is no database"
        )
        raise UserError(f"{file}: {what}; name the state folder with --state, or start Paceline once with `make run`")


@asynccontextmanager
async def existing_database(settings: DatabaseSettings) -> AsyncIterator[Database]:
    """A database for a command that only reads: it is neither created nor migrated.

    Raises:
        UserError: there is no such file, or it is empty.
        CannotMigrate: it is not at this program's newest migration.
    """
    require_file(settings)
    database = Database(settings)
    try:
        await database.run_read(confirm_revision)
        yield database
    finally:
        await database.close()


def confirm_revision(connection: Connection) -> None:
    """Check that a database is at this program's newest migration.

    Raises:
        CannotMigrate: it is at another one, or has no tables.
    """
    at, newest = _revision(connection), ScriptDirectory.from_config(config("")).get_current_head()
    if at != newest:
        shown = connection.engine.url.render_as_string(hide_password=True)
        if at is None:
            raise CannotMigrate(f"the database {shown} has no tables of Paceline; `paceline migrate` makes them")
        raise CannotMigrate(
            f"the database {shown} is at migration {at}, this version works with {newest}: "
            "run `paceline migrate`, or the version that the database belongs to"
        )


async def _examine(url: str) -> str | None:
    """The migration that a database is at; None if it is empty. Raises: CannotMigrate, an unsuitable server."""
    database = Database(DatabaseSettings(url=url))
    try:
        if not database.is_sqlite:
            async with database.read() as connection:
                version = str((await connection.execute(text("SELECT VERSION()"))).scalar_one())
            number = tuple(int(part) for part in version.split("-")[0].split(".")[:2])
            if "mariadb" in version.lower() or number < MYSQL_LEAST:
                raise CannotMigrate(f"the database server is {version}; Paceline needs MySQL 8.0 or newer")
        return await database.run_read(_revision)
    finally:
        await database.close()


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
