"""Checks, after a version was made live, that database, files, Redis, Git and every replica have it."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path

import httpx
import psutil
from redis.exceptions import RedisError

from db.state import State
from training.model.bundle import ModelRefused, ModelUnavailable
from training.progress import Say
from training.registry.activations import current
from training.registry.publish import ModelRegistry
from training.registry.replication import CURRENT, DOCUMENT, client_of, git, last_line, redis_key, remote_of, repository
from training.registry.version_files import VersionFiles

WITHIN_S = 30.0
"""How long replicas may take to notice, test and load the version."""
AGREEING = 20
"""Answers in a row that must name the version; each uses a new connection, so that all replicas are likely asked."""
PAUSE_S = 0.05
TIMEOUT_S = 5.0


async def confirm(registry: ModelRegistry, version: str, within_s: float = WITHIN_S) -> list[str]:
    """Where the version is not live as published, a line each; empty if all is well. What cannot be asked is a warning.

    Args:
        within_s: how long replicas may take.
    """
    problems = []
    state, say = registry.state, registry.say
    live = await current(registry.database)
    if live != version:
        problems.append(f"in the database {live} is live, not {version}")
    try:
        parts = await VersionFiles(state).fetch_parts(version)  # from the directory, which Redis is compared with
        bundle = await asyncio.to_thread(parts.bundle)
    except (ModelRefused, ModelUnavailable) as error:
        return [*problems, str(error)]
    if (redis_url := registry.files.redis.url) is not None:
        problems += await _redis(redis_url, version, bundle, say)
    problems += await asyncio.to_thread(_git, state, version, bundle, say)
    return problems + await _replicas(state, version, within_s, say)


async def _redis(url: str, version: str, bundle: str, say: Say) -> list[str]:
    try:
        async with client_of(url) as client:
            pointer, stored, document = await client.mget(CURRENT, redis_key(version), DOCUMENT)
    except (RedisError, OSError) as error:
        say(f"warning: Redis was not compared, it does not answer; the next start fills it: {error}")
        return []
    problems = [] if pointer == version else [f"Redis's {CURRENT} is {pointer}, not {version}"]
    for key, found in ((redis_key(version), stored), (DOCUMENT, document)):
        if found != bundle:
            problems.append(f"Redis's {key} is not what was published")
    return problems


def _git(state: State, version: str, bundle: str, say: Say) -> list[str]:
    registry = repository(state)
    try:
        if git(registry, "show", f"HEAD:{DOCUMENT}") != bundle:
            return [f"the last commit in the Git repository {registry} holds another model than {version}"]
        if (remote := remote_of(registry)) is None:
            return []
    except (OSError, subprocess.SubprocessError) as error:
        return [f"the Git repository {registry} cannot be read: {last_line(error)}"]
    return _pushed(registry, remote, say)


def _pushed(registry: Path, remote: str, say: Say) -> list[str]:
    try:
        head, branch = git(registry, "rev-parse", "HEAD").strip(), git(registry, "symbolic-ref", "HEAD").strip()
        there = git(registry, "ls-remote", remote, branch).split()
    except (OSError, subprocess.SubprocessError) as error:
        say(f"warning: the Git remote {remote} was not compared, it does not answer: {last_line(error)}")
        return []
    return [] if there[:1] == [head] else [f"the Git remote {remote} has not got the last commit of {branch}: push it"]


async def _replicas(state: State, version: str, within_s: float, say: Say) -> list[str]:
    """Asks the system that runs on this state folder, if one does."""
    if (url := _running_url(state)) is None:
        return []
    until, agreed, answered = time.monotonic() + within_s, 0, None
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False, limits=limits) as client:
        while agreed < AGREEING:
            if time.monotonic() > until:
                if answered is None:
                    say(f"warning: nothing answers at {url} within {within_s:g} s: replicas were not checked")
                    return []
                return [f"not live in every replica within {within_s:g} s: {url}/readyz says {answered}"]
            try:
                answer = await client.get(f"{url}/readyz")
                answered = str(answer.json().get("model_version", answer.status_code))
            except (httpx.HTTPError, ValueError):
                agreed = 0
            else:
                agreed = agreed + 1 if answered == version else 0
            if not agreed:
                await asyncio.sleep(PAUSE_S)
    return []


def _running_url(state: State) -> str | None:
    """The URL of the system that runs on this folder; None if none does (`run.json` may be of a killed one)."""
    running = state.running()
    url, pid = running.get("url"), running.get("pid")
    if not isinstance(url, str) or not isinstance(pid, int) or not psutil.pid_exists(pid):
        return None
    return url
