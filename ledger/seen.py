"""What a replica's requests could have won since its last beat, as sketches by brand. Pure; λ learns from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
import numpy as np

from ledger.sketch import BINS, Sketch, bins_of

MOST = 200_000
"""Opportunities kept between two beats; of what comes beyond, nothing is learned."""

TOO_DEAR, OUTBID, WON, UNDECIDED = range(4)
"""Fates: its own λ kept it out; others were better or the throttle kept it out; it won; no money was at hand."""


class Opportunity(NamedTuple):
    """A request's best bid of one brand."""

    brand_id: str
    revenue_micros: float
    cost_micros: float
    fate: int


class BrandSeen(NamedTuple):
    sketch: Sketch
    eligible_micros: float  # expected cost of what λ let through: won or outbid
    won_micros: float
    won_revenue_micros: float


class Seen:
    """Collects; `take` empties it."""

    def __init__(self) -> None:
        self._all: list[Opportunity] = []

    def add(self, opportunities: Iterable[Opportunity]) -> None:
        if len(self._all) < MOST:
            self._all.extend(opportunities)

    def take(self) -> bytes:
        """As `read` reads it."""
        seen, self._all = self._all, []
        if not seen:
            return b""
        ids, revenues, costs, fates = zip(*seen, strict=True)
        codes = {brand_id: code for code, brand_id in enumerate(dict.fromkeys(ids))}
        code = np.array([codes[brand_id] for brand_id in ids])
        revenue, cost, fate = np.array(revenues), np.array(costs), np.array(fates)
        cell, size = code * BINS + bins_of(revenue, cost), len(codes) * BINS
        sums = np.stack([np.bincount(cell, weights, size) for weights in (revenue, cost, None)])
        sums = sums.reshape(3, len(codes), BINS)
        won, eligible = fate == WON, (fate == WON) | (fate == OUTBID)
        totals = np.stack(
            [np.bincount(code, weights, len(codes)) for weights in (cost * eligible, cost * won, revenue * won)],
            axis=1,
        )
        packed = {
            brand_id: (Sketch(np.ascontiguousarray(sums[:, at])).to_bytes(), *totals[at].tolist())
            for brand_id, at in codes.items()
        }
        return msgspec.msgpack.encode(packed)


def read(packed: bytes) -> dict[str, BrandSeen]:
    """What `Seen.take` wrote.

    Raises:
        ValueError: it did not.
    """
    if not packed:
        return {}
    raw = msgspec.msgpack.decode(packed, type=dict[str, tuple[bytes, float, float, float]])
    return {brand_id: BrandSeen(Sketch.from_bytes(one[0]), *one[1:]) for brand_id, one in raw.items()}
