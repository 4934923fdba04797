"""Settings of the database and of Redis."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Self

from pydantic import AfterValidator
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from db.environment import Environment
from db.section import Count, Seconds, Section, Text
from db.sqlite_file import url_of
from db.state import State

DRIVERS = ("mysql+aiomysql", "sqlite+aiosqlite")


def _database_url(value: str) -> str:
    try:
        url = make_url(value)
    except ArgumentError:
        raise ValueError("not a database URL; use mysql+aiomysql://user:password@host/name") from None
    if url.drivername not in DRIVERS:
        raise ValueError(f"the driver must be one of {', '.join(DRIVERS)}")
    if not url.database:
        raise ValueError("the URL names no database; add its name after the host, as in mysql+aiomysql://host/paceline")
    return value


def _redis_url(value: str) -> str:
    if not value.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    return value


class DatabaseSettings(Section, frozen=True):
    url: Annotated[Text, AfterValidator(_database_url)] | None = None
    """`mysql+aiomysql://user:password@host/name`; without it, SQLite in the state folder."""
    pool_size: Count = 5
    """Connections that one process keeps."""
    pool_recycle_s: Count = 1800
    """A connection's age at which it is replaced; keep it below MySQL's wait_timeout."""
    timeout_s: Seconds = 60.0
    """How long a transaction on MySQL may take before it is given up."""
    busy_timeout_s: Seconds = 20.0
    """How long SQLite waits for another writer."""

    def at(self, state: State) -> Self:
        """These settings; without a URL, with that of the state folder's SQLite."""
        return self if self.url else self.model_copy(update={"url": url_of(state.database)})


class RedisSettings(Section, frozen=True):
    url: Annotated[Text, AfterValidator(_redis_url)] | None = None
    """`redis://host:port/0`; without it, the embedded Redis of the state folder."""

    def at(self, state: State) -> Self:
        """These settings; without a URL, with that of the embedded Redis's socket."""
        return self if self.url else self.model_copy(update={"url": f"unix://{state.redis_socket}"})


def _begun(value: dt.date) -> dt.date:
    if not FIRST_DAY <= value <= dt.datetime.now(dt.UTC).date():
        raise ValueError(f"use a day from {FIRST_DAY} to today")
    return value


FIRST_DAY = dt.date(2000, 1, 1)
"""No history begins earlier."""


class HistorySettings(Section, frozen=True):
    history_from: Annotated[dt.date, AfterValidator(_begun)] | None = None
    """The first day of history, YYYY-MM-DD: what is said to have happened before it is refused (`too_old`). Left out:
    today ten years ago."""


class _History(Environment):
    general: HistorySettings = HistorySettings()


def history_from() -> dt.date | None:
    """The first day of history by the environment; None: ten years ago. Raises: BadSetting."""
    return _History.load().general.history_from


class _Memory(Environment):
    database: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings = RedisSettings()


def database_settings() -> DatabaseSettings:
    """The database by the environment, else the state folder's SQLite. Raises: BadSetting."""
    return _Memory.load().database.at(State.here())


def redis_url() -> str:
    """The URL by the environment, else that of the embedded Redis's socket. Raises: BadSetting."""
    return str(_Memory.load().redis.at(State.here()).url)
