"""A brand's share of auctions while its ROAS is too low. Pure: time and the request's id are arguments."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Self

THROTTLE_OUT = 1.05
"""The throttle ends when ROAS reaches this many times throttle_roas."""

SHARE_PER_MINUTE = 0.10


def admitted(brand_id: str, request_id: str, share: float) -> bool:
    """Whether a brand with this share of auctions takes part in this one. Every replica gives the same answer.

    >>> admitted("b-1", "r-1", 1.0), admitted("b-1", "r-1", 0.0)
    (True, False)
    """
    if share >= 1.0:
        return True
    digest = hashlib.blake2b(f"{brand_id}\x1f{request_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2.0**64


@dataclass(frozen=True, slots=True)
class Throttle:
    """A brand's share of auctions: falls while ROAS is too low, stays while it recovers, rises afterwards."""

    share: float = 1.0
    throttled: bool = False

    def step(self, roas: float, throttle_roas: float, exploration: float, elapsed_s: float) -> Self:
        """The throttle after one look at the current ROAS.

        It begins below `throttle_roas` and ends at 1.05 times that. The share changes by at most 10 points a minute,
        and by at most 10 points in one look. A brand whose ROAS is not known (NaN) is not throttled.
        """
        if math.isnan(roas):
            return type(self)()
        throttled = roas < (throttle_roas * THROTTLE_OUT if self.throttled else throttle_roas)
        most = SHARE_PER_MINUTE * min(elapsed_s / 60.0, 1.0)
        if not throttled:
            share = min(1.0, self.share + most)
        elif roas < throttle_roas:
            share = max(exploration, self.share - most)
        else:
            share = max(exploration, self.share)
        return type(self)(share, throttled)
