"""Reads and activates model versions for the API: which exist, which is or was live, how the last night ended."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from sqlalchemy import desc, select

from db.session import Database
from db.state import State
from db.tables import model_versions, nights
from training.registry.activations import as_of, current
from training.registry.publish import ModelRegistry

SHOWN = ("version", "parent", "engine", "trained_through", "status", "simulated", "created_at")


class ModelVersions:
    """
    Args:
        state: the state folder, where an activation looks for the version's files.
    """

    def __init__(self, database: Database, state: State, redis_url: str) -> None:
        self._database, self._registry = database, ModelRegistry(database, state, redis_url)

    async def all(self) -> list[dict[str, Any]]:
        """All versions, newest first, as items of `schemas.models.ModelPage`."""
        live = await current(self._database)
        async with self._database.read() as connection:
            rows = (await connection.execute(select(model_versions).order_by(desc(model_versions.c.created_at)))).all()
        found = []
        for row in rows:
            metrics = json.loads(row.metrics)
            shown = {name: getattr(row, name) for name in SHOWN}
            found.append(shown | {"live": row.version == live, "metrics": metrics, "gate": metrics.get("gate")})
        return found

    async def as_of(self, at: dt.datetime, brand_id: str | None) -> dict[str, Any]:
        """Which model and which λ were live at that time, as `schemas.models.AsOf`."""
        return (await as_of(self._database, at, brand_id)).as_json()

    async def last_night(self) -> str | None:
        """The outcome of the last nightly run: live, stayed, unverified or failed; None before the first."""
        newest = select(nights.c.outcome).order_by(desc(nights.c.seq)).limit(1)
        async with self._database.read() as connection:
            outcome: str | None = (await connection.execute(newest)).scalar_one_or_none()
        return outcome

    async def broken_payouts(self) -> list[str]:
        """Brands whose payout changed in the newest version's last three days of history, whether or not it is live."""
        newest = select(model_versions.c.metrics).order_by(
            desc(model_versions.c.created_at), desc(model_versions.c.version)
        )
        async with self._database.read() as connection:
            metrics: str | None = (await connection.execute(newest.limit(1))).scalar_one_or_none()
        broken = json.loads(metrics).get("payout_breaks", []) if metrics else []
        return sorted({one["brand_id"] for one in broken})

    async def activate(self, version: str) -> dict[str, Any]:
        """Make a published version the live one.

        Raises:
            UnknownVersion: no version of that name was published.
            ModelRefused: it lost at the gate, or its files are damaged; the live version stays.
            ModelUnavailable: its files cannot be read just now; the live version stays.
        """
        await self._registry.activate(version, reason="api")
        return next(entry for entry in await self.all() if entry["version"] == version)
