"""64 rows through all trees at once: no row waits for a branch of its own.

A row's feature becomes a byte, its place among the thresholds that any tree has for the feature. Every tree keeps 64
bits a row, one for each leaf from left to right: a split that sends a row to its second side clears the leaves of the
first, and when all have spoken the lowest bit left is the row's leaf (QuickScorer, Lucchese et al., SIGIR 2015). The
bits lie byte by byte, 64 rows' beside each other (RapidScorer, Ye et al., KDD 2018): a split costs one comparison and
one "and" of 64 bytes for every byte it clears, one instruction each where the processor has AVX-512. The smaller side
of a split is put first, so that few clear more than one byte. Leaves are added in the trees' order: to the bit what
LightGBM adds.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from training.features import Floats, Singles
from training.trees import Missing, NotCompilable, Split, Tree

if TYPE_CHECKING:
    Bytes = npt.NDArray[np.uint8]

build: Any = cgutils  # half of it is typed
logger = logging.getLogger("paceline.model")

LANES = 64
"""Rows of a block: as many bytes as the widest register has."""
MOST_LEAVES = 64
"""As a word has bits. What the machine code holds stands in this file: numba's cache looks at no other."""
BYTES = MOST_LEAVES // 8
MOST_CUTS = 254
"""A byte tells 255 places between 254 thresholds, and one value is kept for MISSING."""
MOST_COLUMNS = 256
TABLE = 256
MISSING = 255
NONE, ZERO = int(Missing.NONE), int(Missing.ZERO)
NO_ZERO = np.float32(1e-35)
"""LightGBM takes what is no greater for zero (its kZeroThreshold)."""


class Tables(NamedTuple):
    """All trees, as the kernel reads them. A column is a feature, cut into bytes by at most MOST_CUTS thresholds."""

    feature: npt.NDArray[np.uint32]  # (columns,)
    missing: Bytes  # (columns,) `Missing`
    stride: npt.NDArray[np.uint32]  # (columns,) the first step of the search among the cuts, a power of two
    cuts: Singles  # (columns · TABLE,) ascending, filled up with ∞
    strikes: Bytes  # (strikes · 4,): column, first byte, how many more, the bits that stay
    ends: npt.NDArray[np.uint32]  # (trees · BYTES + 1,): where the strikes of a tree's byte begin; they lie in order
    leaves: Floats  # (trees · MOST_LEAVES,)


class Cut(NamedTuple):
    """A place among a column's thresholds: its byte and all below are ≤ the threshold."""

    column: int
    place: int


class Strike(NamedTuple):
    """Rows whose byte lies in low … low + more (255 is followed by 0) keep only the bits of `keep`."""

    column: int
    low: int
    more: int
    keep: int


def tables(trees: Sequence[Tree]) -> Tables:
    """
    Raises:
        NotCompilable: more leaves than bits, or more thresholds than bytes can tell apart.
    """
    if (most := max((len(tree.leaves) for tree in trees), default=1)) > MOST_LEAVES:
        raise NotCompilable(f"a tree of {most} leaves, where the kernel has room for {MOST_LEAVES}")
    columns, cut_of = _columns(split for tree in trees for split in tree.splits)
    if len(columns) > MOST_COLUMNS:
        raise NotCompilable("more distinct thresholds than the kernel has room for")
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
    """A column for every feature, way of missing, and MOST_CUTS thresholds; and where each threshold went."""
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
    """(the strikes on each of BYTES bytes, the leaves in the order of their bits)."""
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
    """Leaves below each split."""
    sizes: dict[int, int] = {}
    for position in range(len(tree.splits) - 1, -1, -1):  # children come after their parents
        split = tree.splits[position]
        sizes[position] = sizes.get(split.left, 1) + sizes.get(split.right, 1)
    return sizes


def _side(split: Split, cut_of: dict[Key, Cut], *, left: bool) -> tuple[int, int, int]:
    """(column, low, more) of the bytes that go left, or of those that go right."""
    column, place = cut_of[split.feature, split.missing, split.threshold]
    with_missing = split.default_left == left
    if left:
        return (column, MISSING, place + 1) if with_missing else (column, 0, place)
    return column, place + 1, (MISSING if with_missing else MISSING - 1) - (place + 1)


@functools.cache
def compiled() -> Callable[..., Floats]:
    """`_evaluate` as machine code: `compiled()(rows, *tables)`; from numba's cache, or seconds later.

    The cache is `__pycache__` or, where that cannot be written, the user's cache folder. Nothing depends on it.
    """
    try:
        evaluate = njit(SIGNATURE, nogil=True, cache=True)(_evaluate)
    except Exception as error:  # no folder, a full disk, a damaged file
        logger.info("compiling the trees' kernel without a cache: %r", error)
        evaluate = njit(SIGNATURE, nogil=True)(_evaluate)
    found: Callable[..., Floats] = evaluate
    return found


