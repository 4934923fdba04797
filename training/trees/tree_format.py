"""Parses the text of a model's trees strictly: each must be a tree, and every number used as an index in range.

The kernel does not check anything again. Trees that it cannot evaluate are left to the library that grew them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, TypeVar

import numpy as np

Number = TypeVar("Number", int, float)

HEAD = {"version": "v4", "num_class": "1", "num_tree_per_iteration": "1", "objective": "tweedie"}
LIGHTGBM_BEGINS, XGBOOST_BEGINS = "tree\n", '{"learner"'
CATEGORICAL, DEFAULT_LEFT, MISSING_SHIFT = 1, 2, 2
"""Bits of LightGBM's `decision_type`, which are followed by two bits of `Missing`."""


CATEGORICAL_SPLITS = "categorical splits are not supported"
LEAF_NOT_FINITE = "a leaf's value is NaN or infinite"
NOT_A_TREE = "its splits do not make a tree"


class NotCompilable(Exception):
    """The trees cannot be compiled and must be evaluated by their own library. The text says why."""


class Missing(IntEnum):
    """Which values a split treats as missing and sends to its default side."""

    NONE = 0  # none; NaN counts as 0
    ZERO = 1  # zero and NaN
    NAN = 2  # NaN


class Split(NamedTuple):
    """A row goes left if its feature ≤ threshold."""

    feature: int
    threshold: float  # exactly representable as float32
    missing: Missing
    default_left: bool
    left: int  # position of a split, or ~position of a leaf
    right: int


class Tree(NamedTuple):
    """A tree with at least one leaf; every split but the root, and every leaf, is the child of exactly one split."""

    splits: Sequence[Split]  # the first is the root; empty if there is one leaf only
    leaves: Sequence[float]


def read_text(text: str) -> tuple[int, list[Tree]]:
    """(number of features, trees in the order in which they are summed) from the text of LightGBM or XGBoost.

    Raises:
        NotCompilable: the text is damaged, or has trees that the kernel cannot evaluate.
    """
    if text.startswith(XGBOOST_BEGINS):
        return read_xgboost(text)
    head, gap, rest = text.partition("\n\n")
    fields = _fields(head, "the head")
    for name, wanted in HEAD.items():
        if fields.get(name) != wanted:
            raise NotCompilable(f"its {name} is {fields.get(name)!r}, not {wanted!r}")
    if "average_output" in head:
        raise NotCompilable("it is a random forest, not boosted trees")
    n_features = _integers(fields, "max_feature_idx", 1)[0] + 1
    trees = []
    for number, size in enumerate(_integers(fields, "tree_sizes")):
        block, rest = rest[: max(size, 0)], rest[max(size, 0) :]
        if not gap or not block.startswith(f"Tree={number}\n"):
            raise NotCompilable(f"tree {number} is missing or not where the head says (tree_sizes)")
        try:
            trees.append(_tree(_fields(block, "it"), n_features))
        except NotCompilable as reason:
            raise NotCompilable(f"tree {number}: {reason}") from None
    if not rest.startswith("end of trees"):
        raise NotCompilable("there is unexpected text after the last tree")
    return n_features, trees


