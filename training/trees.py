"""The fitted trees, as something that predicts: the library that grew them, which is the reference, and a compiled form
20 × as fast.

The model stays data. Its text is read strictly, for the kernel follows what stands there without looking twice: every
tree is one tree, every number that becomes an index is in range. What the kernel cannot do is left to LightGBM.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, TypeVar

import lightgbm as lgb
import numpy as np

from training.arrays import Floats, Singles

if TYPE_CHECKING:
    import xgboost as xgb

    from training.tables import Prepared

logger = logging.getLogger("paceline.model")

Number = TypeVar("Number", int, float)

HEAD = {"version": "v4", "num_class": "1", "num_tree_per_iteration": "1", "objective": "tweedie"}
LIGHTGBM_BEGINS, XGBOOST_BEGINS = "tree\n", '{"learner"'
CATEGORICAL, DEFAULT_LEFT, MISSING_SHIFT = 1, 2, 2
"""Bits of LightGBM's `decision_type`; two bits of `Missing` follow."""


class Trees(Protocol):
    """Something that evaluates the fitted trees; LightGBM is the reference, compiled forms come beside it."""

    def predict(self, rows: Singles) -> Floats: ...


class Reference(Trees, Protocol):
    """The library that grew the trees."""

    engine: ClassVar[str]
    agreement: ClassVar[float]
    """How far another form's predictions may be from these, relative."""

    @property
    def text(self) -> str:
        """What is kept of the trees; `reference` makes them again."""

    def contributions(self, rows: Singles) -> Floats:
        """(n, features + 1) SHAP values on the log scale, the last column is the base."""

    def importance(self) -> Floats:
        """(features,) total gain of each feature's splits."""


class LightGbmTrees:
    engine: ClassVar[str] = "lightgbm"
    agreement: ClassVar[float] = 1e-9  # both add the same doubles in the same order, so that only `exp` may differ

    def __init__(self, booster: lgb.Booster, text: str | None = None) -> None:
        self.booster = booster
        self._text = text

    @classmethod
    def of(cls, text: str) -> Self:
        """
        Raises:
            lightgbm.basic.LightGBMError: it cannot be read.
        """
        return cls(lgb.Booster(model_str=text), text)

    @property
    def text(self) -> str:
        if self._text is None:
            self._text = self.booster.model_to_string()
        return self._text

    def predict(self, rows: Singles) -> Floats:
        answer: Floats = np.asarray(
            self.booster.predict(rows, num_threads=1, validate_features=False), dtype=np.float64
        )
        return answer

    def contributions(self, rows: Singles) -> Floats:
        answer: Floats = np.asarray(self.booster.predict(rows, pred_contrib=True, num_threads=1), dtype=np.float64)
        return answer

    def importance(self) -> Floats:
        gains: Floats = np.asarray(self.booster.feature_importance("gain"), np.float64)
        return gains


class XgboostTrees:
    engine: ClassVar[str] = "xgboost"
    agreement: ClassVar[float] = 1e-5  # it adds single floats

    def __init__(self, booster: xgb.Booster, text: str | None = None) -> None:
        self.booster = booster
        self._text = text

    @classmethod
    def of(cls, text: str) -> Self:
        """
        Raises:
            xgboost.core.XGBoostError: it cannot be read.
        """
        import xgboost  # a second that only who needs it should pay

        booster = xgboost.Booster({"nthread": 1})
        booster.load_model(bytearray(text, "utf-8"))
        return cls(booster, text)

    @property
    def text(self) -> str:
        if self._text is None:
            self._text = bytes(self.booster.save_raw("json")).decode()
        return self._text

    def predict(self, rows: Singles) -> Floats:
        return np.asarray(self.booster.inplace_predict(rows, validate_features=False), np.float64)

    def contributions(self, rows: Singles) -> Floats:
        return np.asarray(self._asked(rows, pred_contribs=True), np.float64)

    def _asked(self, rows: Singles, **how: Any) -> Any:
        import xgboost

        data = xgboost.DMatrix(rows, feature_names=self.booster.feature_names, nthread=1)
        return self.booster.predict(data, validate_features=False, **how)

    def importance(self) -> Floats:
        gains: dict[str, Any] = self.booster.get_score(importance_type="total_gain")
        return np.array([float(gains.get(name, 0.0)) for name in self.booster.feature_names or []], np.float64)


def reference(engine: str, text: str) -> Reference:
    """The library's own trees from what was kept of them.

    Raises:
        ValueError: no such engine.
        Exception: whatever the library says of a text that it cannot read.
    """
    engines: dict[str, type[LightGbmTrees] | type[XgboostTrees]] = {
        LightGbmTrees.engine: LightGbmTrees,
        XgboostTrees.engine: XgboostTrees,
    }
    if engine not in engines:
        raise ValueError(f"no engine {engine!r}")
    return engines[engine].of(text)


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


