"""Remembers the result of a version's sandbox test, so that each node tests each version once for all its replicas.

Results are files in a folder of the node, one per version, named by a hash of the manifest and signed with the model
key, so that a model file cannot claim to have passed. While a test runs, other processes wait for a lock, which the
operating system releases if its holder dies. A test that could not run leaves no result.
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
"""Results that are kept; one is about as large as the version's trees."""
LOOK_AGAIN_S = 0.02
LOCK = "lock"


class Finding(NamedTuple):
    """The result of a version's test."""

    refusal: str | None  # why it cannot be used; None: it can
    prepared: Prepared


class SandboxCache:
    """The test results of one node.

    Args:
        folder: of this node, not shared with others.
        key: signs manifests, and the results.
        in_child: tests a version that has no result yet.
    """

    def __init__(self, folder: Path, key: bytes, in_child: Verify = verify_in_child) -> None:
        self._folder, self._key, self._in_child = folder, key, in_child

    @classmethod
    def of(cls, state: State, key: bytes) -> SandboxCache:
        """The cache of this node."""
        return cls(state.scratch / "checked", key)

    def verify_ahead(self, manifest: dict[str, Any], texts: dict[str, str]) -> None:
        """Test a version before this node's replicas need the result; nothing is done on a node without replicas.

        Raises:
            ModelRefused, ModelUnavailable: as `verify`.
        """
        if self._folder.parent.exists():
            self.verify(manifest, texts)

    def verify(self, manifest: dict[str, Any], texts: dict[str, str]) -> Prepared:
        """Test a version, unless this node has done so before.

        Args:
            manifest, texts: as checked by `vouch`.

        Returns:
            The compiled tables of the texts, for loading the version.

        Raises:
            ModelRefused: it failed its test, now or earlier.
            ModelUnavailable: it could not be tested just now.
        """
        name = self._name(manifest)
        version = str(manifest.get("version"))
        if (found := self._known(name)) is None:
            try:
                self._make_folder()
            except OSError:  # a full disk, another user's folder: then every replica tests for itself
                return self._in_child(manifest, texts)
            with self._alone(version, ResourceLimits.of(texts).wall_s):
                if (found := self._known(name)) is None:  # else the previous holder of the lock has just tested it
                    found = self._found(manifest, texts)
                    with contextlib.suppress(OSError):
                        self._remember(name, found)
        if found.refusal is not None:
            raise ModelRefused(version, found.refusal)
        return found.prepared

    def _found(self, manifest: dict[str, Any], texts: dict[str, str]) -> Finding:
        """Test the version; a refusal is a result. Raises: ModelUnavailable, the test could not run."""
        try:
            return Finding(None, self._in_child(manifest, texts))
        except ModelRefused as error:
            return Finding(error.reason, {})

    def _name(self, manifest: dict[str, Any]) -> str:
        """A result's file name: a hash of the manifest and of this program: another release may judge otherwise."""
        content = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(f"{program()}\n{content}".encode()).hexdigest()

    @contextlib.contextmanager
    def _alone(self, version: str, wait_s: float) -> Iterator[None]:
        """Hold the node's lock: one test at a time.

        Raises:
            ModelUnavailable: another process held it for longer than `wait_s`.
        """
        lock = FileLock(self._folder / LOCK, timeout=wait_s, mode=0o600)
        try:
            lock.acquire(poll_interval=LOOK_AGAIN_S)
        except Timeout:
            reason = f"another model's test on this node has not ended within {wait_s:g} s"
            raise ModelUnavailable(version, reason) from None
        try:
            yield
        finally:
            lock.release()

    def _known(self, name: str) -> Finding | None:
        """The stored result; None if there is none, or none with our signature."""
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
            OSError: the folder cannot be made, or belongs to another user.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if self._folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{self._folder} belongs to another user")

    def _mac(self, name: str, content: bytes) -> bytes:
        return hmac.new(self._key, f"checked {name}\n".encode() + content, "sha256").hexdigest().encode()


@functools.cache
def program() -> str:
    """Identifies this program and its libraries: results of other code or of another LightGBM do not count."""
    return f"{digest()} lightgbm {installed('lightgbm')} numpy {installed('numpy')}"
