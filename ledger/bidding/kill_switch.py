"""The kill switch: freezes a brand whose λ or pace of spending leaves its envelope. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

RELEASE = 0.8
"""For a frozen brand, a look is calm if everything is within this share of the envelope."""
CALM_LOOKS = 12
"""So many calm looks in a row end the freeze: a minute, at a look every five seconds."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The range of a brand's κ and pace of spending, outside which it is frozen."""

    kappa_least: float
    kappa_most: float  # not applied to a κ that a budget asks for
    spend_rate_most: float  # 1: the pace that spends the whole budget evenly over the day's traffic

    def breach(self, kappa: float, capped: bool, spend_rate: float, within: float = 1.0) -> str | None:
        """What is outside the envelope, for the log; None if nothing is. `within`: share of the envelope to use."""
        most = math.inf if capped else self.kappa_most * within
        if math.isnan(kappa) or not self.kappa_least / within <= kappa <= most:
            return f"λ {kappa:.4g} is outside {self.kappa_least:.4g} to {self.kappa_most:.4g}"
        if math.isnan(spend_rate) or spend_rate > self.spend_rate_most * within:
            return f"it spends at {spend_rate:.3g} × the even pace, at most {self.spend_rate_most:.3g} is allowed"
        return None


class Decision(NamedTuple):
    """The κ and the share that a brand bids with."""

    kappa: float
    share: float  # of auctions that it takes part in


@dataclass(frozen=True, slots=True)
class KillSwitch:
    """Freezes a brand whose κ or pace of spending leaves its envelope, until CALM_LOOKS looks in a row were calm.

    >>> switch = KillSwitch().look(9.0, False, 1.0, Envelope(0.1, 5.0, 4.0))
    >>> switch.reason, switch.decide(9.0, 1.0, night_kappa=1.5, exploration=0.02)
    ('λ 9 is outside 0.1 to 5', Decision(kappa=1.5, share=0.02))
    """

    reason: str | None = None  # None: not frozen
    calm_looks: int = 0

    def look(self, kappa: float, capped: bool, spend_rate: float, envelope: Envelope) -> Self:
        """The switch after one look at the controller's κ and the pace of spending."""
        reason = envelope.breach(kappa, capped, spend_rate)
        if reason is not None:
            return type(self)(reason)
        if self.reason is None:
            return self
        if envelope.breach(kappa, capped, spend_rate, RELEASE) is not None:
            return type(self)(self.reason)
        return type(self)() if self.calm_looks + 1 >= CALM_LOOKS else type(self)(self.reason, self.calm_looks + 1)

    def decide(self, kappa: float, share: float, night_kappa: float, exploration: float) -> Decision:
        """The given κ and share; if frozen, last night's κ and at most the exploration share."""
        return Decision(kappa, share) if self.reason is None else Decision(night_kappa, min(share, exploration))
