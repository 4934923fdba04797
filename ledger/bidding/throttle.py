"""A brand's share of auctions while its ROAS is too low. Pure: time and chance are arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

THROTTLE_OUT = 1.05
"""The throttle ends when ROAS reaches this many times throttle_roas."""

SHARE_PER_MINUTE = 0.10


class Admissions:
    """Decides in which auctions a throttled brand takes part, by counting each caller's: of n auctions of one caller a
    brand with share s takes part in n·s, give or take one.

    Nothing that a caller sends decides, so no request_id is luckier than another, and a repeated request is one more
    auction that is counted. In which of its next auctions it takes part is drawn anew each time, so that a caller
    cannot foresee it. Each replica counts for itself.

    Args:
        draw: a number from 0 to 1, evenly distributed, that callers cannot foresee.
        most: counts that are remembered at a time; beyond it all begin anew.
    """

    def __init__(self, draw: Callable[[], float], most: int = 65_536) -> None:
        self._draw, self._most = draw, most
        self._counts: dict[tuple[str, str], _Count] = {}

    def auction(self, sub: str) -> Admission:
        """One auction of the caller with this `sub`."""
        return Admission(self, sub)

    def count(self, brand_id: str, sub: str) -> _Count:
        """What is remembered of this brand's auctions with this caller."""
        count = self._counts.get((brand_id, sub))
        if count is None:
            if len(self._counts) >= self._most:
                self._counts.clear()
            count = self._counts[brand_id, sub] = _Count(self._draw)
        return count


class Admission:
    """One auction. It may be asked again, as when a request is ranked twice, and is counted once."""

    __slots__ = ("_admissions", "_seen", "_sub")

    def __init__(self, admissions: Admissions, sub: str) -> None:
        self._admissions, self._sub = admissions, sub
        self._seen: dict[str, _Seen] = {}

    def __call__(self, brand_id: str, share: float) -> bool:
        """Whether a brand with this share of auctions takes part. What takes part with a share does with any larger.

        >>> auction = Admissions(lambda: 0.5).auction("caller")
        >>> auction("b-1", 1.0), auction("b-1", 0.6), auction("b-1", 0.4), auction("b-1", 0.0)
        (True, True, False, False)
        """
        if share >= 1.0 or share <= 0.0:
            return share >= 1.0
        seen = self._seen.get(brand_id)
        if seen is None:
            seen = self._seen[brand_id] = _Seen(self._admissions.count(brand_id, self._sub))
        return seen.takes_part(share)


class _Count:
    """A brand's auctions with one caller: what it is owed, and how much of that makes it take part."""

    __slots__ = ("_draw", "due", "threshold")

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw, self.due, self.threshold = draw, 0.0, draw()

    def pay(self) -> None:
        self.due -= 1.0
        self.threshold = self._draw()


class _Seen:
    """A brand in one auction."""

    __slots__ = ("_count", "_counted", "_least", "_paid")

    def __init__(self, count: _Count) -> None:
        self._count, self._counted, self._paid = count, 0.0, False
        self._least = count.threshold - count.due  # it takes part with any share above this

    def takes_part(self, share: float) -> bool:
        if share > self._counted:
            self._count.due += share - self._counted
            self._counted = share
        if share <= self._least:
            return False
        if not self._paid:
            self._paid = True
            self._count.pay()
        return True


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
