"""Publishes model versions and makes them live: directory, database, Redis, Git. See `activations.py` for what is live.

A half-published version is never served: only a version whose files are complete can be made live, by one row in the
database. Redis and Git hold copies; if they fail, that is a warning.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import desc, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from db.errors import UserError
from db.session import Database
from db.state import State
from db.tables import lambda_fits, model_activations, model_versions
from training.model.bundle import ModelRefused, ModelUnavailable
from training.model.model import Model
from training.progress import Say
from training.registry.activations import activated, current
from training.registry.replication import to_git
from training.registry.version_files import VersionFiles, model_key

MOST_NAME = 64
"""Most characters of a version's name, and of the reason of an activation."""


class UnknownVersion(UserError):
    """No version of that name has been published."""

    def __init__(self, version: str) -> None:
        super().__init__(version)
        self.version = version

    def __str__(self) -> str:
        return f"no model version {self.version} has been published"


class ModelRegistry:
    """The published versions: their rows in the database, their files, and the copies in Redis and Git.

    Args:
        redis_url: where copies are kept; None: nowhere.
        say: shows a line to whoever watches; a warning begins with `warning: `.
    """

    def __init__(self, database: Database, state: State, redis_url: str | None = None, say: Say = print) -> None:
        self.database, self.state, self.say = database, state, say
        self.files = VersionFiles(state, redis_url, say)

    async def publish(self, model: Model, *, accepted: bool = True, lambdas: Iterable[Mapping[str, Any]] = ()) -> None:
        """Store a version, which `activate` can then make live. A rejected one is stored to look at.

        Publishing it again changes nothing: its row stays as it is, and so do complete files.

        Args:
            accepted: whether it passed the gate.
            lambdas: the night's fits as `NightFits.rows`. λ is fitted to the score log, not to the trees, so the fits
                count whichever version is live. One that did not converge is stored, but not used.

        Raises:
            OSError: the directory cannot be written; the version is not in the database then.
            ModelRefused, ModelUnavailable: it failed its test in a child process; the same.
        """
        parts = await asyncio.to_thread(lambda: model.parts(model_key(self.state)))
        await asyncio.to_thread(self.files.save, model.version, parts)
        if accepted:  # so that replicas find the test's result as soon as it is live
            await asyncio.to_thread(self.files.verify_ahead, parts)
        await self._record(model, accepted, lambdas)
        if accepted:
            bundle = await asyncio.to_thread(parts.bundle)
            await self.files.redis.put(model.version, bundle)
            await asyncio.to_thread(to_git, self.state, model.version, bundle, self.say)

    async def is_published(self, version: str) -> bool:
        """Whether the version is in the database, accepted or not."""
        async with self.database.read() as connection:
            return await _is_known(connection, version)

    async def activate(self, version: str, *, reason: str = "operator") -> None:
        """Make a published version live; an older one, too.

        Args:
            reason: stored with the activation.

        Raises:
            UnknownVersion: no version of that name was published.
            ModelRefused: it lost at the gate, or its files and Redis's copy are damaged; the live version stays.
            ModelUnavailable: it cannot be read or tested just now; the live version stays.
        """
        if not version.isascii() or len(version) > MOST_NAME:  # cannot be a version, and some databases refuse to look
            raise UnknownVersion(version)
        async with self.database.read() as connection:
            asked = select(model_versions.c.status).where(model_versions.c.version == version)
            status = (await connection.execute(asked)).scalar_one_or_none()
        if status is None:
            raise UnknownVersion(version)
        if status != "published":
            raise ModelRefused(version, "it lost at the gate; GET /api/models says why")
        await self._make_live(version, await self.files.intact_bundle(version), reason)

    async def announce(self) -> str | None:
        """Write the live version into Redis, which is empty after a start.

        If the live version is damaged beyond repair, the most recent earlier one that is complete is made live.

        Returns:
            The live version; None if there is none, or none that can be served.
        """
        live = await current(self.database)
        for version in await activated(self.database):
            try:
                bundle = await self.files.intact_bundle(version)
            except ModelRefused as error:
                self.say(f"warning: {error}; looking for an earlier version")
                continue
            except ModelUnavailable as error:
                if version == live:
                    self.say(f"warning: {error}; it stays live, and replicas try again to load it")
                    return live
                self.say(f"warning: {error}; looking for an earlier version")
                continue
            if version == live:
                await self.files.redis.make_current(version, bundle)
            else:
                self.say(f"warning: model {live} cannot be used; the earlier model {version} is made live instead")
                await self._make_live(version, bundle, "fallback")
            return version
        return None

    async def prune(self, keep: int) -> None:
        """Remove the directories and Redis's copies of all versions but the newest, the live one and its parent; their
        rows in the database and their commits in Git stay.

        Args:
            keep: how many of the newest versions.
        """
        newest_first = select(model_versions.c.version, model_versions.c.parent).order_by(
            desc(model_versions.c.created_at), desc(model_versions.c.version)
        )
        async with self.database.read() as connection:
            parents = {row.version: row.parent for row in await connection.execute(newest_first)}
        await asyncio.to_thread(self.files.remove_drafts)
        live = await current(self.database)
        wanted = {*list(parents)[:keep], live, parents.get(live or "")}
        await self.files.remove([version for version in parents if version not in wanted])

    async def _record(self, model: Model, accepted: bool, lambdas: Iterable[Mapping[str, Any]]) -> None:
        now, parent = dt.datetime.now(dt.UTC), model.manifest["parent"]
        row = {
            "version": model.version,
            "parent": parent,
            "engine": model.manifest["engine"],
            "trained_through": model.trained_through,
            "status": "published" if accepted else "rejected",
            "metrics": json.dumps(model.manifest["metrics"]),
            "manifest": json.dumps(model.manifest),
            "simulated": model.simulated,
            "created_at": now,
        }
        live = model.version if accepted or parent is None else parent
        fits = [{**fit, "model_version": live, "fitted_at": now} for fit in lambdas]

        async def write(connection: AsyncConnection) -> None:
            if await _is_known(connection, model.version):
                return
            await connection.execute(insert(model_versions).values(row))
            if fits:
                await connection.execute(insert(lambda_fits), fits)

        await self.database.transact(write)

    async def _make_live(self, version: str, bundle: str, reason: str) -> None:
        row = {"version": version, "activated_at": dt.datetime.now(dt.UTC), "reason": reason[:MOST_NAME]}

        async def write(connection: AsyncConnection) -> None:
            await connection.execute(insert(model_activations).values(row))

        await self.database.transact(write)
        await self.files.redis.make_current(version, bundle)


async def _is_known(connection: AsyncConnection, version: str) -> bool:
    known = select(model_versions.c.version).where(model_versions.c.version == version)
    return (await connection.execute(known)).first() is not None
