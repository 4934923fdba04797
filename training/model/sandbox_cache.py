"""Each version is tried once on a node, whoever asks: a child process predicts its golden rows, the rest take its word.

What was found lies in a folder of the node, one file a version, named by what the manifest's signature covers and
signed with the key of the manifests: a model file cannot speak for itself. Whoever comes while a child is at work waits
at the lock, which the system takes back from a process that dies. What could not be asked is not remembered.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import json
import os
from collections.abc import Callable, Iterator
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock, Timeout

from db.files import atomic_write
from db.state import State
from training.model.bundle import ModelRefused, ModelUnavailable
from training.model.sandbox import ResourceLimits, verify_in_child
from training.program import digest
from training.trees.tree_format import NotCompilable

if TYPE_CHECKING:
    from training.trees.bitvector_tables import Prepared

Verify = Callable[[dict[str, Any], dict[str, str]], "Prepared"]
MOST_FINDINGS = 32
"""Findings; one takes about as much as the version's trees."""
LOOK_AGAIN_S = 0.02
LOCK = "lock"


class Finding(NamedTuple):
    """What became of a version in a child process."""

    refusal: str | None
    prepared: Prepared


class SandboxCache:
    """A node's memory of what works on it.

    Args:
        folder: of this node, not shared with others.
        key: of the manifests' signatures.
        in_child: what is done where nothing is known yet.
    """

    def __init__(self, folder: Path, key: bytes, in_child: Verify = verify_in_child) -> None:
        self._folder, self._key, self._in_child = folder, key, in_child

    @classmethod
    def of(cls, state: State, key: bytes) -> SandboxCache:
        """Of this node."""
        return cls(state.scratch / "checked", key)

    def verify_ahead(self, manifest: dict[str, Any], texts: dict[str, str]) -> None:
        """Find out now what this node's replicas will want to know; nothing where nobody serves.

        Raises:
            ModelRefused, ModelUnavailable: as `verify`.
        """
        if self._folder.parent.exists():
            self.verify(manifest, texts)

    def verify(self, manifest: dict[str, Any], texts: dict[str, str]) -> Prepared:
        """
        Args:
            manifest, texts: as `vouch` vouches for them.

        Returns:
            What the child has made of the texts for those who load them.

        Raises:
            ModelRefused: it does not work here, as was found now or earlier.
            ModelUnavailable: it could not be tried just now.
        """
        name = self._name(manifest)
        version = str(manifest.get("version"))
        if (found := self._known(name)) is None:
            try:
                self._make_folder()
            except OSError:  # a full disk, another user's folder: then every replica finds out for itself
                return self._in_child(manifest, texts)
            with self._alone(version, ResourceLimits.of(texts).wall_s):
                if (found := self._known(name)) is None:  # else the one before has just found it
                    found = self._found(manifest, texts)
                    with contextlib.suppress(OSError):
                        self._remember(name, found)
        if found.refusal is not None:
            raise ModelRefused(version, found.refusal)
        return found.prepared

    def _found(self, manifest: dict[str, Any], texts: dict[str, str]) -> Finding:
        """Raises: ModelUnavailable."""
        try:
            return Finding(None, self._in_child(manifest, texts))
        except ModelRefused as error:
            return Finding(error.reason, {})

    def _name(self, manifest: dict[str, Any]) -> str:
        """Of the version's content and of everything that judges it: another program may find otherwise."""
        content = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(f"{program()}\n{content}".encode()).hexdigest()

    @contextlib.contextmanager
    def _alone(self, version: str, wait_s: float) -> Iterator[None]:
        """Nobody else on the node asks meanwhile: one child at a time.

        Raises:
            ModelUnavailable: somebody else does, for too long.
        """
        lock = FileLock(self._folder / LOCK, timeout=wait_s, mode=0o600)
        try:
            lock.acquire(poll_interval=LOOK_AGAIN_S)
        except Timeout:
            raise ModelUnavailable(version, "another check has taken too long on this node") from None
        try:
            yield
        finally:
            lock.release()

    def _known(self, name: str) -> Finding | None:
        """None: nothing is known, or nothing that we have said."""
        try:
            data = (self._folder / name).read_bytes()
        except OSError:
            return None
        mac, _, content = data.partition(b"\n")
        if not hmac.compare_digest(mac, self._mac(name, content)):
            return None
        head, _, arrays = content.partition(b"\n")
        refusal: str | None = json.loads(head)["refusal"]
        if refusal is not None:
            return Finding(refusal, {})
        from training.trees.bitvector_tables import unpacked

        try:
            return Finding(None, unpacked(arrays))
        except NotCompilable:
            return None

    def _remember(self, name: str, found: Finding) -> None:
        from training.trees.bitvector_tables import packed

        content = json.dumps({"refusal": found.refusal}).encode() + b"\n" + packed(found.prepared)
        atomic_write(self._folder / name, self._mac(name, content) + b"\n" + content)
        self._forget_old()

    def _forget_old(self) -> None:
        found = [path for path in self._folder.iterdir() if path.name != LOCK]
        newest_last = sorted(found, key=lambda path: path.stat().st_mtime)
        for path in newest_last[:-MOST_FINDINGS]:
            path.unlink(missing_ok=True)

    def _make_folder(self) -> None:
        """
        Raises:
            OSError: there is no place for it, or it is somebody else's.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if self._folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{self._folder} belongs to another user")

    def _mac(self, name: str, content: bytes) -> bytes:
        return hmac.new(self._key, f"checked {name}\n".encode() + content, "sha256").hexdigest().encode()


@functools.cache
def program() -> str:
    """This program's name for what it finds: other code or another LightGBM has to find out anew."""
    return f"{digest()} lightgbm {installed('lightgbm')} numpy {installed('numpy')}"
