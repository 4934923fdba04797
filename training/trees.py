"""The fitted trees, as something that predicts: LightGBM, which is the reference, and a compiled form 20 × as fast.

The model stays data. Its text is read strictly, for the kernel follows what stands there without looking twice: every
tree is one tree, every number that becomes an index is in range. What the kernel cannot do is left to LightGBM.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import lightgbm as lgb
import numpy as np

from training.features import Floats, Singles

if TYPE_CHECKING:
    from training.tables import Prepared

logger = logging.getLogger("paceline.model")

Number = TypeVar("Number", int, float)

AGREEMENT = 1e-9
"""Relative; both add the same doubles in the same order, so that only `exp` may differ."""
HEAD = {"version": "v4", "num_class": "1", "num_tree_per_iteration": "1", "objective": "tweedie"}
CATEGORICAL, DEFAULT_LEFT, MISSING_SHIFT = 1, 2, 2
"""Bits of LightGBM's `decision_type`; two bits of `Missing` follow."""


class Trees(Protocol):
    """Something that evaluates the fitted trees; LightGBM is the reference, compiled forms come beside it."""

    def predict(self, rows: Singles) -> Floats: ...


class LightGbmTrees:
    def __init__(self, booster: lgb.Booster) -> None:
        self.booster = booster

    def predict(self, rows: Singles) -> Floats:
        answer: Floats = np.asarray(
            self.booster.predict(rows, num_threads=1, validate_features=False), dtype=np.float64
        )
        return answer

    def contributions(self, rows: Singles) -> Floats:
        """(n, features + 1), the last column is the base."""
        answer: Floats = np.asarray(self.booster.predict(rows, pred_contrib=True, num_threads=1), dtype=np.float64)
        return answer


class CompiledTrees:
    """The same trees as tables that `training.kernel` walks through, 64 rows at a time; releases the GIL.

    Args:
        prepared: tables that are made already; what is not among them is made here, which takes a while.

    Raises:
        NotCompilable: the text is damaged, or says something that the kernel cannot do.
        ImportError and others: numba is not there, or cannot compile here.
    """

    def __init__(self, text: str, prepared: Prepared | None = None) -> None:
        from training import tables

        ready = (prepared or {}).get(tables.digest(text)) or tables.ready(text)
        if isinstance(ready, str):
            raise NotCompilable(ready)
        from training import kernel  # numba: half a second that only a process with a model should pay

        self._n_features, self._tables = ready
        self._evaluate: Callable[..., Floats] = kernel.compiled()

    def predict(self, rows: Singles) -> Floats:
        rows = np.require(rows, np.float32, ("C", "A", "W"))  # the one form that is compiled
        if rows.ndim != 2 or rows.shape[1] != self._n_features:
            raise ValueError(f"rows of shape {rows.shape}, where the trees want (n, {self._n_features})")
        return self._evaluate(rows, *self._tables)


Form = Callable[[str, LightGbmTrees, Singles], Trees]
"""Which form of the trees predicts: of their text and the reference, tried on some rows."""


def fastest(text: str, reference: LightGbmTrees, rows: Singles, prepared: Prepared | None = None) -> Trees:
    """The compiled form if there is one and it agrees with the reference on `rows`, else the reference and a log line.

    Never raises what a compiler may: whoever asks wants predictions.
    """
    try:
        compiled = CompiledTrees(text, prepared)
        agrees = np.allclose(compiled.predict(rows), reference.predict(rows), rtol=AGREEMENT, atol=0, equal_nan=True)
    except NotCompilable as reason:
        logger.warning("LightGBM itself predicts, at 20 × the time: %s", reason)
        return reference
    except Exception as error:  # numba's family is large, and none of it is a reason to have no model
        logger.warning("LightGBM itself predicts, at 20 × the time: no compiled form here: %r", error)
        return reference
    if not agrees:
        logger.error("LightGBM itself predicts, at 20 × the time: the compiled form differs on the golden rows")
        return reference
    return compiled


class NotCompilable(Exception):
    """Trees for LightGBM alone. The text says why."""


class Missing(IntEnum):
    """What a split takes for "not known" and sends to its default side."""

    NONE = 0  # nothing; NaN counts as 0
    ZERO = 1  # zero, and NaN
    NAN = 2


class Split(NamedTuple):
    """A row goes left if its feature ≤ threshold."""

    feature: int
    threshold: float  # a float32
    missing: Missing
    default_left: bool
    left: int  # a split's position, or ~ a leaf's
    right: int


class Tree(NamedTuple):
    """At least one leaf; every split but the first, and every leaf, is the child of one."""

    splits: Sequence[Split]  # the first is the root; none where there is one leaf
    leaves: Sequence[float]