Form = Callable[[Reference, Singles], Trees]
"""Which form of the trees predicts: of the reference, tried on some rows."""


def fastest(reference: Reference, rows: Singles, prepared: Prepared | None = None) -> Trees:
    """The compiled form if there is one and it agrees with the reference on `rows`, else the reference and a log line.

    Never raises what a compiler may: whoever asks wants predictions.
    """
    try:
        compiled = CompiledTrees(reference.text, prepared)
        said, wanted = compiled.predict(rows), reference.predict(rows)
        agrees = np.allclose(said, wanted, rtol=reference.agreement, atol=0, equal_nan=True)
    except NotCompilable as reason:
        logger.warning("%s itself predicts, at 20 × the time: %s", reference.engine, reason)
        return reference
    except Exception as error:  # numba's family is large, and none of it is a reason to have no model
        logger.warning("%s itself predicts, at 20 × the time: no compiled form here: %r", reference.engine, error)
        return reference
    if not agrees:
        logger.error("%s itself predicts, at 20 × the time: the compiled form differs on golden rows", reference.engine)
        return reference
    return compiled


class NotCompilable(Exception):
    """Trees for their own library alone. The text says why."""


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
    """(features of a row, trees in the order of their sum) from a reference's text.

    Raises:
        NotCompilable
    """
    if text.startswith(XGBOOST_BEGINS):
        return read_xgboost(text)
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
    return _one_tree(splits, leaves)


def _one_tree(splits: Sequence[Split], leaves: Sequence[float]) -> Tree:
    """
    Raises:
        NotCompilable: there is not one way from the root to every leaf.
    """
    # As many children as there are places, each taken once, and parents before them.
    children = [(child, parent) for parent, split in enumerate(splits) for child in (split.left, split.right)]
    places = {*range(1, len(splits)), *(~leaf for leaf in range(len(leaves)))} if splits else set()
    if {child for child, _ in children} != places or any(0 <= child <= parent for child, parent in children):
        raise NotCompilable("its splits do not make a tree")
    return Tree(splits, leaves)


def read_xgboost(text: str) -> tuple[int, list[Tree]]:
    """The same from XGBoost's JSON. Its trees send x < threshold to the left, and what is not known by default.

    What is nearer to zero than 1e-35 is zero to the kernel, though not to XGBoost: no feature comes that close.

    Raises:
        NotCompilable
    """
    try:
        learner = json.loads(text)["learner"]
        shape, model = learner["learner_model_param"], learner["gradient_booster"]["model"]
        head = learner["objective"]["name"], learner["gradient_booster"]["name"], float(shape["base_score"].strip("[]"))
        if head != ("reg:tweedie", "gbtree", 1.0):
            raise NotCompilable(f"{head} instead of Tweedie trees that begin at 1")
        n_features = int(shape["num_feature"])
        return n_features, [_xgboost_tree(tree, n_features) for tree in model["trees"]]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise NotCompilable(f"no trees of XGBoost: {error!r}") from None


def _xgboost_tree(tree: dict[str, Any], n_features: int) -> Tree:
    left, right = tree["left_children"], tree["right_children"]
    if any(tree["split_type"]) or len(tree.get("categories_nodes", [])):
        raise NotCompilable("categorical splits")
    order = [node for node in _from_the_root(left, right) if left[node] != -1]
    leaves = [node for node in range(len(left)) if left[node] == -1]
    place = {node: index for index, node in enumerate(order)} | {node: ~index for index, node in enumerate(leaves)}
    splits = [
        _xgboost_split(
            tree["split_indices"][node],
            tree["split_conditions"][node],
            bool(tree["default_left"][node]),
            place[left[node]],
            place[right[node]],
            n_features,
        )
        for node in order
    ]
    values = [float(tree["split_conditions"][node]) for node in leaves]  # where leaves keep their value
    if not np.isfinite(values).all():
        raise NotCompilable("a leaf that is no number")
    return _one_tree(splits, values)


def _from_the_root(left: Sequence[int], right: Sequence[int]) -> list[int]:
    """Parents before their children, each node once."""
    found: list[int] = []
    waiting = [0]
    while waiting:
        node = waiting.pop()
        if len(found) > len(left) or node < 0:
            raise NotCompilable("its splits do not make a tree")
        found.append(node)
        if left[node] != -1:
            waiting += [right[node], left[node]]
    return found


def _xgboost_split(feature: int, threshold: float, default_left: bool, left: int, right: int, n_features: int) -> Split:
    if not 0 <= feature < n_features:
        raise NotCompilable(f"feature {feature} of {n_features}")
    if math.isnan(threshold):
        raise NotCompilable("a threshold that is no number")
    below = float(np.nextafter(np.float32(threshold), np.float32(-np.inf)))  # x < t exactly if x ≤ what is before t
    return Split(feature, below, Missing.NAN, default_left, left, right)


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
