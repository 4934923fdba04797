"""Makes the arrays that `kernel.py` evaluates from a model's text, checks them, and packs them for other processes.

For 300 trees that takes Python a third of a second, in which a replica would answer slowly. So the sandbox's process
makes them once per node, and every replica loads them (`training/model/sandbox_cache.py`). This module does not import
numba, which the sandbox does not need.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from training.arrays import Floats, Singles
from training.trees.tree_format import Missing, NotCompilable, Split, Tree, read_text

if TYPE_CHECKING:
    Bytes = npt.NDArray[np.uint8]

MOST_LEAVES = 64
BYTES = MOST_LEAVES // 8
MOST_CUTS = 254
"""Thresholds of a column: a byte distinguishes the 255 intervals between them, and one value is left for MISSING."""
MOST_COLUMNS = 256
TABLE = 256
MISSING = 255
NONE, ZERO = int(Missing.NONE), int(Missing.ZERO)


class Tables(NamedTuple):
    """All trees, as the kernel reads them. A column is a feature, encoded as a byte by at most MOST_CUTS thresholds."""

    feature: npt.NDArray[np.uint32]  # (columns,)
    missing: Bytes  # (columns,) `Missing`
    stride: npt.NDArray[np.uint32]  # (columns,) the first step of the search among the cuts, a power of two
    cuts: Singles  # (columns · TABLE,) thresholds, ascending, padded with ∞
    strikes: Bytes  # (strikes · 4,) the fields of `Strike`
    ends: npt.NDArray[np.uint32]  # (trees · BYTES + 1,) where each tree's and byte's strikes begin, in order
    leaves: Floats  # (trees · MOST_LEAVES,)


class Cut(NamedTuple):
    """A place among a column's thresholds: its byte and all below are ≤ the threshold."""

    column: int
    place: int


class Strike(NamedTuple):
    """Clears leaves: rows whose byte is in low … low + more (255 is followed by 0) keep only the bits of `keep`."""

    column: int
    low: int
    more: int
    keep: int


def tables_of(trees: Sequence[Tree]) -> Tables:
    """The tables of these trees.

    Raises:
        NotCompilable: a tree has more leaves, or a feature more thresholds, than the kernel supports.
    """
    if (most := max((len(tree.leaves) for tree in trees), default=1)) > MOST_LEAVES:
        raise NotCompilable(f"a tree has {most} leaves, and the kernel supports {MOST_LEAVES} (PACELINE_MODEL_LEAVES)")
    columns, cut_of = _columns(split for tree in trees for split in tree.splits)
    if len(columns) > MOST_COLUMNS:
        raise NotCompilable("the trees have more distinct thresholds than the kernel supports")
    strikes: list[Strike] = []
    ends = [0]
    leaves = np.zeros((len(trees), MOST_LEAVES))
    for number, tree in enumerate(trees):
        by_byte, order = _strikes(tree, cut_of)
        leaves[number, : len(order)] = [tree.leaves[leaf] for leaf in order]
        for struck in by_byte:
            strikes += struck
            ends.append(len(strikes))
    cuts = np.full((len(columns), TABLE), np.inf, np.float32)
    for row, (_, _, own) in zip(cuts, columns, strict=True):
        row[: len(own)] = own
    return Tables(
        np.array([feature for feature, _, _ in columns], np.uint32),
        np.array([missing for _, missing, _ in columns], np.uint8),
        np.array([1 << len(own).bit_length() - 1 for _, _, own in columns], np.uint32),
        cuts.ravel(),
        np.array(strikes, np.uint8).ravel(),
        np.array(ends, np.uint32),
        leaves.ravel(),
    )


Column = tuple[int, Missing, list[float]]
Key = tuple[int, Missing, float]


def _columns(splits: Iterable[Split]) -> tuple[list[Column], dict[Key, Cut]]:
    """(a column for each feature, way of missing and MOST_CUTS thresholds; the place of each threshold)."""
    thresholds: dict[tuple[int, Missing], set[float]] = {}
    for split in splits:
        thresholds.setdefault((split.feature, split.missing), set()).add(split.threshold)
    columns: list[Column] = []
    cut_of: dict[Key, Cut] = {}
    for (feature, missing), distinct in sorted(thresholds.items()):
        ascending = sorted(distinct)
        for first in range(0, len(ascending), MOST_CUTS):
            own = ascending[first : first + MOST_CUTS]
            cut_of |= {(feature, missing, cut): Cut(len(columns), place) for place, cut in enumerate(own)}
            columns.append((feature, missing, own))
    return columns, cut_of


