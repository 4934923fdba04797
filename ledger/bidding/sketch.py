"""A brand's opportunities in a few kilobytes: sums in bins of revenue ÷ cost. Pure.

Replicas' opportunities, won or not, are added up by the ledger, which lets older ones fade, and computes from the bins
what any κ would win.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BINS_PER_OCTAVE = 8
OCTAVES = 12
"""Ratios from 2⁻¹² to 2¹² have bins of their own; smaller and greater ones share the first and the last."""

EDGES: Floats = np.exp2(np.arange(-OCTAVES * BINS_PER_OCTAVE, OCTAVES * BINS_PER_OCTAVE + 1) / BINS_PER_OCTAVE)
BINS = len(EDGES) + 1
"""Bin k > 0 begins at EDGES[k − 1]; bin 0 holds worthless opportunities, the last one those that cost nothing."""

REVENUE, COST, COUNT = range(3)
BUFFERED_MOST = 512
_HEADER = struct.Struct("<BBH")
_VERSION = 1


def bins_of(revenue: Floats, cost: Floats) -> npt.NDArray[np.intp]:
    """The bin of each opportunity.

    Args:
        revenue, cost: (n,) expected micros, ≥ 0.

    >>> bins_of(np.array([0.0, 1.0, 1.0]), np.array([0.0, 1.0, 0.0])).tolist()
    [0, 97, 193]
    """
    # Revenue at no cost is an infinite ratio; no revenue at no cost is 0.
    with np.errstate(over="ignore"):
        ratio = np.divide(revenue, cost, out=np.where(revenue > 0.0, np.inf, 0.0), where=cost > 0.0)
    return np.searchsorted(EDGES, ratio, side="right")


class Sketch:
    """Σ revenue, Σ cost and number of opportunities by bin of revenue ÷ cost.

    `sums` is (3, BINS): revenue and cost in micros, and the number, which is a fraction once it has faded.

    >>> sketch = Sketch()
    >>> sketch.add(3.0, 2.0)
    >>> sketch.merge(Sketch.from_bytes(sketch.to_bytes()))
    >>> sketch.totals().tolist()
    [6.0, 4.0, 2.0]
    """

    __slots__ = ("_costs", "_revenues", "_sums")

    def __init__(self, sums: Floats | None = None) -> None:
        self._sums: Floats = np.zeros((3, BINS)) if sums is None else sums
        self._revenues: list[float] = []
        self._costs: list[float] = []

    def add(self, revenue_micros: float, cost_micros: float) -> None:
        """Add one opportunity. It is buffered, and binned together with others, to be quick.

        Raises:
            ValueError: an amount is negative or not finite; raised when it is binned.
        """
        self._revenues.append(revenue_micros)
        self._costs.append(cost_micros)
        if len(self._revenues) >= BUFFERED_MOST:
            self._bin()

    def add_many(self, revenue_micros: Sequence[float] | Floats, cost_micros: Sequence[float] | Floats) -> None:
        """Add n opportunities.

        Args:
            revenue_micros, cost_micros: (n,) ≥ 0.

        Raises:
            ValueError: an amount is negative or not finite; then none is added.
        """
        revenue, cost = np.asarray(revenue_micros, dtype=np.float64), np.asarray(cost_micros, dtype=np.float64)
        low = min(revenue.min(initial=0.0), cost.min(initial=0.0))
        high = max(revenue.max(initial=0.0), cost.max(initial=0.0))
        if not (low >= 0.0 and high < math.inf):
            raise ValueError("revenue and cost are finite and not negative")
        bins = bins_of(revenue, cost)
        self._sums[REVENUE] += np.bincount(bins, revenue, BINS)
        self._sums[COST] += np.bincount(bins, cost, BINS)
        self._sums[COUNT] += np.bincount(bins, minlength=BINS)

    @property
    def sums(self) -> Floats:
        """(3, BINS), not a copy."""
        if self._revenues:
            self._bin()
        return self._sums

    def _bin(self) -> None:
        revenues, costs, self._revenues, self._costs = self._revenues, self._costs, [], []
        self.add_many(revenues, costs)

    def merge(self, other: Self) -> None:
        """Add another sketch's opportunities."""
        self.sums[...] += other.sums

    def fade(self, factor: float) -> None:
        """Multiply all sums by a factor in [0, 1]."""
        self.sums[...] *= factor

    def level(self) -> tuple[float, float, float]:
        """(mean bin, variance of the bin, number) of the opportunities with revenue and cost above 0."""
        count = self.sums[COUNT, 1:-1]
        number = float(count.sum())
        if number <= 0.0:
            return 0.0, 0.0, 0.0
        bins = np.arange(1, BINS - 1)
        mean = float(count @ bins) / number
        return mean, float(count @ (bins - mean) ** 2) / number, number

    def shift(self, bins: int) -> None:
        """Move every opportunity by so many bins, up or down: multiply its revenue by 2^(bins ÷ 8).

        >>> sketch = Sketch()
        >>> sketch.add(3.0, 2.0)
        >>> sketch.shift(-BINS_PER_OCTAVE)
        >>> sketch.totals().tolist()
        [1.5, 2.0, 1.0]
        """
        sums = self.sums
        moved = np.zeros_like(sums)
        # Opportunities without revenue or without cost stay in their bins.
        to = np.clip(np.arange(1, BINS - 1) + bins, 1, BINS - 2)
        for row in (REVENUE, COST, COUNT):
            moved[row, 1:-1] = np.bincount(to, sums[row, 1:-1], BINS)[1:-1]
            moved[row, [0, -1]] = sums[row, [0, -1]]
        moved[REVENUE] *= 2.0 ** (bins / BINS_PER_OCTAVE)
        self._sums = moved

    def totals(self) -> Floats:
        """(3,) sums of revenue and cost in micros, and the number."""
        summed: Floats = self.sums.sum(axis=1)
        return summed

    def take(self) -> bytes:
        """The sketch as bytes; it is empty afterwards."""
        packed = self.to_bytes()
        self._sums = np.zeros((3, BINS))
        return packed

    def to_bytes(self) -> bytes:
        """The bins in use as bytes: 4, and 25 for each bin."""
        used = np.flatnonzero(self.sums.any(axis=0))
        head = _HEADER.pack(_VERSION, BINS, len(used))
        return head + used.astype("<u1").tobytes() + self._sums[:, used].astype("<f8").tobytes()

    @classmethod
    def from_bytes(cls, packed: bytes) -> Self:
        """A sketch from what `to_bytes` returned.

        Raises:
            ValueError: `to_bytes` did not make these bytes.
        """
        if len(packed) < _HEADER.size:
            raise ValueError("a sketch is shorter than its header")
        version, bins, used = _HEADER.unpack_from(packed)
        if (version, bins) != (_VERSION, BINS) or len(packed) != _HEADER.size + 25 * used:
            raise ValueError("a sketch has another version, number of bins or length")
        index = np.frombuffer(packed, "<u1", used, _HEADER.size)
        if used and (index.max() >= BINS or (np.diff(index.astype(int)) <= 0).any()):
            raise ValueError("a sketch's bins are not in rising order")
        values = np.frombuffer(packed, "<f8", 3 * used, _HEADER.size + used)
        if not np.isfinite(values).all() or values.min(initial=0.0) < 0.0:
            raise ValueError("a sketch's sums are finite and not negative")
        sums = np.zeros((3, BINS))
        sums[:, index] = values.reshape(3, used)
        return cls(sums)
