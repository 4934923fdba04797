"""Copies of what is published: Redis for nodes without the folder, Git for the record. Neither decides what is live."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from db.files import atomic_write
from db.state import State
from training.model.bundle import ModelUnavailable
from training.progress import Say
from training.settings import model_settings

CURRENT = "roas_model:current"
DOCUMENT = "roas_model.json"
"""The live version's bundle: the file in Git, and a key in Redis."""
REDIS_TIMEOUT_S = 5.0
GIT_TIMEOUT_S = 60.0
IDENTITY = {
    "GIT_AUTHOR_NAME": "Paceline",
    "GIT_AUTHOR_EMAIL": "paceline@localhost",
    "GIT_COMMITTER_NAME": "Paceline",
    "GIT_COMMITTER_EMAIL": "paceline@localhost",
}


def redis_key(version: str) -> str:
    """Where Redis holds a version's bundle."""
    return f"roas_model:{version}"


def repository(state: State) -> Path:
    """The Git repository that gets each published bundle: `PACELINE_MODEL_REGISTRY`, else the state folder's."""
    return model_settings().registry or state.registry


class RedisCopies:
    """The bundles of accepted versions, one of them pointed at as the live one.

    Args:
        url: None: there is no Redis; nothing is kept, and nothing is found.
    """

    def __init__(self, url: str | None, say: Say) -> None:
        self.url, self._say = url, say

    async def get(self, version: str) -> str | None:
        """The version's bundle, unchecked.

        Raises:
            ModelUnavailable: Redis does not answer.
        """
        if self.url is None:
            return None
        try:
            async with client_of(self.url) as client:
                stored = await client.get(redis_key(version))
        except (RedisError, OSError) as error:
            reason = f"not whole in the state folder, and Redis does not answer: {error}"
            raise ModelUnavailable(version, reason) from None
        except UnicodeDecodeError:
            return None  # as good as none
        return None if stored is None else str(stored)

    async def put(self, version: str, bundle: str) -> None:
        """Keep a published version; a Redis that is away is a warning, here and below."""
        await self._set({redis_key(version): bundle})

    async def make_current(self, version: str, bundle: str) -> None:
        """Keep it, as the live one: the pointer goes with what it points at."""
        await self._set({redis_key(version): bundle, DOCUMENT: bundle, CURRENT: version})

    async def remove(self, versions: Sequence[str]) -> None:
        """Forget these versions' bundles."""
        if self.url is None or not versions:
            return
        try:
            async with client_of(self.url) as client:
                await client.unlink(*map(redis_key, versions))
        except (RedisError, OSError) as error:
            self._say(f"warning: Redis keeps its old models ({error})")

    async def _set(self, values: dict[str, str]) -> None:
        """In one transaction."""
        if self.url is None:
            return
        try:
            async with client_of(self.url) as client, client.pipeline(transaction=True) as pipe:
                for key, value in values.items():
                    pipe.set(key, value)
                await pipe.execute()
        except (RedisError, OSError) as error:
            self._say(f"warning: Redis did not take the model ({error}); the database and the folder have it")


def client_of(url: str) -> Any:
    """A client that gives up after a while, and reads text."""
    return redis.asyncio.from_url(
        url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S, decode_responses=True
    )


def to_git(state: State, version: str, bundle: str, say: Say) -> None:
    """One commit a version; pushed where a remote is set. The same version again changes nothing.

    Only the holder of the night's lock calls it: what a killed night left locked in the state folder's own repository
    belongs to nobody.
    """
    registry = repository(state)
    try:
        registry.mkdir(parents=True, exist_ok=True)
        if not _is_repository(registry):
            git(registry, "init", "--quiet", "--initial-branch=main")
        if registry == state.registry:
            for left in (registry / ".git").rglob("*.lock"):
                left.unlink(missing_ok=True)
        atomic_write(registry / DOCUMENT, bundle)
        git(registry, "add", "--force", DOCUMENT)
        if git(registry, "status", "--porcelain", "--", DOCUMENT):
            words = ("-m", f"Model {version}", "--", DOCUMENT)
            git(registry, "commit", "--quiet", "--no-verify", "--no-gpg-sign", *words)
        if (remote := remote_of(registry)) is not None:
            git(registry, "push", "--quiet", remote, "HEAD")
    except (OSError, subprocess.SubprocessError) as error:
        say(f"warning: the model registry in Git did not take {version}: {last_line(error)}")


def remote_of(registry: Path) -> str | None:
    """The remote that is pushed to: the first; None where none is set."""
    return next(iter(git(registry, "remote").split()), None)


def _is_repository(folder: Path) -> bool:
    try:
        git(folder, "rev-parse", "--git-dir")
    except subprocess.CalledProcessError:
        return False
    return True


def last_line(error: Exception) -> str:
    """What Git, or the system, says of a failure."""
    output = getattr(error, "stderr", None)
    return (output.strip().splitlines() or [str(error)])[-1] if isinstance(output, str) else str(error)


def git(registry: Path, *arguments: str) -> str:
    """Run Git in that repository.

    Returns:
        What it prints.

    Raises:
        OSError, subprocess.SubprocessError: it cannot, in time.
    """
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
