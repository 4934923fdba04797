"""A version reaches the world: directory, database, Redis, Git. `registry.py` tells what is, and was, live.

Nothing half-published is ever served: a directory appears by one rename, a version can be activated only when its
files are whole, and the activation is one row. Redis and Git carry copies: when they fail, that is a warning. A
directory that was damaged is made anew from Redis's copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import shutil
import time
from collections.abc import Iterable, Mapping
from typing import Any

from redis.exceptions import RedisError
from sqlalchemy import desc, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from db.session import Database
from db.state import State, secret_file
from db.tables import lambda_fits, model_activations, model_versions
from training.model.bundle import ModelRefused, ModelUnavailable, Parts, parts_in, vouch
from training.model.model import Model
from training.model.sandbox_cache import SandboxCache
from training.model.store import bundle_of, parts_of
from training.progress import Say
from training.registry.activations import activated, current
from training.registry.replication import CURRENT, DOCUMENT, client_of, from_redis, redis_key, to_git, to_redis
from training.settings import model_settings

MOST_NAME = 64
DRAFT_S = 3600.0


class UnknownVersion(Exception):
    """There is no such published version."""

    def __init__(self, version: str) -> None:
        super().__init__(version)
        self.version = version

    def __str__(self) -> str:
        return f"no published model version {self.version}"


def model_key(state: State) -> bytes:
    """What signs manifests: `PACELINE_MODEL_KEY`, else the state folder's, made on first use."""
    given = model_settings().key
    if given is not None:
        return given.get_secret_value().encode()
    return secret_file(state.model_key).encode()


async def publish_version(
    database: Database,
    state: State,
    model: Model,
    *,
    redis_url: str | None = None,
    accepted: bool = True,
    lambdas: Iterable[Mapping[str, Any]] = (),
    say: Say = print,
) -> None:
    """Make a version known. It is not live before `activate`; one that lost at the gate is kept to look at.

    Doing it again changes nothing: a version that the database knows stays as it is, and so does what is whole.

    Args:
        lambdas: the night's fits as `NightFits.rows`. λ is fitted to the log, not to the trees: they count whichever
            version is live. One that did not converge is stored to look at, and not used.

    Raises:
        OSError: the directory cannot be written; the database does not hear of the version.
        ModelRefused, ModelUnavailable: it does not work in a process of its own; likewise.
    """
    key = model_key(state)
    bundle = await asyncio.to_thread(_save, model, state, key)
    if accepted:  # what replicas will want to know of it at once, once it is live
        await asyncio.to_thread(_try_ahead, bundle, model.version, state, key)
    now = dt.datetime.now(dt.UTC)
    parent = model.manifest["parent"]
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
        known = select(model_versions.c.version).where(model_versions.c.version == model.version)
        if (await connection.execute(known)).first() is not None:
            return
        await connection.execute(insert(model_versions).values(row))
        if fits:
            await connection.execute(insert(lambda_fits), fits)

    await database.transact(write)
    if not accepted:
        return
    if redis_url is not None:
        await to_redis(redis_url, {redis_key(model.version): bundle}, say)
    await asyncio.to_thread(to_git, state, model.version, bundle, say)


def _try_ahead(bundle: str, version: str, state: State, key: bytes) -> None:
    parts = parts_in(bundle, version)
    SandboxCache.of(state, key).ahead(parts.body, parts.texts)


def _save(model: Model, state: State, key: bytes) -> str:
    """The version's directory, written unless it is there and whole: replicas may be reading it.

    Returns:
        Its bundle.
    """
    try:
        there = bundle_of(state.models / model.version)
        if there == model.to_bundle(key):
            return there
    except (ModelRefused, ModelUnavailable):
        pass
    return bundle_of(model.save(state.models, key))


async def activate(
    database: Database,
    state: State,
    version: str,
    *,
    redis_url: str | None = None,
    reason: str = "operator",
    say: Say = print,
) -> None:
    """Make a published version the live one: forward or back.

    Raises:
        UnknownVersion: there is none of that name.
        ModelRefused: it lost at the gate, or nowhere is it what was published; the live version stays.
        ModelUnavailable: it could not be had just now; the live version stays.
    """
    if not version.isascii() or len(version) > MOST_NAME:  # no name of ours, and nothing to ask a database for
        raise UnknownVersion(version)
    async with database.read() as connection:
        asked = select(model_versions.c.status).where(model_versions.c.version == version)
        status = (await connection.execute(asked)).scalar_one_or_none()
    if status is None:
        raise UnknownVersion(version)
    if status != "published":
        raise ModelRefused(version, "it lost at the gate")
    bundle = await _intact_bundle(state, version, redis_url, say)
    await _make_live(database, version, bundle, redis_url, reason, say)


async def _make_live(
    database: Database, version: str, bundle: str, redis_url: str | None, reason: str, say: Say
) -> None:
    row = {"version": version, "activated_at": dt.datetime.now(dt.UTC), "reason": reason[:64]}

    async def write(connection: AsyncConnection) -> None:
        await connection.execute(insert(model_activations).values(row))

    await database.transact(write)
    if redis_url is not None:
        await to_redis(redis_url, _pointed_at(version, bundle), say)


def _pointed_at(version: str, bundle: str) -> dict[str, str]:
    """What Redis holds of the live version."""
    return {redis_key(version): bundle, DOCUMENT: bundle, CURRENT: version}


