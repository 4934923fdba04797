"""Copies published versions to Redis (for nodes without the folder) and Git (for the record); neither decides what is
live."""

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
    """The key under which Redis holds a version's bundle."""
    return f"roas_model:{version}"


def repository(state: State) -> Path:
    """The Git repository that gets each published bundle: `PACELINE_MODEL_REGISTRY`, else the state folder's."""
    return model_settings().registry or state.registry


class RedisCopies:
    """The bundles of accepted versions in Redis, and the pointer to the live one.

    Args:
        url: None: there is no Redis; nothing is stored, and nothing is found.
    """

    def __init__(self, url: str | None, say: Say) -> None:
        self.url, self._say = url, say

    async def get(self, version: str) -> str | None:
        """The version's bundle, unchecked; None if Redis has none.

        Raises:
            ModelUnavailable: Redis does not answer.
        """
        if self.url is None:
            return None
        try:
            async with client_of(self.url) as client:
                stored = await client.get(redis_key(version))
        except (RedisError, OSError) as error:
            reason = f"its files in the state folder are missing or damaged, and Redis does not answer: {error}"
            raise ModelUnavailable(version, reason) from None
        except UnicodeDecodeError:
            return None  # not a bundle
        return None if stored is None else str(stored)

    async def put(self, version: str, bundle: str) -> None:
        """Store a published version; if Redis does not answer, that is a warning, here and below."""
        await self._set({redis_key(version): bundle})

    async def make_current(self, version: str, bundle: str) -> None:
        """Store it and point to it as the live one, in one transaction."""
        await self._set({redis_key(version): bundle, DOCUMENT: bundle, CURRENT: version})

    async def remove(self, versions: Sequence[str]) -> None:
        """Delete these versions' bundles."""
        if self.url is None or not versions:
            return
        try:
            async with client_of(self.url) as client:
                await client.unlink(*map(redis_key, versions))
        except (RedisError, OSError) as error:
            self._say(f"warning: Redis keeps its old models, the next night tries again to delete them: {error}")

    async def _set(self, values: dict[str, str]) -> None:
        """Set these keys in one transaction; if Redis does not answer, that is a warning."""
        if self.url is None:
            return
        try:
            async with client_of(self.url) as client, client.pipeline(transaction=True) as pipe:
                for key, value in values.items():
                    pipe.set(key, value)
                await pipe.execute()
        except (RedisError, OSError) as error:
            self._say(
                f"warning: the model was not copied to Redis, so nodes without the state folder cannot load it until "
                f"the next start: {error}"
            )


def client_of(url: str) -> Any:
    """A Redis client with timeouts that returns text."""
    return redis.asyncio.from_url(
        url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S, decode_responses=True
    )


def to_git(state: State, version: str, bundle: str, say: Say) -> None:
    """Commit a version, and push it if there is a remote. The same version again changes nothing.

    Called only while the night's lock is held, so that Git's lock files in the state folder's own repository are those
    of a killed night and can be removed.
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
        say(
            f"warning: model {version} was not committed to the Git repository {registry}, or not pushed; "
            f"it can go live all the same: {last_line(error)}"
        )


def remote_of(registry: Path) -> str | None:
    """The remote that is pushed to, the first one; None if there is none."""
    return next(iter(git(registry, "remote").split()), None)


def _is_repository(folder: Path) -> bool:
    try:
        git(folder, "rev-parse", "--git-dir")
    except subprocess.CalledProcessError:
        return False
    return True


def last_line(error: Exception) -> str:
    """The last line of what Git, or the operating system, says of a failure."""
    output = getattr(error, "stderr", None)
    return (output.strip().splitlines() or [str(error)])[-1] if isinstance(output, str) else str(error)


def git(registry: Path, *arguments: str) -> str:
    """Run Git in that repository.

    Returns:
        Its standard output.

    Raises:
        OSError, subprocess.SubprocessError: it failed, or took longer than GIT_TIMEOUT_S.
    """
    # A repository that contains the state folder must not be taken for the registry, nor a hook's environment be used.
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
