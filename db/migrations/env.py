"""Alembic's entry point. The URL comes from `db.schema.config`, never from a file."""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import text
from sqlalchemy.engine import Connection

from db.session import Database
from db.settings import DatabaseSettings, database_settings
from db.tables import metadata


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_type=True,
        transactional_ddl=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


async def _run() -> None:
    url = context.config.attributes.get("url") or database_settings().url
    database = Database(DatabaseSettings(url=url))
    try:
        async with database.engine.connect() as connection:
            if database.is_sqlite:
                await connection.execute(text("BEGIN IMMEDIATE"))
            await connection.run_sync(_migrate)
            await connection.commit()
    finally:
        await database.close()


asyncio.run(_run())
