"""A model version is one object: encoder + trees + calibration + version. It travels as one signed bundle.

On disk a version is a directory (`manifest.json`, `model.txt`, `encoder.json`), in Redis and Git one JSON
document (`roas_model.json`) with the same content. The manifest names each file's sha256 and is signed; nothing
is given to LightGBM before signature and hashes agree, because a mutilated file aborts the process that loads it.
"""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import hmac
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from training.arrays import Floats, Integers, Singles
from training.features import FEATURES, Confidence, Encoder
from training.trees import Form, NotCompilable, Reference, Trees, fastest, reference

if TYPE_CHECKING:
    from training.tables import Prepared

MANIFEST = "manifest.json"
TREES = "model.txt"
ENCODER = "encoder.json"
FILES = (TREES, ENCODER)
FORMAT = 2
GOLDEN_ROWS = 32
GOLDEN_TOLERANCE = 1e-5
HISTORY = "history"
LEAST_EXPECTATION_MICROS = 1e-9
"""Nothing has a logarithm."""
MOST_BYTES = 1 << 30
"""Of one file."""
REFUSED = 3
"""The child's exit code."""
KILLED = (-signal.SIGKILL, -signal.SIGTERM)
"""Nothing kills itself like this: memory ran out, or somebody stops the system."""


class ModelRefused(Exception):
    """A model version cannot be used, now or later. The text says why; the last good one stays."""

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(version, reason)
        self.version, self.reason = version, reason

    def __str__(self) -> str:
        return f"model {self.version} refused: {self.reason}"


class ModelUnavailable(Exception):
    """A model version could not be had just now, which says nothing against it: try again."""

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(version, reason)
        self.version, self.reason = version, reason

    def __str__(self) -> str:
        return f"model {self.version} is not available: {self.reason}"


@dataclass(frozen=True, slots=True)
class Columns:
    """Bids as columns, n of each."""

    brand_id: Sequence[str]
    partner_id: Sequence[str]
    slot_id: Sequence[str]
    device_type: Sequence[str]
    creative_type: Sequence[str]
    placement_score: Floats  # NaN for none
    at: Integers | None = None  # UTC seconds since 1970

    @classmethod
    def of(cls, ids: Sequence[Sequence[str]], placement_score: Floats, at: Integers | None = None) -> Columns:
        """From five columns of ids, in the order of the fields."""
        brand_id, partner_id, slot_id, device_type, creative_type = ids
        return cls(brand_id, partner_id, slot_id, device_type, creative_type, placement_score, at)

    @property
    def ids(self) -> tuple[Sequence[str], ...]:
        return (self.brand_id, self.partner_id, self.slot_id, self.device_type, self.creative_type)

    def __len__(self) -> int:
        return len(self.brand_id)


class Prediction(NamedTuple):
    """(n,) expectations of one impression."""

    revenue_micros: Floats
    ctr: Floats
    cvr: Floats  # conversions per impression
    impressions: Floats  # of the tuple's own history, decayed; 0 where one of its ids is new there


class Explanation(NamedTuple):
    names: tuple[str, ...]
    contributions: Floats  # (n, len(names)), log of revenue
    base: Floats  # (n,); base + Σ contributions = log(revenue_micros)


