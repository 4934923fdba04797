"""The files of published versions: a directory each in the state folder, and Redis's copy where that one is lost.

A directory appears by one rename. One that was damaged is made anew from Redis's copy.
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
"""A directory that is still being written after so long is nobody's."""


def model_key(state: State) -> bytes:
    """What signs manifests: `PACELINE_MODEL_KEY`, else the state folder's, made on first use."""
    given = model_settings().key
    if given is not None:
        return given.get_secret_value().encode()
    return secret_file(state.model_key).encode()


class VersionFiles:
    """What this node can have of the published versions; which of them is live, the database says.

    Args:
        redis_url: where copies are; None: nowhere.
    """

    def __init__(self, state: State, redis_url: str | None = None, say: Say = print) -> None:
        self.state, self.redis, self._say = state, RedisCopies(redis_url, say), say

    def save(self, version: str, parts: Parts) -> None:
        """The version's directory, written unless it is there and whole: replicas may be reading it.

        Raises:
            OSError: it cannot be written.
        """
        with contextlib.suppress(ModelRefused, ModelUnavailable):
            if parts_of(self.state.models / version).files() == parts.files():
                return
        write_version(self.state.models, version, parts)

    def verify_ahead(self, parts: Parts) -> None:
        """Find out now what this node's replicas will want to know of a version once it is live.

        Raises:
            ModelRefused: it does not work in a process of its own.
            ModelUnavailable: it could not be tried just now.
        """
        SandboxCache.of(self.state, model_key(self.state)).verify_ahead(parts.body, parts.texts)

    async def fetch(self, version: str, *, verify: bool = True) -> Model:
        """A version for serving: from its directory, else from Redis (a node without the folder, or a damaged one).

        Args:
            verify: have a child process predict its golden rows first, unless one has done so on this node.

        Raises:
            ModelRefused: neither holds it as it was published, or it does not work here.
            ModelUnavailable: a place that may hold it, or the check of its golden rows, failed for now.
        """
        parts, _ = await self._whole(version)
        return await asyncio.to_thread(self._opened, parts, verify)

    async def fetch_parts(self, version: str) -> Parts:
        """What `fetch` finds where a replica can load it.

        Raises:
            ModelRefused, ModelUnavailable: as `fetch`.
        """
        parts, _ = await self._whole(version)
        await asyncio.to_thread(self._opened, parts, True)
        return parts

    async def intact_bundle(self, version: str) -> str:
        """The bundle of a version that can go live: whole, and tried where it is to be served. Where its directory is
        damaged or missing, that is made anew from Redis's copy.

        Raises:
            ModelRefused, ModelUnavailable: as `fetch`.
        """
        parts, damage = await self._whole(version)
        await asyncio.to_thread(self.verify_ahead, parts)
        if damage is not None:
            try:
                await asyncio.to_thread(Model.opened, parts.body, parts.texts)  # what cannot be read is not kept
                await asyncio.to_thread(write_version, self.state.models, version, parts)
                self._say(f"warning: {damage}; its directory is made anew from Redis's copy")
            except OSError as error:
                self._say(f"warning: {damage}; Redis has it, but its directory cannot be made anew: {error}")
        return await asyncio.to_thread(parts.bundle)

    async def tell_redis(self, version: str) -> None:
        """That this version is live, once more.

        Raises:
            ModelRefused, ModelUnavailable: as `fetch`.
        """
        parts, _ = await self._whole(version)
        await self.redis.make_current(version, await asyncio.to_thread(parts.bundle))

    async def remove(self, versions: Sequence[str]) -> None:
        """The directories of these versions, and Redis's copies."""
        for version in versions:
            await asyncio.to_thread(shutil.rmtree, self.state.models / version, ignore_errors=True)
        await self.redis.remove(versions)

    def remove_drafts(self) -> None:
        """Directories that nobody is writing any more: whoever did was killed."""
        for draft in self.state.models.glob(".*"):
            with contextlib.suppress(OSError):
                if draft.stat().st_mtime < time.time() - DRAFT_S:
                    shutil.rmtree(draft)

    async def _whole(self, version: str) -> tuple[Parts, Exception | None]:
        """(what was published, why it comes from Redis); golden rows are not looked at.

        Raises:
            ModelRefused, ModelUnavailable: as `fetch`.
        """
        try:
            key = model_key(self.state)
        except OSError as error:
            reason = f"the key of its signature cannot be read: {error.strerror or error}"
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