async def tell_redis(state: State, version: str, redis_url: str, say: Say = print) -> None:
    """That this version is live, once more.

    Raises:
        ModelRefused, ModelUnavailable: as `fetch`.
    """
    parts, _ = await _whole(state, version, redis_url)
    await to_redis(redis_url, _pointed_at(version, await asyncio.to_thread(parts.bundle)), say)


async def fetch(state: State, version: str, *, redis_url: str | None = None, verify: bool = True) -> Model:
    """A version for serving: from its directory, else from Redis (a node without the folder, or with a damaged one).

    Raises:
        ModelRefused: neither holds it as it was published, or it does not work here.
        ModelUnavailable: a place that may hold it, or the check of its golden rows, failed for now.
    """
    parts, _ = await _whole(state, version, redis_url)
    return await asyncio.to_thread(_opened, state, parts, verify)


def _opened(state: State, parts: Parts, verify: bool) -> Model:
    prepared = SandboxCache.of(state, model_key(state)).tried(parts.body, parts.texts) if verify else None
    return Model.opened(parts.body, parts.texts, prepared)


async def announce(database: Database, state: State, redis_url: str, say: Say = print) -> str | None:
    """Tell an empty Redis what is live (after a start).

    Where the live version is damaged beyond repair, the last one before it that is whole goes live.

    Returns:
        The live version; None when there is none, or none that can be served.
    """
    live = await current(database)
    for version in await activated(database):
        try:
            bundle = await _intact_bundle(state, version, redis_url, say)
        except ModelRefused as error:
            say(f"warning: {error}")
            continue
        except ModelUnavailable as error:
            say(f"warning: {error}")
            if version == live:
                return live  # no reason to go back: who serves it tries again
            continue
        if version == live:
            await to_redis(redis_url, _pointed_at(version, bundle), say)
        else:
            say(f"warning: falling back from model {live} to {version}")
            await _make_live(database, version, bundle, redis_url, "fallback", say)
        return version
    return None


async def prune(database: Database, state: State, keep: int, *, redis_url: str | None = None, say: Say = print) -> None:
    """Remove directories and Redis's copies of all but the newest versions, the live one and its parent.

    What the database and Git know of them stays.

    Args:
        keep: how many of the newest.
    """
    newest_first = select(model_versions.c.version, model_versions.c.parent).order_by(
        desc(model_versions.c.created_at), desc(model_versions.c.version)
    )
    async with database.read() as connection:
        parents = {row.version: row.parent for row in await connection.execute(newest_first)}
    await asyncio.to_thread(_remove_drafts, state)
    live = await current(database)
    kept = {*list(parents)[:keep], live, parents.get(live or "")}
    old = [version for version in parents if version not in kept]
    if not old:
        return
    for version in old:
        await asyncio.to_thread(shutil.rmtree, state.models / version, ignore_errors=True)
    if redis_url is not None:
        try:
            async with client_of(redis_url) as client:
                await client.unlink(*map(redis_key, old))
        except (RedisError, OSError) as error:
            say(f"warning: Redis keeps its old models ({error})")


def _remove_drafts(state: State) -> None:
    """Directories that nobody is writing any more: whoever did was killed."""
    for draft in state.models.glob(".*"):
        with contextlib.suppress(OSError):
            if draft.stat().st_mtime < time.time() - DRAFT_S:
                shutil.rmtree(draft)


async def _intact_bundle(state: State, version: str, redis_url: str | None, say: Say) -> str:
    """A version that can go live: whole, and tried where it is to be served. Where its directory is damaged or missing,
    that is made anew from Redis's copy.

    Raises:
        ModelRefused, ModelUnavailable: as `fetch`.
    """
    parts, damage = await _whole(state, version, redis_url)
    await asyncio.to_thread(SandboxCache.of(state, model_key(state)).ahead, parts.body, parts.texts)
    if damage is not None:
        try:
            model = await asyncio.to_thread(Model.opened, parts.body, parts.texts)
            await asyncio.to_thread(model.save, state.models, model_key(state))
            say(f"warning: {damage}; its directory is made anew from Redis's copy")
        except OSError as error:
            say(f"warning: {damage}; Redis has it, but its directory cannot be made anew: {error}")
    return await asyncio.to_thread(parts.bundle)


async def _whole(state: State, version: str, redis_url: str | None) -> tuple[Parts, Exception | None]:
    """(what was published, why it comes from Redis); golden rows are not looked at.

    Raises:
        ModelRefused, ModelUnavailable: as `fetch`.
    """
    try:
        key = model_key(state)
    except OSError as error:
        raise ModelUnavailable(version, f"the key of its signature cannot be read: {error.strerror or error}") from None
    try:
        parts = await asyncio.to_thread(parts_of, state.models / version)
        await asyncio.to_thread(vouch, *parts, key, version)
        return parts, None
    except (ModelRefused, ModelUnavailable) as error:
        damage = error
    stored = None if redis_url is None else await from_redis(redis_url, version)
    if stored is None:
        raise damage
    try:
        parts = await asyncio.to_thread(parts_in, stored, version)
        await asyncio.to_thread(vouch, *parts, key, version)
    except ModelRefused:
        raise damage from None
    return parts, damage