class Model:
    """Make one with `assemble`, `load` or `from_bundle`; swap it by one reference."""

    def __init__(
        self,
        manifest: dict[str, Any],
        reference: Reference,
        encoder: Encoder,
        trees: Trees | None = None,
        form: Form = fastest,
    ) -> None:
        """
        Args:
            reference: the trees.
            trees: the same in another form; None makes what `form` makes of them.
            form: by default the fastest that agrees with the reference on the golden rows.
        """
        self.manifest = manifest
        self.version: str = manifest["version"]
        self.trained_through = dt.date.fromisoformat(manifest["trained_through"])
        self.simulated: bool = manifest["simulated"]
        self.encoder = encoder
        self.reference = reference
        self.trees = trees or form(reference, _rows(encoder, golden_columns(_golden_ids(encoder))))
        self._factor: float = manifest["calibration"]

    @classmethod
    def assemble(
        cls,
        reference: Reference,
        encoder: Encoder,
        *,
        trained_through: dt.date,
        made_at: dt.datetime,
        simulated: bool = False,
        parent: str | None = None,
        calibration: float = 1.0,
        metrics: dict[str, Any] | None = None,
        lambda_: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
    ) -> Self:
        """A version from freshly fitted parts; its golden rows are its own predictions."""
        trees_text = reference.text
        encoder_text = _dump(encoder.to_document())
        digest = hashlib.sha256((trees_text + encoder_text).encode()).hexdigest()
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "version": f"{made_at.astimezone(dt.UTC):%Y%m%dT%H%M%S}-{digest[:6]}",
            "parent": parent,
            "engine": reference.engine,
            "made_at": made_at.astimezone(dt.UTC).isoformat(),
            "trained_through": trained_through.isoformat(),
            "simulated": simulated,
            "features": list(FEATURES),
            "calibration": calibration,
            "training": training or {},
            "metrics": metrics or {},
            "lambda": lambda_ or {},
            "files": {TREES: _sha256(trees_text), ENCODER: _sha256(encoder_text)},
        }
        model = cls(manifest, reference, encoder)
        manifest["golden"] = model._golden()
        return model

    def predict(self, columns: Columns, trees: Trees | None = None) -> Prediction:
        """By the fastest form of the trees, or by the one that is given."""
        rows, heads = self.encoder.encode(columns.ids, columns.placement_score, columns.at)
        revenue = heads[:, 0] * (trees or self.trees).predict(rows) * self._factor
        return Prediction(revenue, heads[:, 1], heads[:, 2], heads[:, 4])

    def cost_micros(self, columns: Columns) -> Floats:
        """(n,) past cost of one impression, NaN where no cost was ever known."""
        return self.encoder.encode(columns.ids, columns.placement_score, columns.at)[1][:, 3]

    def explain(self, columns: Columns) -> Explanation:
        """SHAP values on the scale of log(revenue_micros); the first is what the trees start from: the histories' own
        expectation."""
        rows, heads = self.encoder.encode(columns.ids, columns.placement_score, columns.at)
        raw = self.reference.contributions(rows)
        history = np.log(np.maximum(heads[:, [0]], LEAST_EXPECTATION_MICROS))
        contributions = np.concatenate([history, raw[:, :-1]], axis=1)
        return Explanation((HISTORY, *FEATURES), contributions, raw[:, -1] + np.log(self._factor))

    def confidence(
        self,
        brand_id: str,
        partner_id: str,
        slot_id: str,
        device_type: str,
        creative_type: str,
        placement_score: float | None = None,
    ) -> Confidence:
        """Impressions of history behind a prediction, and the level it was backed off to."""
        return self.encoder.confidence((brand_id, partner_id, slot_id, device_type, creative_type), placement_score)

    def with_manifest(self, **changes: Any) -> Model:
        """The same model with other words in its manifest (metrics, λ, parent)."""
        return Model(self.manifest | changes, self.reference, self.encoder, self.trees)

    def to_bundle(self, key: bytes) -> str:
        """`roas_model.json`: the signed manifest and the files' text in one document."""
        files = {TREES: self.reference.text, ENCODER: _dump(self.encoder.to_document())}
        return _dump({"manifest": _signed(self.manifest, key), "files": files})

    @classmethod
    def from_bundle(cls, bundle: str | bytes, key: bytes, version: str | None = None, *, verify: bool = True) -> Self:
        """Check everything, then load.

        Args:
            version: the one that is wanted; None takes what comes.
            verify: predict the golden rows in a child process first.

        Raises:
            ModelRefused: signature, hash, version, format or golden rows do not agree.
            ModelUnavailable: the child process could not be asked.
        """
        manifest, texts = unpack(bundle, key, version)
        return cls.opened(manifest, texts, verify_in_child(manifest, texts) if verify else None)

    @classmethod
    def opened(cls, manifest: dict[str, Any], texts: dict[str, str], prepared: Prepared | None = None) -> Self:
        """Load what `vouch` vouches for and, unless it was made here, a child process has tried.

        Args:
            prepared: what that process has made of the texts.

        Raises:
            ModelRefused: it cannot be read.
        """
        return cls._open(manifest, texts, partial(fastest, prepared=prepared))

    @classmethod
    def _open(cls, manifest: dict[str, Any], texts: dict[str, str], form: Form) -> Self:
        try:
            encoder = Encoder.from_document(json.loads(texts[ENCODER]))
            return cls(manifest, reference(manifest["engine"], texts[TREES]), encoder, form=form)
        except Exception as error:  # signed nonsense has many ways to fail, and all of them say the same
            said = str(error) if isinstance(error, ValueError) else repr(error)
            raise ModelRefused(str(manifest.get("version")), f"cannot be read: {said}") from None

    def save(self, directory: Path, key: bytes) -> Path:
        """Write `directory/{version}`, visible only when complete and on disk.

        Returns:
            The version's directory.
        """
        final = directory / self.version
        directory.mkdir(parents=True, exist_ok=True)
        draft = directory / f".{self.version}.{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            _write(draft / TREES, self.reference.text)
            _write(draft / ENCODER, _dump(self.encoder.to_document()))
            _write(draft / MANIFEST, _dump(_signed(self.manifest, key)))
            _sync(draft)
            if final.exists():
                shutil.rmtree(final)
            draft.rename(final)
            _sync(directory)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return final

    @classmethod
    def load(cls, directory: Path, key: bytes, *, verify: bool = True) -> Self:
        """From a version's directory.

        Raises:
            ModelRefused: a file is missing, changed or of another version.
            ModelUnavailable: a file cannot be read, or the child process could not be asked.
        """
        return cls.from_bundle(bundle_of(directory), key, directory.name, verify=verify)

    def _golden(self) -> dict[str, Any]:
        """Some of its own tuples and an unknown one, with what it predicts for them."""
        golden = _golden_ids(self.encoder)
        prediction = self.predict(golden_columns(golden))
        return golden | {name: values.tolist() for name, values in prediction._asdict().items()}


