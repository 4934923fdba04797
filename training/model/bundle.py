"""A model version as one signed document (manifest, trees, encoder), and the checks of its signature and hashes."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any, NamedTuple

from db.errors import UserError
from training.features.layout import FEATURES

MANIFEST = "manifest.json"
TREES = "model.txt"
ENCODER = "encoder.json"
FILES = (TREES, ENCODER)
FORMAT = 2


class ModelRefused(UserError):
    """A model version cannot be used and a retry would not help. `reason` says why; the live version stays live."""

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(version, reason)
        self.version, self.reason = version, reason

    def __str__(self) -> str:
        return f"model {self.version} refused: {self.reason}"


class ModelUnavailable(UserError):
    """A model version could not be read or tested just now; it may be good, so try again. `reason` says why."""

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(version, reason)
        self.version, self.reason = version, reason

    def __str__(self) -> str:
        return f"model {self.version} is not available just now: {self.reason}"


class Parts(NamedTuple):
    """A version as it was read; `vouch` checks that it is complete and signed with our key."""

    manifest: Any  # with its signature
    texts: dict[str, str]  # of all FILES

    @property
    def body(self) -> dict[str, Any]:
        """The manifest without its signature."""
        return {field: value for field, value in self.manifest.items() if field != "signature"}

    def bundle(self) -> str:
        """As one document, `roas_model.json`.

        Raises:
            ModelRefused: the manifest holds a value that is not JSON, such as NaN.
        """
        return self._dumped({"manifest": self.manifest, "files": self.texts})

    def files(self) -> dict[str, str]:
        """As the files of a directory: file name → text, the manifest last.

        Raises:
            ModelRefused: as `bundle`.
        """
        return self.texts | {MANIFEST: self._dumped(self.manifest)}

    def _dumped(self, document: Any) -> str:
        try:
            return dump(document)
        except (ValueError, RecursionError):
            version = self.manifest.get("version") if isinstance(self.manifest, dict) else "?"
            raise ModelRefused(str(version), f"{MANIFEST} is not JSON") from None


def parts_in(bundle: str | bytes, version: str | None) -> Parts:
    """What a bundle holds, unchecked.

    Raises:
        ModelRefused: it is not a bundle.
    """
    try:
        document = json.loads(bundle)
        return Parts(document["manifest"], {file: document["files"][file] for file in FILES})
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelRefused(version or "?", "this is not a model bundle that this program can read") from None


def vouch(manifest: Any, texts: dict[str, str], key: bytes, version: str | None) -> dict[str, Any]:
    """The manifest without its signature, after checking signature, version, format and the files' hashes.

    Args:
        key: that manifests are signed with.
        version: the one that is expected; None: any.

    Raises:
        ModelRefused: one of them does not match.
    """
    name = version or "?"
    if not isinstance(manifest, dict) or not isinstance(manifest.get("signature"), str):
        raise ModelRefused(name, "the manifest has no signature")
    body = {field: value for field, value in manifest.items() if field != "signature"}
    if not hmac.compare_digest(_signature(body, key), manifest["signature"].encode("ascii", "replace").decode()):
        raise ModelRefused(name, "the manifest's signature does not match the model key (PACELINE_MODEL_KEY)")
    name = str(body.get("version"))
    if version is not None and name != version:
        raise ModelRefused(version, f"the files are those of version {name}")
    if body.get("format") != FORMAT or body.get("features") != list(FEATURES):
        raise ModelRefused(name, "it was made for another release of this program; train a new one")
    named = body.get("files")
    for file in FILES:
        if not isinstance(texts[file], str) or not isinstance(named, dict) or _digest(texts[file]) != named.get(file):
            raise ModelRefused(name, f"{file} is damaged: its sha256 is not the one in the manifest")
    return body


def _digest(text: str) -> str | None:
    """The text's sha256; None for text that UTF-8 cannot encode, which JSON can contain."""
    try:
        return sha256(text)
    except UnicodeEncodeError:
        return None


def dump(document: Any) -> str:
    """Canonical JSON: equal documents give the same text.

    Raises:
        ValueError: it holds NaN or an infinity.
    """
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256(text: str) -> str:
    """SHA-256 of the text in UTF-8, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def _signature(body: dict[str, Any], key: bytes) -> str:
    return hmac.new(key, json.dumps(body, sort_keys=True, separators=(",", ":")).encode(), "sha256").hexdigest()


def signed(manifest: dict[str, Any], key: bytes) -> dict[str, Any]:
    """The manifest with its signature."""
    return manifest | {"signature": _signature(manifest, key)}
