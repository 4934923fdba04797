"""Model versions as the API shows them: which there are, which is live, and the way back to an older one."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import desc, select

from db import Database, State
from db.tables import model_versions
from training import activate, current

SHOWN = ("version", "parent", "engine", "trained_through", "status", "simulated", "created_at")


class Versions:
    def __init__(self, database: Database, state: State, redis_url: str) -> None:
        self._database, self._state, self._redis_url = database, state, redis_url

    async def all(self) -> list[dict[str, Any]]:
        """Newest first; the items of `schemas.ModelPage`."""
        live = await current(self._database)
        async with self._database.read() as connection:
            rows = (await connection.execute(select(model_versions).order_by(desc(model_versions.c.created_at)))).all()
        return [
            {name: getattr(row, name) for name in SHOWN}
            | {"live": row.version == live, "metrics": json.loads(row.metrics)}
            for row in rows
        ]

    async def activate(self, version: str) -> dict[str, Any]:
        """Make a published version the live one.

        Raises:
            UnknownVersion: none of that name was published.
            ModelRefused: its files are not what was published; the live version stays.
        """
        await activate(self._database, self._state, version, redis_url=self._redis_url, reason="api")
        return next(entry for entry in await self.all() if entry["version"] == version)
