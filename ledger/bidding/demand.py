"""The opportunities of a replica since its last beat, summed by brand and bin; λ is solved from them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ledger.bidding.sketch import BINS, Floats, Sketch, bins_of

MOST = 20_000
"""Most opportunities kept between two beats; if more come, the kept ones are scaled up."""

TOO_DEAR, OUTBID, WON, UNDECIDED = range(4)
"""Fates: its λ made its score 0 or less; others were better or the throttle left it out; it won; it had no lease."""


class Opportunity(NamedTuple):
    """A request's best bid of one brand."""

    brand_id: str
    revenue_micros: float
    cost_micros: float
    fate: int


class BrandDemand(NamedTuple):
    """A brand's opportunities of all replicas."""

    sketch: Sketch
    eligible_micros: float  # expected cost of what λ let through: won or outbid
    won_micros: float
    won_revenue_micros: float
    wins: float


class Demand:
    """Collects opportunities until `take`."""

    def __init__(self) -> None:
        self._all: list[Opportunity] = []
        self._missed = 0

    def add(self, opportunities: Sequence[Opportunity]) -> None:
        if len(self._all) < MOST:
            self._all.extend(opportunities)
        else:
            self._missed += len(opportunities)

    def take(self) -> bytes:
        """All opportunities since the last call, packed for `unpacked`; empty if there were none."""
        seen, self._all = self._all, []
        if not seen:
            return b""
        ids, revenues, costs, fates = zip(*seen, strict=True)
        codes = {brand_id: code for code, brand_id in enumerate(dict.fromkeys(ids))}
        code = np.array([codes[brand_id] for brand_id in ids])
        revenue, cost, fate = np.array(revenues), np.array(costs), np.array(fates)
        cells, at = np.unique(code * BINS + bins_of(revenue, cost), return_inverse=True)
        sums = np.stack([np.bincount(at, weights, len(cells)) for weights in (revenue, cost, None)])
        won, eligible = fate == WON, (fate == WON) | (fate == OUTBID)
        totals = np.stack(
            [np.bincount(code, weights, len(codes)) for weights in (cost * eligible, cost * won, revenue * won, won)]
        )
        scale = (len(seen) + self._missed) / len(seen)
        self._missed = 0
        columns = cells.astype("<i8"), (scale * sums).astype("<f8"), (scale * totals).astype("<f8")
        return msgspec.msgpack.encode((list(codes), *(column.tobytes() for column in columns)))


class DemandColumns(NamedTuple):
    """A replica's demand, unpacked: n brands, k bins in use."""

    brand_ids: list[str]
    cells: npt.NDArray[np.int64]  # (k,) brand × BINS + bin
    sums: Floats  # (3, k) as a sketch has them
    totals: Floats  # (4, n) eligible cost, won cost, won revenue, wins


def unpacked(packed: bytes) -> DemandColumns:
    """Unpack what `Demand.take` has packed.

    Raises:
        ValueError: it was not packed by `Demand.take`.
    """
    ids, *columns = msgspec.msgpack.decode(packed, type=tuple[list[str], bytes, bytes, bytes])
    cells = np.frombuffer(columns[0], "<i8")
    sums, totals = np.frombuffer(columns[1], "<f8").reshape(3, -1), np.frombuffer(columns[2], "<f8").reshape(4, -1)
    if sums.shape[1] != len(cells) or totals.shape[1] != len(ids) or len(set(ids)) != len(ids):
        raise ValueError("the demand's columns have different lengths, or a brand id comes twice")
    if len(cells) and not 0 <= cells.min() <= cells.max() < len(ids) * BINS:
        raise ValueError(f"the demand has a bin beyond its {len(ids)} brands")
    for column in (sums, totals):
        if not np.isfinite(column).all() or column.min(initial=0.0) < 0.0:
            raise ValueError("the demand has a sum that is negative or not finite")
    return DemandColumns(ids, cells, sums, totals)


def added_up(parts: Sequence[DemandColumns]) -> dict[str, BrandDemand]:
    """By brand id, the sum of several replicas' demand."""
    codes = {brand_id: code for code, brand_id in enumerate(dict.fromkeys(id_ for part in parts for id_ in part[0]))}
    dense, totals = np.zeros((3, len(codes) * BINS)), np.zeros((4, len(codes)))
    for part in parts:
        code = np.array([codes[brand_id] for brand_id in part.brand_ids], np.int64)
        to = code[part.cells // BINS] * BINS + part.cells % BINS
        for row in range(3):
            dense[row] += np.bincount(to, part.sums[row], dense.shape[1])
        totals[:, code] += part.totals
    by_brand = dense.reshape(3, len(codes), BINS)
    return {
        brand_id: BrandDemand(Sketch(by_brand[:, code].copy()), *totals[:, code].tolist())
        for brand_id, code in codes.items()
    }
