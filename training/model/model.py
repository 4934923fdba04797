"""A model version as one object: encoder, trees, calibration and manifest; loading, saving and predicting.

On disk a version is a directory (`manifest.json`, `model.txt`, `encoder.json`); in Redis and Git it is one JSON
document (`roas_model.json`) with the same content. The manifest names each file's sha256 and is signed. Nothing is
given to LightGBM before signature and hashes are checked, because a damaged file aborts the process that loads it.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from ledger.former_names import pickled_as
from training.arrays import Floats, Integers, Singles
from training.features.encoder import Confidence, Encoder
from training.features.layout import FEATURES
from training.model.bundle import ENCODER, FORMAT, TREES, ModelRefused, Parts, dump, parts_in, sha256, signed, vouch
from training.model.sandbox import verify_in_child
from training.model.store import parts_of, write_version
from training.trees.compiled import Form, fastest
from training.trees.engines import Reference, Trees, reference

if TYPE_CHECKING:
    from training.trees.bitvector_tables import Prepared


GOLDEN_ROWS = 32
GOLDEN_TOLERANCE = 1e-5
HISTORY = "history"
LEAST_EXPECTATION_MICROS = 1e-9
"""Smaller expectations are taken for this one, since zero has no logarithm."""


@pickled_as("training.model")
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
        """In the order of ID_COLUMNS."""
        return (self.brand_id, self.partner_id, self.slot_id, self.device_type, self.creative_type)

    def __len__(self) -> int:
        return len(self.brand_id)


class Prediction(NamedTuple):
    """What n impressions are expected to bring, (n,) each, per impression."""

    revenue_micros: Floats
    ctr: Floats
    cvr: Floats  # conversions per impression
    impressions: Floats  # of the placement's own history, older ones counting less; 0 where one of its ids is new there


@pickled_as("training.model")
class Explanation(NamedTuple):
    """What each feature contributes to n predictions."""

    names: tuple[str, ...]
    contributions: Floats  # (n, len(names)), log of revenue
    base: Floats  # (n,); base + Σ contributions = log(revenue_micros)


class Model:
    """A version that predicts. Make one with `assemble`, `load` or `from_bundle`. Immutable, so that it can be swapped
    for another while requests run."""

    def __init__(
        self,
        manifest: dict[str, Any],
        reference: Reference,
        encoder: Encoder,
        trees: Trees | None = None,
        form: Form = fastest,
        texts: dict[str, str] | None = None,
    ) -> None:
        """
        Args:
            reference: the trees.
            trees: the same trees in another form; None: `form` makes it.
            form: by default the fastest one that agrees with the reference on the golden rows.
            texts: of its files, needed to publish it; None: a replica need not keep them in memory.
        """
        self.manifest = manifest
        self.version: str = manifest["version"]
        self.trained_through = dt.date.fromisoformat(manifest["trained_through"])
        self.simulated: bool = manifest["simulated"]
        self.encoder = encoder
        self.reference = reference
        self.trees = trees or form(reference, _rows(encoder, golden_columns(_golden_ids(encoder))))
        self._factor: float = manifest["calibration"]
        self._texts = texts

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
        texts = _texts_of(reference, encoder)
        # Named by microsecond: two nights within a second may fit the same trees, and under one name the gate result
        # and λ of the later one would be dropped as already published.
        made = made_at.astimezone(dt.UTC)
        digest = sha256(texts[TREES] + texts[ENCODER] + made.isoformat())
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "version": f"{made:%Y%m%dT%H%M%S}-{digest[:6]}",
            "parent": parent,
            "engine": reference.engine,
            "made_at": made.isoformat(),
            "trained_through": trained_through.isoformat(),
            "simulated": simulated,
            "features": list(FEATURES),
            "calibration": calibration,
            "training": training or {},
            "metrics": metrics or {},
            "lambda": lambda_ or {},
            "files": {file: sha256(text) for file, text in texts.items()},
        }
        model = cls(manifest, reference, encoder, texts=texts)
        manifest["golden"] = model.golden()
        return model

    def predict(self, columns: Columns, trees: Trees | None = None) -> Prediction:
        """What each row is expected to bring. `trees`: a form to predict with; None: the fastest."""
        rows, heads = self.encoder.encode(columns.ids, columns.placement_score, columns.at)
        revenue = heads[:, 0] * (trees or self.trees).predict(rows) * self._factor
        return Prediction(revenue, heads[:, 1], heads[:, 2], heads[:, 4])

    def cost_micros(self, columns: Columns) -> Floats:
        """(n,) past cost of one impression in micros, NaN where no cost was ever known."""
        return self.encoder.encode(columns.ids, columns.placement_score, columns.at)[1][:, 3]

    def explain(self, columns: Columns) -> Explanation:
        """SHAP values on the scale of log(revenue_micros); the first, `history`, is the expectation of the histories
        alone, from which the trees start."""
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
        """The impressions of history behind a prediction, and the level of the hierarchy that has them."""
        return self.encoder.confidence((brand_id, partner_id, slot_id, device_type, creative_type), placement_score)

    def with_manifest(self, **changes: Any) -> Model:
        """The same model with these fields of its manifest replaced (metrics, λ, parent)."""
        return Model(self.manifest | changes, self.reference, self.encoder, self.trees, texts=self._texts)

    def parts(self, key: bytes) -> Parts:
        """What is published: the signed manifest, and the texts of its files. `key`: signs the manifest."""
        return Parts(signed(self.manifest, key), self._texts or _texts_of(self.reference, self.encoder))

    def to_bundle(self, key: bytes) -> str:
        """`roas_model.json`: the signed manifest and the files' text in one document."""
        return self.parts(key).bundle()

    @classmethod
    def from_bundle(cls, bundle: str | bytes, key: bytes, version: str | None = None, *, verify: bool = True) -> Self:
        """Check everything, then load.

        Args:
            key: that its manifest must be signed with.
            version: the one that is expected; None: any.
            verify: predict the golden rows in a child process first.

        Raises:
            ModelRefused: signature, hash, version, format or golden rows do not match.
            ModelUnavailable: the child process could not run.
        """
        parts = parts_in(bundle, version)
        return cls._checked(parts, vouch(*parts, key, version), verify)

    @classmethod
    def opened(
        cls,
        manifest: dict[str, Any],
        texts: dict[str, str],
        prepared: Prepared | None = None,
        *,
        form: Form | None = None,
    ) -> Self:
        """Load a version that `vouch` has checked and, unless it was made here, a child process has tested.

        Args:
            prepared: compiled tables that the child process made of the texts.
            form: of the trees; None: the fastest that agrees with the reference, using `prepared`.

        Raises:
            ModelRefused: its texts cannot be parsed.
        """
        try:
            encoder = Encoder.from_document(json.loads(texts[ENCODER]))
            trees = reference(manifest["engine"], texts[TREES])
            return cls(manifest, trees, encoder, form=form or partial(fastest, prepared=prepared))
        except Exception as error:  # a signed file with nonsense in it can fail in many ways; all mean the same
            reason = str(error) if isinstance(error, ValueError) else repr(error)
            raise ModelRefused(str(manifest.get("version")), f"cannot be read: {reason}") from None

    def save(self, directory: Path, key: bytes) -> Path:
        """Write `directory/{version}`, visible only when complete and on disk.

        Returns:
            The version's directory.
        """
        return write_version(directory, self.version, self.parts(key))

    @classmethod
    def load(cls, directory: Path, key: bytes, *, verify: bool = True) -> Self:
        """Load a version's directory; its files' texts are kept, so that it can be published.

        Raises:
            ModelRefused: a file is missing, changed or of another version, or the golden rows do not match.
            ModelUnavailable: a file cannot be read, or the child process could not run.
        """
        parts = parts_of(directory)
        model = cls._checked(parts, vouch(*parts, key, directory.name), verify)
        model._texts = parts.texts
        return model

    @classmethod
    def _checked(cls, parts: Parts, manifest: dict[str, Any], verify: bool) -> Self:
        return cls.opened(manifest, parts.texts, verify_in_child(manifest, parts.texts) if verify else None)

    def golden(self) -> dict[str, Any]:
        """The golden rows: some of its own placements and an unknown one, with what it predicts for them."""
        golden = _golden_ids(self.encoder)
        prediction = self.predict(golden_columns(golden))
        return golden | {name: values.tolist() for name, values in prediction._asdict().items()}


