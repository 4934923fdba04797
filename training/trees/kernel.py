"""Evaluates all trees for 64 rows at once, as machine code without branches per row.

A row's feature becomes a byte: its place among the thresholds that any tree has for the feature. Every tree has 64 bits
per row, one for each leaf from left to right: a split that sends a row to its second side clears the leaves of the
first, and after all splits the lowest bit left is the row's leaf (QuickScorer, Lucchese et al., SIGIR 2015). The bits
are stored byte by byte, those of 64 rows beside each other (RapidScorer, Ye et al., KDD 2018): a split costs one
comparison and one "and" of 64 bytes for every byte it clears, one instruction each on processors with AVX-512. The
smaller side of a split is put first, so that few clear more than one byte. Leaves are added in the order of the trees,
so that the sum equals LightGBM's to the bit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from training.arrays import Floats, Singles
from training.jit import machine_code
from training.trees import bitvector_tables

if TYPE_CHECKING:
    Bytes = npt.NDArray[np.uint8]

build: Any = cgutils  # only half of it has type annotations

LANES = 64
"""Rows of a block: the bytes of the widest register."""
MOST_LEAVES = 64
"""The bits of a word. Constants of the machine code are repeated in this file, because numba's cache is only renewed
when this file changes; the assertion below keeps them equal to those of `bitvector_tables.py`."""
BYTES = MOST_LEAVES // 8
TABLE = 256
MISSING = 255
NONE, ZERO = 0, 1
STRIKE = 4
assert (
    bitvector_tables.MOST_LEAVES,
    bitvector_tables.BYTES,
    bitvector_tables.TABLE,
    bitvector_tables.MISSING,
    bitvector_tables.NONE,
    bitvector_tables.ZERO,
    len(bitvector_tables.Strike._fields),
) == (MOST_LEAVES, BYTES, TABLE, MISSING, NONE, ZERO, STRIKE)
NO_ZERO = np.float32(1e-35)
"""LightGBM takes values up to this one for zero (its kZeroThreshold)."""


@functools.cache
def compiled() -> Callable[..., Floats]:
    """`_evaluate` as machine code: `compiled()(rows, *tables)`."""
    found: Callable[..., Floats] = machine_code(_evaluate, SIGNATURE)
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
    """(n, features) → (n,) exp(sum of leaves). Integer widths are explicit because numba compiles this.

    Nothing is checked here: `bitvector_tables.checked` has made sure that every index is in range.
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
    """Fill `codes`: how many of a column's cuts are less than each row's value, by binary search, all rows in step."""
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
    """n zero bytes at an address that is a multiple of LANES, so that no load touches two cache lines."""
    room = np.zeros(n + LANES, np.uint8)
    skip = -room.ctypes.data % LANES
    return room[skip : skip + n]


def _leaves_in_lanes(
    typing: Any, codes: types.Type, strikes: types.Type, ends: types.Type, at: types.Type, leaf: types.Type
) -> tuple[Any, Any]:
    """One tree's leaf for every lane: bytes `codes` → bytes `leaf`, by the strikes whose ends are `ends[at:]`.

    Written as LLVM vectors, since LLVM does not always vectorise a loop over lanes, and then takes 4 times as long.
    Goes from the highest byte down, so that the lowest byte with a bit left decides.
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
                strike = builder.mul(position, ir.Constant(word, STRIKE))
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