def _strikes(tree: Tree, cut_of: dict[Key, Cut]) -> tuple[list[list[Strike]], list[int]]:
    """(a tree's strikes by byte of its bits, BYTES lists; its leaves in the order of their bits)."""
    order: list[int] = []
    by_byte: list[list[Strike]] = [[] for _ in range(BYTES)]
    sizes = _sizes(tree)

    def place(child: int) -> None:
        if child < 0:
            order.append(~child)
            return
        split = tree.splits[child]
        swap = sizes.get(split.left, 1) > sizes.get(split.right, 1)
        begin = len(order)
        place(split.right if swap else split.left)
        first = (1 << len(order)) - (1 << begin)
        column, low, more = _side(split, cut_of, left=swap)
        for byte in range(BYTES):
            if struck := first >> 8 * byte & 255:
                by_byte[byte].append(Strike(column, low, more, 255 - struck))
        place(split.left if swap else split.right)

    place(0 if tree.splits else ~0)
    return by_byte, order


def _sizes(tree: Tree) -> dict[int, int]:
    """Number of leaves below each split, by its position."""
    sizes: dict[int, int] = {}
    for position in range(len(tree.splits) - 1, -1, -1):  # children come after their parents
        split = tree.splits[position]
        sizes[position] = sizes.get(split.left, 1) + sizes.get(split.right, 1)
    return sizes


def _side(split: Split, cut_of: dict[Key, Cut], *, left: bool) -> tuple[int, int, int]:
    """(column, low, more) of the bytes that go left (`left`), or of those that go right."""
    column, place = cut_of[split.feature, split.missing, split.threshold]
    with_missing = split.default_left == left
    if left:
        return (column, MISSING, place + 1) if with_missing else (column, 0, place)
    return column, place + 1, (MISSING if with_missing else MISSING - 1) - (place + 1)


class Ready(NamedTuple):
    """What `CompiledTrees` is made of."""

    n_features: int
    tables: Tables


Prepared = Mapping[str, Ready | str]
"""sha256 of a model's text → its tables, or why they cannot be made."""
WHY = "why"


def digest(text: str) -> str:
    """The key of a text's tables: its sha256 as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def ready(text: str) -> Ready:
    """The tables of a model's text.

    Raises:
        NotCompilable: the text is damaged, or has trees that the kernel cannot evaluate.
    """
    n_features, trees = read_text(text)
    return checked(Ready(n_features, tables_of(trees)))


def checked(made: Ready) -> Ready:
    """The same tables, after checking that the kernel cannot leave their arrays, whatever rows it is given.

    Raises:
        NotCompilable: an index is out of range, or an array has the wrong type or size.
    """
    n_features, (feature, missing, stride, cuts, strikes, ends, leaves) = made
    columns, trees = len(feature), len(leaves) // MOST_LEAVES
    arrays: tuple[npt.NDArray[Any], ...] = made.tables
    kinds = (np.uint32, np.uint8, np.uint32, np.float32, np.uint8, np.uint32, np.float64)
    is_sound = (
        all(
            array.ndim == 1 and array.dtype == kind and array.flags.c_contiguous
            for array, kind in zip(arrays, kinds, strict=True)
        )
        and (len(missing), len(stride), len(cuts)) == (columns, columns, columns * TABLE)
        and columns <= MOST_COLUMNS
        and (len(strikes) % len(Strike._fields), len(leaves) % MOST_LEAVES, len(ends)) == (0, 0, trees * BYTES + 1)
        and bool((feature < n_features).all())
        and bool(np.isin(stride, [1 << bit for bit in range(8)]).all())  # the search ends within a column's table
        and bool((strikes[:: len(Strike._fields)] < columns).all())
        and bool((ends[1:] >= ends[:-1]).all())
        and int(ends[-1]) * len(Strike._fields) <= len(strikes)
    )
    if not is_sound:
        raise NotCompilable("compiled tables contain out-of-range indices")
    return made


def packed(prepared: Prepared) -> bytes:
    """Tables as bytes, without pickle.

    >>> unpacked(packed({"a1": "too many leaves"}))
    {'a1': 'too many leaves'}
    """
    arrays: dict[str, Any] = {}
    for name, made in prepared.items():
        fields = {WHY: made} if isinstance(made, str) else made.tables._asdict() | {"n_features": made.n_features}
        arrays |= {f"{name}.{field}": np.asarray(value) for field, value in fields.items()}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def unpacked(data: bytes) -> Prepared:
    """Tables from the bytes that `packed` has made, checked.

    Raises:
        NotCompilable: the bytes are damaged, or an index is out of range.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {name: _unpacked(file, name) for name in sorted({name.partition(".")[0] for name in file.files})}
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise NotCompilable(f"the compiled tables cannot be read: {error!r}") from None


def _unpacked(file: Mapping[str, npt.NDArray[Any]], name: str) -> Ready | str:
    if f"{name}.{WHY}" in file:
        return str(file[f"{name}.{WHY}"])
    tables = Tables(*(file[f"{name}.{field}"] for field in Tables._fields))
    return checked(Ready(int(file[f"{name}.n_features"]), tables))