def _fields(block: str, where: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in block.splitlines():
        name, _, value = line.partition("=")
        if name in fields and name:
            raise NotCompilable(f"{where} has the field {name} twice")
        fields[name] = value
    return fields


def _tree(fields: dict[str, str], n_features: int) -> Tree:
    (n_leaves,) = _integers(fields, "num_leaves", 1)
    if _integers(fields, "num_cat", 1) != [0]:
        raise NotCompilable(CATEGORICAL_SPLITS)
    if _integers(fields, "is_linear", 1) != [0]:
        raise NotCompilable("linear leaves are not supported")
    if n_leaves < 1:
        raise NotCompilable(f"it has {n_leaves} leaves")
    n_splits = n_leaves - 1
    leaves = _numbers(fields, "leaf_value", float, n_leaves)
    if not np.isfinite(leaves).all():
        raise NotCompilable(LEAF_NOT_FINITE)
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
        NotCompilable: there is not exactly one way from the root to every leaf.
    """
    # Each split but the root, and each leaf, must be a child once, and come after its parent.
    children = [(child, parent) for parent, split in enumerate(splits) for child in (split.left, split.right)]
    places = {*range(1, len(splits)), *(~leaf for leaf in range(len(leaves)))} if splits else set()
    if {child for child, _ in children} != places or any(0 <= child <= parent for child, parent in children):
        raise NotCompilable(NOT_A_TREE)
    return Tree(splits, leaves)


def read_xgboost(text: str) -> tuple[int, list[Tree]]:
    """`read_text` for XGBoost's JSON, whose trees send x < threshold to the left, and NaN to the default side.

    The kernel takes values nearer to zero than 1e-35 for zero, XGBoost does not; no feature comes that close.

    Raises:
        NotCompilable: the text is damaged, or has trees that the kernel cannot evaluate.
    """
    try:
        learner = json.loads(text)["learner"]
        shape, model = learner["learner_model_param"], learner["gradient_booster"]["model"]
        head = learner["objective"]["name"], learner["gradient_booster"]["name"], float(shape["base_score"].strip("[]"))
        if head != ("reg:tweedie", "gbtree", 1.0):
            raise NotCompilable(f"its objective, booster and base_score are {head}, not Tweedie trees that begin at 1")
        n_features = int(shape["num_feature"])
        return n_features, [_xgboost_tree(tree, n_features) for tree in model["trees"]]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise NotCompilable(f"the text is not a model that XGBoost has saved: {error!r}") from None


def _xgboost_tree(tree: dict[str, Any], n_features: int) -> Tree:
    left, right = tree["left_children"], tree["right_children"]
    if any(tree["split_type"]) or len(tree.get("categories_nodes", [])):
        raise NotCompilable(CATEGORICAL_SPLITS)
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
    values = [float(tree["split_conditions"][node]) for node in leaves]  # XGBoost keeps leaf values there
    if not np.isfinite(values).all():
        raise NotCompilable(LEAF_NOT_FINITE)
    return _one_tree(splits, values)


def _from_the_root(left: Sequence[int], right: Sequence[int]) -> list[int]:
    """All nodes, parents before their children. Raises: NotCompilable, they do not form a tree."""
    found: list[int] = []
    waiting = [0]
    while waiting:
        node = waiting.pop()
        if len(found) > len(left) or node < 0:
            raise NotCompilable(NOT_A_TREE)
        found.append(node)
        if left[node] != -1:
            waiting += [right[node], left[node]]
    return found


def _xgboost_split(feature: int, threshold: float, default_left: bool, left: int, right: int, n_features: int) -> Split:
    _check_split(feature, threshold, n_features)
    below = float(
        np.nextafter(np.float32(threshold), np.float32(-np.inf))
    )  # x < t if and only if x ≤ the float before t
    return Split(feature, below, Missing.NAN, default_left, left, right)


def _split(feature: int, threshold: float, decision: int, left: int, right: int, n_features: int) -> Split:
    _check_split(feature, threshold, n_features)
    if decision & CATEGORICAL or decision >> MISSING_SHIFT not in (Missing.NONE, Missing.ZERO, Missing.NAN):
        raise NotCompilable(f"a split has the decision_type {decision}, which is not supported")
    return Split(feature, threshold, Missing(decision >> MISSING_SHIFT), bool(decision & DEFAULT_LEFT), left, right)


def _check_split(feature: int, threshold: float, n_features: int) -> None:
    if not 0 <= feature < n_features:
        raise NotCompilable(f"a split uses feature {feature}, but there are {n_features}, counted from 0")
    if math.isnan(threshold):
        raise NotCompilable("a threshold is NaN")


def singles_below(thresholds: Sequence[float]) -> list[float]:
    """The greatest float32 ≤ each threshold; a float32 is ≤ the one if and only if it is ≤ the other.

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
        raise NotCompilable(f"the field {name} has {len(words)} values instead of {count}")
    try:
        return [kind(word) for word in words]
    except ValueError:
        raise NotCompilable(f"the field {name} has a value that is not a number") from None