def _texts_of(reference: Reference, encoder: Encoder) -> dict[str, str]:
    """File name → text."""
    return {TREES: reference.text, ENCODER: dump(encoder.to_document())}


def _golden_ids(encoder: Encoder) -> dict[str, Any]:
    picked = np.unique(np.linspace(0, max(len(encoder) - 1, 0), GOLDEN_ROWS - 1).astype(int))
    ids, scores = encoder.tuples(picked[: len(encoder)])
    for column in ids:
        column.append("never-seen")
    return {"ids": ids, "placement_score": [*scores, None]}


def _rows(encoder: Encoder, columns: Columns) -> Singles:
    return encoder.encode(columns.ids, columns.placement_score, columns.at)[0]


def golden_columns(golden: dict[str, Any]) -> Columns:
    """The inputs of a manifest's golden rows."""
    scores = np.array([np.nan if score is None else score for score in golden["placement_score"]], np.float64)
    return Columns.of(golden["ids"], scores)


def golden_agrees(model: Model) -> bool:
    """Whether a loaded model predicts for its golden rows what its manifest says, compiled and by its library."""
    golden = model.manifest["golden"]
    return all(
        np.allclose(values, golden[name], rtol=GOLDEN_TOLERANCE, atol=1e-12)
        for trees in (model.trees, model.reference)
        for name, values in model.predict(golden_columns(golden), trees)._asdict().items()
    )
