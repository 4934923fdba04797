"""Reads and writes the files of published versions: a directory in the state folder each, with a copy in Redis.

A directory appears by one rename, so it is never half-written. A damaged one is restored from Redis's copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Sequence

from db.state import State, secret_file
from training.model.bundle import ModelRefused, ModelUnavailable, Parts, parts_in, vouch
from training.model.model import Model
from training.model.sandbox_cache import SandboxCache
from training.model.store import parts_of, write_version
from training.progress import Say
from training.registry.replication import RedisCopies
from training.settings import model_settings

DRAFT_S = 3600.0
"""A directory that is still incomplete after this time was left by a killed process."""


def model_key(state: State) -> bytes:
    """The key that signs manifests: `PACELINE_MODEL_KEY`, else the state folder's, made on first use.

    Raises:
        OSError: the state folder's key cannot be read or written.
    """
    given = model_settings().key
    if given is not None:
        return given.get_secret_value().encode()
    return secret_file(state.model_key).encode()


class VersionFiles:
    """The published versions that this node can read. (Which of them is live is in the database.)

    Args:
        redis_url: where copies are; None: nowhere.
    """

    def __init__(self, state: State, redis_url: str | None = None, say: Say = print) -> None:
        self.state, self.redis, self._say = state, RedisCopies(redis_url, say), say

    def save(self, version: str, parts: Parts) -> None:
        """Write the version's directory, unless it is complete already: replicas may be reading it.

        Raises:
            OSError: it cannot be written.
        """
        with contextlib.suppress(ModelRefused, ModelUnavailable):
            if parts_of(self.state.models / version).files() == parts.files():
                return
        write_version(self.state.models, version, parts)

    def verify_ahead(self, parts: Parts) -> None:
        """Test a version now, so that this node's replicas find the result when it goes live.

        Raises:
            ModelRefused: it failed its test in a child process.
            ModelUnavailable: it could not be tested just now.
        """
        SandboxCache.of(self.state, model_key(self.state)).verify_ahead(parts.body, parts.texts)

    async def fetch(self, version: str, *, verify: bool = True) -> Model:
        """Load a version for serving: from its directory, else from Redis (on a node without the folder, or if the
        directory is damaged).

        Args:
            verify: test it in a child process first, unless that was done on this node.

        Raises:
            ModelRefused: neither holds it as published, or it failed its test.
            ModelUnavailable: the directory or Redis cannot be read just now, or the test could not run.
        """
        parts, _ = await self._whole(version)
        return await asyncio.to_thread(self._opened, parts, verify)

    async def fetch_parts(self, version: str) -> Parts:
        """The files of a version that a replica on this node can load.

        Raises:
            ModelRefused, ModelUnavailable: as `fetch`.
        """
        parts, _ = await self._whole(version)
        await asyncio.to_thread(self._opened, parts, True)
        return parts

    async def intact_bundle(self, version: str) -> str:
        """The bundle of a version that can go live: complete, and tested on this node if it serves. A missing or
        damaged directory is restored from Redis's copy.

        Raises:
            ModelRefused, ModelUnavailable: as `fetch`.
        """
        parts, damage = await self._whole(version)
        await asyncio.to_thread(self.verify_ahead, parts)
        if damage is not None:
            try:
                await asyncio.to_thread(Model.opened, parts.body, parts.texts)  # nothing unreadable is written
                await asyncio.to_thread(write_version, self.state.models, version, parts)
                self._say(f"warning: {damage}; its directory was restored from Redis's copy")
            except OSError as error:
                self._say(f"warning: {damage}; Redis has a copy, but the directory cannot be restored: {error}")
        return await asyncio.to_thread(parts.bundle)

    async def tell_redis(self, version: str) -> None:
        """Write again into Redis that this version is live.

        Raises:
            ModelRefused, ModelUnavailable: as `fetch`.
        """
        parts, _ = await self._whole(version)
        await self.redis.make_current(version, await asyncio.to_thread(parts.bundle))

    async def remove(self, versions: Sequence[str]) -> None:
        """Delete the directories of these versions, and Redis's copies."""
        for version in versions:
            await asyncio.to_thread(shutil.rmtree, self.state.models / version, ignore_errors=True)
        await self.redis.remove(versions)

    def remove_drafts(self) -> None:
        """Delete incomplete directories that were left by killed processes."""
        for draft in self.state.models.glob(".*"):
            with contextlib.suppress(OSError):
                if draft.stat().st_mtime < time.time() - DRAFT_S:
                    shutil.rmtree(draft)

    async def _whole(self, version: str) -> tuple[Parts, Exception | None]:
        """(the version's files as published, why they had to come from Redis or None); it is not tested.

        Raises:
            ModelRefused, ModelUnavailable: as `fetch`.
        """
        try:
            key = model_key(self.state)
        except OSError as error:
            reason = f"the key that signs models cannot be read: {error.strerror or error}"
            raise ModelUnavailable(version, reason) from None
        try:
            parts = await asyncio.to_thread(parts_of, self.state.models / version)
            await asyncio.to_thread(vouch, *parts, key, version)
            return parts, None
        except (ModelRefused, ModelUnavailable) as error:
            damage = error
        stored = await self.redis.get(version)
        if stored is None:
            raise damage
        try:
            parts = await asyncio.to_thread(parts_in, stored, version)
            await asyncio.to_thread(vouch, *parts, key, version)
        except ModelRefused:
            raise damage from None
        return parts, damage

    def _opened(self, parts: Parts, verify: bool) -> Model:
        cache = SandboxCache.of(self.state, model_key(self.state))
        prepared = cache.verify(parts.body, parts.texts) if verify else None
        return Model.opened(parts.body, parts.texts, prepared)