def read_text(text: str) -> tuple[int, list[Tree]]:
    """(features of a row, trees in the order of their sum) from `Booster.model_to_string`.

    Raises:
        NotCompilable
    """
    head, gap, rest = text.partition("\n\n")
    fields = _fields(head, "the head")
    for name, wanted in HEAD.items():
        if fields.get(name) != wanted:
            raise NotCompilable(f"{name} is {fields.get(name)!r}, not {wanted!r}")
    if "average_output" in head:
        raise NotCompilable("a random forest")
    n_features = _integers(fields, "max_feature_idx", 1)[0] + 1
    trees = []
    for number, size in enumerate(_integers(fields, "tree_sizes")):
        block, rest = rest[: max(size, 0)], rest[max(size, 0) :]
        if not gap or not block.startswith(f"Tree={number}\n"):
            raise NotCompilable(f"tree {number} is not where the head says")
        try:
            trees.append(_tree(_fields(block, "it"), n_features))
        except NotCompilable as reason:
            raise NotCompilable(f"tree {number}: {reason}") from None
    if not rest.startswith("end of trees"):
        raise NotCompilable("more follows the last tree")
    return n_features, trees


def _fields(block: str, where: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in block.splitlines():
        name, _, value = line.partition("=")
        if name in fields and name:
            raise NotCompilable(f"{where} says {name} twice")
        fields[name] = value
    return fields


def _tree(fields: dict[str, str], n_features: int) -> Tree:
    (n_leaves,) = _integers(fields, "num_leaves", 1)
    if _integers(fields, "num_cat", 1) != [0]:
        raise NotCompilable("categorical splits")
    if _integers(fields, "is_linear", 1) != [0]:
        raise NotCompilable("linear leaves")
    if n_leaves < 1:
        raise NotCompilable(f"{n_leaves} leaves")
    n_splits = n_leaves - 1
    leaves = _numbers(fields, "leaf_value", float, n_leaves)
    if not np.isfinite(leaves).all():
        raise NotCompilable("a leaf that is no number")
    splits = [
        _split(*parts, n_features)
        for parts in zip(
            _integers(fields, "split_feature", n_splits),
            singles_below(_numbers(fields, "threshold", float, n_splits)),
            _integers(fields, "decision_type", n_splits),
            _integers(fields, "left_child", n_splits),
            _integers(fields, "right_child", n_splits),
            strict=True,
        )
    ]
    # Together these make it one tree: as many children as there are places, each taken once, and parents before them.
    children = [(child, parent) for parent, split in enumerate(splits) for child in (split.left, split.right)]
    places = {*range(1, n_splits), *(~leaf for leaf in range(n_leaves))} if splits else set()
    if {child for child, _ in children} != places or any(0 <= child <= parent for child, parent in children):
        raise NotCompilable("its splits do not make a tree")
    return Tree(splits, leaves)


def _split(feature: int, threshold: float, decision: int, left: int, right: int, n_features: int) -> Split:
    if not 0 <= feature < n_features:
        raise NotCompilable(f"feature {feature} of {n_features}")
    if math.isnan(threshold):
        raise NotCompilable("a threshold that is no number")
    if decision & CATEGORICAL or decision >> MISSING_SHIFT not in (Missing.NONE, Missing.ZERO, Missing.NAN):
        raise NotCompilable(f"a split of type {decision}")
    return Split(feature, threshold, Missing(decision >> MISSING_SHIFT), bool(decision & DEFAULT_LEFT), left, right)


def singles_below(thresholds: Sequence[float]) -> list[float]:
    """The greatest float32 ≤ each threshold: a float32 is ≤ the one exactly if it is ≤ the other.

    >>> singles_below([0.1, 0.5, -0.1, 1e300]) == [0.09999999403953552, 0.5, -0.10000000149011612, 2.0**128 - 2.0**104]
    True
    """
    exact = np.array(thresholds, np.float64)
    with np.errstate(over="ignore"):
        singles = exact.astype(np.float32)
    below: list[float] = np.where(singles > exact, np.nextafter(singles, np.float32(-np.inf)), singles).tolist()
    return below


def _integers(fields: dict[str, str], name: str, count: int | None = None) -> list[int]:
    return _numbers(fields, name, int, count)


def _numbers(fields: dict[str, str], name: str, kind: Callable[[str], Number], count: int | None) -> list[Number]:
    words = fields.get(name, "").split()
    if count is not None and len(words) != count:
        raise NotCompilable(f"{len(words)} × {name}, where {count} belong")
    try:
        return [kind(word) for word in words]
    except ValueError:
        raise NotCompilable(f"{name} holds something that is no number") from None