def _golden_ids(encoder: Encoder) -> dict[str, Any]:
    picked = np.unique(np.linspace(0, max(len(encoder) - 1, 0), GOLDEN_ROWS - 1).astype(int))
    ids, scores = encoder.tuples(picked[: len(encoder)])
    for column in ids:
        column.append("never-seen")
    return {"ids": ids, "placement_score": [*scores, None]}


def _rows(encoder: Encoder, columns: Columns) -> Singles:
    return encoder.encode(columns.ids, columns.placement_score, columns.at)[0]


def golden_columns(golden: dict[str, Any]) -> Columns:
    scores = np.array([np.nan if score is None else score for score in golden["placement_score"]], np.float64)
    return Columns.of(golden["ids"], scores)


def golden_agrees(model: Model) -> bool:
    """Whether a loaded model predicts for its golden rows what it predicted when it was made, and so does LightGBM."""
    golden = model.manifest["golden"]
    return all(
        np.allclose(values, golden[name], rtol=GOLDEN_TOLERANCE, atol=1e-12)
        for trees in (model.trees, model.reference)
        for name, values in model.predict(golden_columns(golden), trees)._asdict().items()
    )


class Parts(NamedTuple):
    """A version as it was found; `vouch` says whether it is whole and ours."""

    manifest: Any  # with its signature
    texts: dict[str, str]  # of all FILES

    @property
    def body(self) -> dict[str, Any]:
        """The manifest without its signature."""
        return {field: value for field, value in self.manifest.items() if field != "signature"}

    def bundle(self) -> str:
        """As one document."""
        return _dump({"manifest": self.manifest, "files": self.texts})


def parts_in(bundle: str | bytes, version: str | None) -> Parts:
    """What a bundle holds, unchecked.

    Raises:
        ModelRefused: it is none.
    """
    try:
        document = json.loads(bundle)
        return Parts(document["manifest"], {file: document["files"][file] for file in FILES})
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelRefused(version or "?", "the bundle is not a model of this program") from None