def _evaluate(
    rows: Singles,
    feature: npt.NDArray[np.uint32],
    missing: Bytes,
    stride: npt.NDArray[np.uint32],
    cuts: Singles,
    strikes: Bytes,
    ends: npt.NDArray[np.uint32],
    leaves: Floats,
) -> Floats:
    """(n, features) → (n,) exp(sum of leaves); for numba, which needs every width told.

    Nothing is checked: `tables` and `read_text` have seen to it that every index is in range.
    """
    n = len(rows)
    answer = np.empty(n, np.float64)
    codes = _aligned(len(feature) * LANES)
    leaf = _aligned(LANES)
    sums = np.empty(LANES, np.float64)
    for begin in range(0, n, LANES):
        block = rows[begin : min(begin + LANES, n)]
        _encode(block, feature, missing, stride, cuts, codes)
        sums[:] = 0.0
        for tree in range(len(leaves) // MOST_LEAVES):
            _leaves_of(codes, strikes, ends, np.uint64(tree * BYTES), leaf)
            first = np.uint64(tree * MOST_LEAVES)
            for lane in range(len(block)):
                sums[lane] += leaves[first + np.uint64(leaf[lane])]
        for lane in range(len(block)):
            answer[begin + lane] = math.exp(sums[lane])
    return answer


def _encode_lanes(
    block: Singles,
    feature: npt.NDArray[np.uint32],
    missing: Bytes,
    stride: npt.NDArray[np.uint32],
    cuts: Singles,
    codes: Bytes,
) -> None:
    """How many of a column's cuts are less than each row's value; a binary search for all rows in step."""
    values = np.zeros(LANES, np.float32)
    gone = np.zeros(LANES, np.bool_)
    places = np.empty(LANES, np.uint32)
    for column in range(len(feature)):
        of_zero, of_nan = missing[column] == ZERO, missing[column] != NONE
        for lane in range(len(block)):
            value = block[lane, feature[column]]
            zero = abs(value) <= NO_ZERO
            gone[lane] = (of_zero and zero) or (of_nan and np.isnan(value))
            values[lane] = np.float32(0.0) if zero or np.isnan(value) else value
        base = np.uint32(column * TABLE)
        places[:] = base
        step = stride[column]
        while step > 0:
            for lane in range(len(block)):
                less = cuts[places[lane] + step - np.uint32(1)] < values[lane]
                places[lane] += step if less else np.uint32(0)
            step >>= np.uint32(1)
        for lane in range(len(block)):
            codes[column * LANES + lane] = np.uint8(MISSING) if gone[lane] else np.uint8(places[lane] - base)


def _aligned_bytes(n: int) -> Bytes:
    """n zeros from an address that is a multiple of LANES, or every load would touch two cache lines."""
    room = np.zeros(n + LANES, np.uint8)
    skip = -room.ctypes.data % LANES
    return room[skip : skip + n]


def _leaves_in_lanes(
    typing: Any, codes: types.Type, strikes: types.Type, ends: types.Type, at: types.Type, leaf: types.Type
) -> tuple[Any, Any]:
    """One tree's leaf for every lane: bytes `codes` → bytes `leaf`, by the strikes whose ends are `ends[at:]`.

    Written as LLVM's vectors, since LLVM finds them in a loop over lanes on some days only, and then at 4 × the time.
    From the highest byte down, so that the lowest one with a bit left has the last word.
    """
    signature = types.void(codes, strikes, ends, types.uint64, leaf)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        codes, strikes, ends, leaf = (
            context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 1, 2, 4)
        )
        at = arguments[3]
        byte, word, bit = ir.IntType(8), ir.IntType(64), ir.IntType(1)
        lanes = ir.VectorType(byte, LANES)

        def every(value: int) -> Any:
            return ir.Constant(lanes, [value] * LANES)

        def spread(value: Any) -> Any:
            one = builder.insert_element(every(0), value, ir.Constant(ir.IntType(32), 0))
            return builder.shuffle_vector(one, every(0), ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))

        def end(byte_of_tree: int) -> Any:
            place = builder.add(at, ir.Constant(word, byte_of_tree))
            return builder.zext(builder.load(builder.gep(ends, [place])), word)

        def bits_left_by(strike: Any) -> Any:
            column, low, more, keep = (
                builder.load(builder.gep(strikes, [builder.add(strike, ir.Constant(word, i))])) for i in range(4)
            )
            place = builder.gep(codes, [builder.mul(builder.zext(column, word), ir.Constant(word, LANES))])
            code = builder.load(builder.bitcast(place, ir.PointerType(lanes)), align=1)
            struck = builder.icmp_unsigned("<=", builder.sub(code, spread(low)), spread(more))
            return builder.select(struck, spread(keep), every(255))

        lowest, base = every(0), every(0)
        for number in reversed(range(BYTES)):
            kept = build.alloca_once_value(builder, every(255))
            span = (end(number), end(number + 1), ir.Constant(word, 1))
            with build.for_range_slice(builder, *span) as (position, _):
                strike = builder.mul(position, ir.Constant(word, len(Strike._fields)))
                builder.store(builder.and_(builder.load(kept), bits_left_by(strike)), kept)
            bits = builder.load(kept)
            some = builder.icmp_unsigned("!=", bits, every(0))
            lowest = builder.select(some, bits, lowest)
            base = builder.select(some, every(8 * number), base)
        signature_of_cttz = ir.FunctionType(lanes, [lanes, bit])
        trailing_zeros = build.get_or_insert_function(builder.module, signature_of_cttz, f"llvm.cttz.v{LANES}i8")
        found = builder.add(base, builder.call(trailing_zeros, [lowest, ir.Constant(bit, 0)]))
        builder.store(found, builder.bitcast(leaf, ir.PointerType(lanes)), align=1)
        return context.get_dummy_value()

    return signature, generate


SIGNATURE = types.float64[::1](
    types.float32[:, ::1],
    types.uint32[::1],
    types.uint8[::1],
    types.uint32[::1],
    types.float32[::1],
    types.uint8[::1],
    types.uint32[::1],
    types.float64[::1],
)
_aligned: Callable[[int], Bytes] = njit()(_aligned_bytes)
_encode: Callable[..., None] = njit()(_encode_lanes)
_leaves_of: Callable[..., None] = intrinsic(_leaves_in_lanes)
