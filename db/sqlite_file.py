"""The file of an SQLite database: its URL, and a look at it that takes a millisecond, before anything is started."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import make_url

from db.errors import CannotMigrate, database_cure

VERSIONS = Path(__file__).parent / "migrations" / "versions"
BUSY_S = 5.0


def url_of(file: Path) -> str:
    """
    >>> url_of(Path("/srv/100%/a?b/paceline.db"))
    'sqlite+aiosqlite:////srv/100%25/a%3Fb/paceline.db'
    """
    return f"sqlite+aiosqlite:///{str(file).replace('%', '%25').replace('?', '%3F')}"


def file_of(url: str) -> Path | None:
    """The file of an SQLite database; None for other databases, and for one in memory."""
    parts = make_url(url)
    if parts.get_backend_name() != "sqlite" or not parts.database or parts.database == ":memory:":
        return None
    return Path(parts.database)


def known_revisions() -> set[str]:
    """The migrations of this version, as Alembic, which takes half a second to import, knows them.

    >>> "0001" in known_revisions()
    True
    """
    return {file.name.partition("_")[0] for file in VERSIONS.glob("[0-9]*_*.py")}


def newer(at: str) -> CannotMigrate:
    return CannotMigrate(
        f"the database is at migration {at}, which this version does not know: "
        "it was used by a newer Paceline. Run that version, or restore a backup from before its upgrade."
    )


def look_at(file: Path) -> None:
    """Nothing is made where no file is; an empty one is as good as none.

    Raises:
        CannotMigrate: it cannot be read or written, is no database, is damaged, or is of a newer version.
    """
    if file.is_dir():
        raise CannotMigrate(f"{file}: that is a folder; remove it, or name another state folder: STATE=…")
    if not file.exists() or not file.stat().st_size:
        return
    if not os.access(file, os.R_OK | os.W_OK):
        raise CannotMigrate(f"{file}: this user may not read and write it; {database_cure('readonly')}")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True, timeout=BUSY_S)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            at = None
            if "alembic_version" in tables:
                (at,) = connection.execute("SELECT version_num FROM alembic_version").fetchone() or (None,)
    except sqlite3.Error as error:
        raise CannotMigrate(f"cannot use the database {file}: {error}; {database_cure(str(error))}") from None
    if at is not None and at not in known_revisions():
        raise newer(at)