def unpack(bundle: str | bytes, key: bytes, version: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    """(manifest, the files' texts) of a bundle that is whole and ours; nothing is loaded.

    Raises:
        ModelRefused: signature, hash, version or format do not agree.
    """
    parts = parts_in(bundle, version)
    return vouch(*parts, key, version), parts.texts


def vouch(manifest: Any, texts: dict[str, str], key: bytes, version: str | None) -> dict[str, Any]:
    """The manifest, once its signature, its version and the files' hashes agree.

    Raises:
        ModelRefused: something does not.
    """
    name = version or "?"
    if not isinstance(manifest, dict) or not isinstance(manifest.get("signature"), str):
        raise ModelRefused(name, "the manifest has no signature")
    body = {field: value for field, value in manifest.items() if field != "signature"}
    if not hmac.compare_digest(_signature(body, key), manifest["signature"].encode("ascii", "replace").decode()):
        raise ModelRefused(name, "the manifest's signature does not match")
    name = str(body.get("version"))
    if version is not None and name != version:
        raise ModelRefused(version, f"this is version {name}")
    if body.get("format") != FORMAT or body.get("features") != list(FEATURES):
        raise ModelRefused(name, "made for another version of this program")
    named = body.get("files")
    for file in FILES:
        if not isinstance(texts[file], str) or not isinstance(named, dict) or _digest(texts[file]) != named.get(file):
            raise ModelRefused(name, f"{file} is not what the manifest names")
    return body


def _digest(text: str) -> str | None:
    """None: JSON can say characters that no file can hold."""
    try:
        return _sha256(text)
    except UnicodeEncodeError:
        return None


def parts_of(directory: Path) -> Parts:
    """What a version's directory holds.

    Raises:
        ModelRefused: a file is missing, is none, or is not text.
        ModelUnavailable: a file is there and cannot be read.
    """
    texts: dict[str, str] = {}
    for file in (MANIFEST, *FILES):
        try:
            texts[file] = _read(directory / file).decode()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ModelRefused(directory.name, f"{file} is missing") from None
        except UnicodeDecodeError as error:
            raise ModelRefused(directory.name, f"{file} is not text: {error}") from None
        except OSError as error:
            kind = ModelRefused if error.errno in (errno.ELOOP, errno.EFBIG) else ModelUnavailable
            raise kind(directory.name, f"{file} cannot be read: {error.strerror or error}") from None
    try:
        return Parts(json.loads(texts.pop(MANIFEST)), texts)
    except (ValueError, RecursionError):
        raise ModelRefused(directory.name, f"{MANIFEST} is not JSON") from None


def _read(path: Path) -> bytes:
    """
    Raises:
        FileNotFoundError: there is nothing, or something else than a file; a pipe is not waited for.
        OSError: it cannot be read, or is too large.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(path)
        if status.st_size > MOST_BYTES:
            raise OSError(errno.EFBIG, f"more than {MOST_BYTES} bytes")
        return file.read()


def bundle_of(directory: Path) -> str:
    """The bundle of a version's directory, unchecked.

    Raises:
        ModelRefused, ModelUnavailable: as `parts_of`.
    """
    parts = parts_of(directory)
    try:
        return parts.bundle()
    except (ValueError, RecursionError):
        raise ModelRefused(directory.name, f"{MANIFEST} is not JSON") from None


class Limits(NamedTuple):
    """Of the child process. Seconds of CPU are the version's own fault, those of the clock may be the machine's."""

    cpu_s: int
    wall_s: float
    memory_bytes: int

    @classmethod
    def of(cls, texts: dict[str, str]) -> Self:
        """Ten times what is usual: a second and 150 MB for the libraries, a quarter of a second for a megabyte."""
        size = sum(map(len, texts.values()))
        cpu_s = 10 + size // 400_000
        return cls(cpu_s, 3.0 * cpu_s, (4 << 30) + 50 * size)


def verify_in_child(manifest: dict[str, Any], texts: dict[str, str], limits: Limits | None = None) -> Prepared:
    """Load a version and predict its golden rows where a crash hurts nobody.

    Args:
        manifest, texts: as `vouch` vouches for them.

    Returns:
        What the child has made of the texts for those who load them next.

    Raises:
        ModelRefused: the child crashed, predicted something else, or needed too much of this machine.
        ModelUnavailable: the child took too long, was killed from outside, or could not begin.
    """
    version = str(manifest.get("version"))
    limits = limits or Limits.of(texts)
    files = {file: text.encode() for file, text in texts.items()}
    head = json.dumps({"manifest": manifest, "files": {file: len(data) for file, data in files.items()}})
    environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    try:
        child = subprocess.run(
            [sys.executable, "-m", "training.verify", str(limits.cpu_s), str(limits.memory_bytes)],
            input=b"".join([head.encode(), b"\n", *files.values()]),
            capture_output=True,
            timeout=limits.wall_s,
            env=environ,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModelUnavailable(version, f"its golden rows took longer than {limits.wall_s:g} s") from None
    except OSError as error:
        raise ModelUnavailable(version, f"no process for its golden rows: {error.strerror or error}") from None
    if child.returncode in KILLED:
        raise ModelUnavailable(version, "the process that predicted its golden rows was killed")
    if child.returncode == -signal.SIGXCPU:
        raise ModelRefused(version, f"its golden rows take more than {limits.cpu_s} s of CPU")
    said = (child.stderr.decode(errors="replace").strip().splitlines() or ["nothing"])[-1]
    if child.returncode == REFUSED:
        raise ModelRefused(version, said)
    if child.returncode == 1:  # Python's own, before it came to the version
        raise ModelUnavailable(version, f"the process for its golden rows did not begin: {said}")
    if child.returncode != 0:
        raise ModelRefused(version, "it breaks the process it runs in")
    from training.tables import unpacked

    try:
        return unpacked(child.stdout)
    except NotCompilable as error:
        raise ModelRefused(version, f"its check said something odd: {error}") from None


def open_unverified(data: bytes) -> tuple[Model, dict[str, str]]:
    """(the version, its texts) that `verify_in_child` sent: only for the child process. LightGBM alone predicts."""
    line, _, rest = data.partition(b"\n")
    head = json.loads(line)
    texts: dict[str, str] = {}
    for file, size in head["files"].items():
        texts[file], rest = rest[:size].decode(), rest[size:]
    return Model._open(head["manifest"], texts, lambda reference, _rows: reference), texts


def _dump(document: Any) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _signature(body: dict[str, Any], key: bytes) -> str:
    return hmac.new(key, json.dumps(body, sort_keys=True, separators=(",", ":")).encode(), "sha256").hexdigest()


def _signed(manifest: dict[str, Any], key: bytes) -> dict[str, Any]:
    return manifest | {"signature": _signature(manifest, key)}


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
