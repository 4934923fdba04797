"""Where the memory is: the database and Redis."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, PositiveFloat, PositiveInt
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from db.environment import read
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
        raise ValueError("the URL names no database")
    return value


def _redis_url(value: str) -> str:
    if not value.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    return value


class DatabaseSettings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    url: Annotated[str, AfterValidator(_database_url)] | None = None
    """`mysql+aiomysql://user:password@host/name`; without it, SQLite in the state folder."""
    pool_size: PositiveInt = 5
    """Connections that one process keeps."""
    pool_recycle_s: PositiveInt = 1800
    """A connection's age at which it is replaced; keep it below MySQL's wait_timeout."""
    timeout_s: PositiveFloat = 60.0
    """How long a transaction on MySQL may take before it is given up."""
    busy_timeout_s: PositiveFloat = 20.0
    """How long SQLite waits for another writer."""


class RedisSettings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    url: Annotated[str, AfterValidator(_redis_url)] | None = None
    """`redis://host:port/0`; without it, the embedded Redis of the state folder."""


def database_settings() -> DatabaseSettings:
    """From the environment, with the embedded database filled in."""
    settings = read("database", DatabaseSettings)
    return (
        settings
        if settings.url
        else settings.model_copy(update={"url": f"sqlite+aiosqlite:///{State.here().database}"})
    )


def redis_url() -> str:
    """From the environment, else the embedded Redis's socket."""
    return read("redis", RedisSettings).url or f"unix://{State.here().redis_socket}"
