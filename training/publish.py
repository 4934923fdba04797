"""A version reaches the world: directory, database, Redis, Git. The newest row of `model_activations` is live.

Nothing half-published is ever served: a directory appears by one rename, a version can be activated only when its
files are whole, and the activation is one row. Redis and Git carry copies: when they fail, that is a warning. A
directory that was damaged is made anew from Redis's copy.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError
from sqlalchemy import desc, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from db import Database, State
from db.state import secret_file
from db.tables import lambda_fits, model_activations, model_versions
from training.lagrange import BrandFit
from training.model import Model, ModelRefused, ModelUnavailable, Parts, bundle_of, parts_in, parts_of, vouch
from training.nodecheck import NodeCheck
from training.settings import model_settings

CURRENT = "roas_model:current"
DOCUMENT = "roas_model.json"
MOST_NAME = 64
REDIS_TIMEOUT_S = 5.0
GIT_TIMEOUT_S = 60.0
IDENTITY = {
    "GIT_AUTHOR_NAME": "Paceline",
    "GIT_AUTHOR_EMAIL": "paceline@localhost",
    "GIT_COMMITTER_NAME": "Paceline",
    "GIT_COMMITTER_EMAIL": "paceline@localhost",
}

Say = Callable[[str], None]


class UnknownVersion(Exception):
    """There is no such published version."""

    def __init__(self, version: str) -> None:
        super().__init__(version)
        self.version = version

    def __str__(self) -> str:
        return f"no published model version {self.version}"


def redis_key(version: str) -> str:
    return f"roas_model:{version}"


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
    fits: Iterable[BrandFit] = (),
    say: Say = print,
) -> None:
    """Make a version known. It is not live before `activate`; one that lost at the gate is kept to look at.

    λ is fitted to the log, not to the trees: the fits count whichever version is live. One that did not converge is
    stored to look at, and not used.

    Raises:
        OSError: the directory cannot be written; the database does not hear of the version.
    """
    key = model_key(state)
    directory = await asyncio.to_thread(model.save, state.models, key)
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
    lambdas = [_lambda_row(fit) | {"model_version": live, "fitted_at": now} for fit in fits]

    async def write(connection: AsyncConnection) -> None:
        known = select(model_versions.c.version).where(model_versions.c.version == model.version)
        if (await connection.execute(known)).first() is not None:
            changes = {name: value for name, value in row.items() if name != "version"}
            await connection.execute(
                update(model_versions).where(model_versions.c.version == model.version).values(changes)
            )
        else:
            await connection.execute(insert(model_versions).values(row))
        if lambdas:
            await connection.execute(insert(lambda_fits), lambdas)

    await database.transact(write)
    if not accepted:
        return
    bundle = await asyncio.to_thread(bundle_of, directory)
    if redis_url is not None:
        await _to_redis(redis_url, {redis_key(model.version): bundle}, say)
    await asyncio.to_thread(_to_git, state.registry, model.version, bundle, say)


def _lambda_row(fit: BrandFit) -> dict[str, Any]:
    """The fit and the limits it was made for."""
    brand, portfolio = fit.limit, fit.shared
    return {
        "brand_id": fit.brand_id,
        "kappa": fit.kappa,
        "mu_brand": fit.mu_brand,
        "mu_portfolio": fit.mu_portfolio,
        "nu_brand": fit.nu_brand,
        "nu_portfolio": fit.nu_portfolio,
        "opportunities": fit.opportunities,
        "target_roas": brand.target_roas,
        "portfolio_target_roas": portfolio.target_roas if portfolio else None,
        "daily_budget_micros": brand.budget_micros,
        "portfolio_daily_budget_micros": portfolio.budget_micros if portfolio else None,
        "kkt_residual": fit.convergence.kkt_residual,
        "duality_gap": fit.convergence.duality_gap,
        "converged": fit.convergence.converged,
    }


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
        await _to_redis(redis_url, {redis_key(version): bundle, CURRENT: version}, say)


async def current(database: Database) -> str | None:
    """The live version, None before the first."""
    newest = select(model_activations.c.version).order_by(desc(model_activations.c.seq)).limit(1)
    async with database.read() as connection:
        version: str | None = (await connection.execute(newest)).scalar_one_or_none()
    return version


async def live_at(database: Database, at: dt.datetime) -> str | None:
    """Which version was live then."""
    newest = (
        select(model_activations.c.version)
        .where(model_activations.c.activated_at <= at)
        .order_by(desc(model_activations.c.seq))
        .limit(1)
    )
    async with database.read() as connection:
        version: str | None = (await connection.execute(newest)).scalar_one_or_none()
    return version


async def fetch(state: State, version: str, *, redis_url: str | None = None, verify: bool = True) -> Model:
    """A version for serving: from its directory, else from Redis (a node without the folder, or with a damaged one).

    Raises:
        ModelRefused: neither holds it as it was published, or it does not work here.
        ModelUnavailable: a place that may hold it, or the check of its golden rows, failed for now.
    """
    parts, _ = await _whole(state, version, redis_url)
    return await asyncio.to_thread(_opened, state, parts, verify)


def _opened(state: State, parts: Parts, verify: bool) -> Model:
    prepared = NodeCheck.of(state, model_key(state)).tried(parts.body, parts.texts) if verify else None
    return Model.opened(parts.body, parts.texts, prepared)


async def announce(database: Database, state: State, redis_url: str, say: Say = print) -> str | None:
    """Tell an empty Redis what is live (after a start).

    Where the live version is damaged beyond repair, the last one before it that is whole goes live.

    Returns:
        The live version; None when there is none, or none that can be served.
    """
    live = await current(database)
    for version in await _activated(database):
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
            await _to_redis(redis_url, {redis_key(version): bundle, CURRENT: version}, say)
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
    live = await current(database)
    kept = {*list(parents)[:keep], live, parents.get(live or "")}
    old = [version for version in parents if version not in kept]
    if not old:
        return
    for version in old:
        await asyncio.to_thread(shutil.rmtree, state.models / version, ignore_errors=True)
    if redis_url is not None:
        try:
            async with _client(redis_url) as client:
                await client.unlink(*map(redis_key, old))
        except (RedisError, OSError) as error:
            say(f"warning: Redis keeps its old models ({error})")


async def _activated(database: Database) -> list[str]:
    """Every version that was ever live, the last one first."""
    last = func.max(model_activations.c.seq)
    asked = select(model_activations.c.version).group_by(model_activations.c.version).order_by(desc(last))
    async with database.read() as connection:
        return list((await connection.execute(asked)).scalars())


async def _intact_bundle(state: State, version: str, redis_url: str | None, say: Say) -> str:
    """A version that can go live: whole, and tried where it is to be served. Where its directory is damaged or missing,
    that is made anew from Redis's copy.

    Raises:
        ModelRefused, ModelUnavailable: as `fetch`.
    """
    parts, damage = await _whole(state, version, redis_url)
    await asyncio.to_thread(NodeCheck.of(state, model_key(state)).ahead, parts.body, parts.texts)
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
    stored = None if redis_url is None else await _from_redis(redis_url, version)
    if stored is None:
        raise damage
    try:
        parts = await asyncio.to_thread(parts_in, stored, version)
        await asyncio.to_thread(vouch, *parts, key, version)
    except ModelRefused:
        raise damage from None
    return parts, damage


async def _from_redis(url: str, version: str) -> str | None:
    """
    Raises:
        ModelUnavailable: Redis does not answer.
    """
    try:
        async with _client(url) as client:
            stored = await client.get(redis_key(version))
    except (RedisError, OSError) as error:
        raise ModelUnavailable(version, f"not whole in the state folder, and Redis does not answer: {error}") from None
    except UnicodeDecodeError:
        return None  # as good as none
    return None if stored is None else str(stored)


def _client(url: str) -> Any:
    return redis.asyncio.from_url(
        url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S, decode_responses=True
    )


async def _to_redis(url: str, values: dict[str, str], say: Say) -> None:
    """In one transaction; the pointer goes with what it points at."""
    try:
        async with _client(url) as client, client.pipeline(transaction=True) as pipe:
            for key, value in values.items():
                pipe.set(key, value)
            await pipe.execute()
    except (RedisError, OSError) as error:
        say(f"warning: Redis did not take the model ({error}); the database and the folder have it")


def _to_git(registry: Path, version: str, bundle: str, say: Say) -> None:
    """One commit a version; pushed where a remote is set."""
    try:
        registry.mkdir(parents=True, exist_ok=True)
        if not (registry / ".git").exists():
            _git(registry, "init", "--quiet", "--initial-branch=main")
        draft = registry / f".{DOCUMENT}.draft"
        draft.write_text(bundle)
        draft.replace(registry / DOCUMENT)
        _git(registry, "add", DOCUMENT)
        if _git(registry, "status", "--porcelain", "--", DOCUMENT):
            _git(
                registry, "commit", "--quiet", "--no-verify", "--no-gpg-sign", "-m", f"Model {version}", "--", DOCUMENT
            )
        if _git(registry, "remote"):
            _git(registry, "push", "--quiet", _git(registry, "remote").split()[0], "HEAD")
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None)
        text = (said.strip().splitlines() or [str(error)])[-1] if isinstance(said, str) else str(error)
        say(f"warning: the model registry in Git did not take {version}: {text}")


def _git(registry: Path, *arguments: str) -> str:
    # A repository around the state folder must not be taken for the registry, nor its hooks' environment.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environ = inherited | IDENTITY | {"GIT_TERMINAL_PROMPT": "0", "GIT_CEILING_DIRECTORIES": str(registry.parent)}
    done = subprocess.run(
        ["git", "-C", str(registry), *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=GIT_TIMEOUT_S,
        check=True,
    )
    return done.stdout
