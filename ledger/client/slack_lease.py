"""A replica's lease of slack: what its wins below target may draw of the brand's, and of the portfolio's. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ledger.domain.messages import BrandTerms, Offer, SlackLine
from ledger.domain.slack import Price, lack

ROAS_SLACK = "roas_slack"
AHEAD_S, AHEAD_LACKS = 4.0, 8
"""A lease of slack should last for so many seconds, or so many wins that lack as much as the worst recent one."""

REFILL_SHARE, RATE_HALF_LIFE_S, RECENT_S, WORST_DECAY = 0.5, 2.0, 0.5, 0.9
"""As those of the budget's lease (`lease_cache`)."""

IDLE_S = 10.0
"""Slack that nobody has drawn on for so long is returned: other replicas may need it."""


@dataclass(slots=True)
class Part:
    """The brand's, or the portfolio's."""

    left_micros: int = 0
    drawn_micros: int = 0  # since the last look
    rate: float = 0.0  # micros a second
    worst_micros: int = 0  # greatest recent lack of a win
    least_micros: int = 0  # of an offer that waits

    def draw(self, micros: int) -> None:
        self.left_micros -= micros
        self.drawn_micros += micros
        self.worst_micros = max(self.worst_micros, micros)

    def look(self, elapsed_s: float, is_idle: bool, may_refill: bool) -> tuple[int, int, int]:
        """(micros that are held, least and wanted micros of the next grant)."""
        recent, keep = self.drawn_micros / max(elapsed_s, RECENT_S), 0.5 ** (elapsed_s / RATE_HALF_LIFE_S)
        self.rate = max(recent, self.rate * keep + self.drawn_micros * math.log(2) / RATE_HALF_LIFE_S)
        self.drawn_micros = 0
        ahead = max(int(self.rate * AHEAD_S), AHEAD_LACKS * max(self.worst_micros, self.least_micros))
        self.worst_micros = int(self.worst_micros * WORST_DECAY)
        least, self.least_micros = max(self.least_micros - self.left_micros, 0), 0
        if least:
            return self.left_micros, least, max(ahead - self.left_micros, least)
        if is_idle:
            self.left_micros = 0
        elif may_refill and self.left_micros < REFILL_SHARE * ahead:
            return self.left_micros, 0, ahead - self.left_micros
        return self.left_micros, 0, 0


@dataclass(slots=True)
class SlackLease:
    """Of one brand's day."""

    brand: Part = field(default_factory=Part)
    portfolio: Part = field(default_factory=Part)
    looked_s: float = 0.0
    used_s: float = 0.0

    def covers(self, lacks: tuple[int, int]) -> bool:
        return lacks[0] <= self.brand.left_micros and lacks[1] <= self.portfolio.left_micros

    def draw(self, lacks: tuple[int, int], now_s: float) -> None:
        self.brand.draw(lacks[0])
        self.portfolio.draw(lacks[1])
        self.used_s = now_s

    def want(self, lacks: tuple[int, int], now_s: float) -> None:
        """Let the next line ask for slack that is enough for an offer that lacks so much."""
        self.brand.least_micros = max(self.brand.least_micros, lacks[0])
        self.portfolio.least_micros = max(self.portfolio.least_micros, lacks[1])
        self.used_s = now_s

    @property
    def holds(self) -> tuple[int, int]:
        return self.brand.left_micros, self.portfolio.left_micros

    def is_idle(self, now_s: float) -> bool:
        """Whether it holds something that others may need."""
        return any(self.holds) and now_s - self.used_s > IDLE_S

    def line(self, now_s: float, may_refill: bool) -> SlackLine:
        """What the next beat says of it.

        Args:
            may_refill: whether to ask for more than what an offer waits for; not while the ledger has refused slack.
        """
        elapsed_s, self.looked_s = now_s - self.looked_s, now_s
        is_idle = self.is_idle(now_s)
        parts = [part.look(elapsed_s, is_idle, may_refill) for part in (self.brand, self.portfolio)]
        (holds, least, want), (portfolio_holds, portfolio_least, portfolio_want) = parts
        return SlackLine(holds, portfolio_holds, least, portfolio_least, want, portfolio_want)


def lacks_of(offer: Offer, terms: BrandTerms | None) -> tuple[int, int]:
    """Slack that the offer draws if it wins: of its brand and of its portfolio; nothing at or above both targets."""
    if terms is None:
        return 0, 0
    of_portfolio = 0
    if terms.portfolio_target_roas is not None:
        of_portfolio = lack(offer.revenue_micros, offer.cost_micros, Price(terms.portfolio_target_roas, terms.factor))
    return lack(offer.revenue_micros, offer.cost_micros, Price(terms.target_roas, terms.factor)), of_portfolio
