"""The kill switch: takes the controller off a brand whose λ or spending is not to be believed. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

RELEASE = 0.8
"""A tripped switch counts a look as calm when everything is within this share of its envelope."""
CALM_LOOKS = 12
"""So many calm looks in a row release it: a minute, at one look every five seconds."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """Between what bounds a brand's λ and its spending are believed."""

    kappa_least: float
    kappa_most: float  # does not bind a κ that a budget asks for
    spend_rate_most: float  # 1: the pace that spends the whole budget evenly over the day's traffic

    def breach(self, kappa: float, capped: bool, spend_rate: float, within: float = 1.0) -> str | None:
        """What is outside, in words for an alert; None when nothing is."""
        most = math.inf if capped else self.kappa_most * within
        if math.isnan(kappa) or not self.kappa_least / within <= kappa <= most:
            return f"λ {kappa:.4g} is outside {self.kappa_least:.4g} to {self.kappa_most:.4g}"
        if math.isnan(spend_rate) or spend_rate > self.spend_rate_most * within:
            return f"spending at {spend_rate:.3g} × the even pace, at most {self.spend_rate_most:.3g} is believed"
        return None


class Decision(NamedTuple):
    """What a brand bids with."""

    kappa: float
    share: float  # of auctions that it takes part in


@dataclass(frozen=True, slots=True)
class KillSwitch:
    """Takes the controller off a brand whose λ or spending leaves its envelope, and gives it back after a calm while.

    >>> switch = KillSwitch().look(9.0, False, 1.0, Envelope(0.1, 5.0, 4.0))
    >>> switch.reason, switch.decide(9.0, 1.0, night_kappa=1.5, exploration=0.02)
    ('λ 9 is outside 0.1 to 5', Decision(kappa=1.5, share=0.02))
    """

    reason: str | None = None  # None: not tripped
    calm_looks: int = 0

    def look(self, kappa: float, capped: bool, spend_rate: float, envelope: Envelope) -> Self:
        """One look at what the controller would do and what is spent."""
        reason = envelope.breach(kappa, capped, spend_rate)
        if reason is not None:
            return type(self)(reason)
        if self.reason is None:
            return self
        if envelope.breach(kappa, capped, spend_rate, RELEASE) is not None:
            return type(self)(self.reason)
        return type(self)() if self.calm_looks + 1 >= CALM_LOOKS else type(self)(self.reason, self.calm_looks + 1)

    def decide(self, kappa: float, share: float, night_kappa: float, exploration: float) -> Decision:
        """The controller's κ and the throttle's share; tripped, last night's κ on the exploration share."""
        return Decision(kappa, share) if self.reason is None else Decision(night_kappa, min(share, exploration))
