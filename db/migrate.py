"""Bring a database to this program's schema, or say why it cannot be: `python -m db.migrate`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import inspect, make_url, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from db.environment import BadSetting
from db.errors import in_a_line
from db.session import Database
from db.settings import DatabaseSettings, database_settings

MYSQL_LEAST = (8, 0)


class CannotMigrate(Exception):
    """The database cannot be used. The text says what to do."""


def config(url: str) -> Config:
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    settings.attributes["url"] = url
    return settings


def upgrade(url: str) -> None:
    """Migrate to the newest revision. Call it outside an event loop.

    Raises:
        CannotMigrate: unreachable, MariaDB or a MySQL that is too old, or a schema newer than this program.
    """
    settings = config(url)
    known = {script.revision for script in ScriptDirectory.from_config(settings).walk_revisions()}
    try:
        at = asyncio.run(_examine(url))
        if at is not None and at not in known:
            raise CannotMigrate(
                f"the database is at migration {at}, which this version does not know: "
                "it was used by a newer Paceline. Run that version, or restore a backup from before its upgrade."
            )
        command.upgrade(settings, "head")
    except (SQLAlchemyError, OSError, CommandError) as error:
        raise CannotMigrate(
            f"cannot use the database {make_url(url).render_as_string(hide_password=True)}: {in_a_line(error)}"
        ) from error


def confirm_revision(connection: Connection) -> None:
    """For who works on a database that somebody else migrates.

    Raises:
        CannotMigrate: it is at another migration than this program's newest.
    """
    at, newest = _revision(connection), ScriptDirectory.from_config(config("")).get_current_head()
    if at != newest:
        raise CannotMigrate(
            f"the database is at migration {at or 'none'}, this version works with {newest}: "
            "run `python -m db.migrate`, or the version that the database belongs to"
        )


async def _examine(url: str) -> str | None:
    database = Database(DatabaseSettings(url=url))
    try:
        async with database.read() as connection:
            if not database.is_sqlite:
                version = str((await connection.execute(text("SELECT VERSION()"))).scalar_one())
                number = tuple(int(part) for part in version.split("-")[0].split(".")[:2])
                if "mariadb" in version.lower() or number < MYSQL_LEAST:
                    raise CannotMigrate(f"the server says it is {version}; Paceline needs MySQL 8.0 or newer")
            return await connection.run_sync(_revision)
    finally:
        await database.close()


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def main() -> int:
    try:
        url = database_settings().url
        assert url is not None
        upgrade(url)
    except (BadSetting, CannotMigrate) as error:
        print(error, file=sys.stderr)
        return 1
    print("the database is at the newest migration")
    return 0


if __name__ == "__main__":
    sys.exit(main())
