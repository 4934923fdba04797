"""The messages that the ledger and its callers exchange: frozen data that is sent between processes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ledger.former_names import pickled_as


class Placement(NamedTuple):
    """Where an impression happened."""

    brand_id: str
    partner_id: str
    slot_id: str
    device_type: str
    creative_type: str
    placement_score: float | None


class Offer(NamedTuple):
    """A bid with a score above zero, and the amount that must be held if it wins."""

    bid_id: str
    where: Placement
    pricing_model: str  # cpm | cpc | cpa | revshare
    amount_micros: int  # ceil of the predicted cost
    revenue_micros: float  # predicted, as is the cost
    cost_micros: float
    price_micros: int | None = None  # per 1,000 impressions, click or conversion
    revenue_share: float | None = None  # of revshare


class Claim(NamedTuple):
    """One request's offers, best first. At most `winners` of them win, at most one of a brand."""

    sub: str
    request_id: str
    request_hash: str
    winners: int
    offers: Sequence[Offer]
    within_s: float  # the client waits no longer


class Win(NamedTuple):
    bid_id: str
    reservation_id: str
    reserved_micros: int
    expires_at: dt.datetime


class Award(NamedTuple):
    """The result of a claim."""

    wins: tuple[Win, ...]
    refused: dict[str, str]  # bid_id → brand_budget | portfolio_budget | roas_slack | no_lease | brand_paused | …


class Release(NamedTuple):
    """A caller's request to release reservations."""

    reservation_ids: tuple[str, ...]
    partner_ids: frozenset[str] | None  # whose it may release; None: any


RELEASED, ENDED, SHOWN, NOT_FOUND = "released", "ended", "shown", "not_found"
"""What becomes of a reservation that is to be released."""


@dataclass(frozen=True, slots=True)
class Change:
    """A PUT or PATCH of a brand's or portfolio's settings."""

    given: dict[str, Any]  # by name, as they came
    defaults: dict[str, Any] | None  # PUT: of those that are left out; None: PATCH, they stay as they are
    if_match: tuple[str, ...] = ()  # tags of the settings that the caller has seen; `*`: any that exist
    if_none_match: tuple[str, ...] = ()  # tags that the settings must not have; `*`: it must not exist
    has_seen_schedule: bool = False  # the caller has put back what it got, a scheduled change included

    @property
    def portfolio_id(self) -> str | None:
        """The portfolio that is asked for, if any."""
        found: str | None = {**(self.defaults or {}), **self.given}.get("portfolio_id")
        return found


# Between an ingress replica and the ledger of a shard: one beat at a time, each answered by one reply.


class WinRecord(NamedTuple):
    """A win that was answered, as its replica reports it."""

    reservation_id: str  # contains session, amount, day, pricing model and time
    award_id: str  # the same for all wins of one answer
    sub: str
    request_id: str
    request_hash: str
    bid_id: str
    where: Placement


class WinDetails(NamedTuple):
    """What else is recorded of a win."""

    revenue_micros: int = 0  # predicted, rounded down
    lack_micros: int = 0  # slack of its brand that it has drawn
    portfolio_lack_micros: int = 0
    price_micros: int | None = None
    revenue_share: float | None = None


NO_DETAILS = WinDetails()
"""Of a win of a replica of the version before."""


class LeaseLine(NamedTuple):
    """What a replica holds of a brand's lease, and how much more it wants."""

    brand_id: str
    day: dt.date  # of the lease; without a lease the brand's today, as far as the replica knows
    holds_micros: int  # not drawn yet; what the ledger has lent beyond this and the beat's wins goes back
    least_micros: int = 0  # a smaller grant is of no use
    want_micros: int = 0
    lasting: bool = False  # the grant must be good for cpa and revshare

    @property
    def days_lent(self) -> tuple[dt.date, dt.date]:
        """The days that a grant may be of: the line's, or the next, if that has begun by the ledger's clock.

        No other day, since a replica that loses the reply states what it holds of these two.
        """
        return self.day, self.day + dt.timedelta(days=1)


class SlackLine(NamedTuple):
    """What a replica holds of a lease's slack, and how much more it wants: the brand's, and the portfolio's."""

    holds_micros: int = 0
    portfolio_holds_micros: int = 0
    least_micros: int = 0  # a smaller grant is of no use
    portfolio_least_micros: int = 0
    want_micros: int = 0
    portfolio_want_micros: int = 0

    @property
    def is_wanting(self) -> bool:
        return self.want_micros > 0 or self.portfolio_want_micros > 0


NO_SLACK = SlackLine()


@dataclass(frozen=True, slots=True)
class Beat:
    """A replica's heartbeat: its wins since the last one that was answered, what it holds and what it wants."""

    session_id: int | None  # None: open a session
    number: int  # grows; the ledger ignores a beat that comes after a later one
    wins: tuple[WinRecord, ...] = ()
    lines: tuple[LeaseLine, ...] = ()
    known_version: int = -1  # of the terms
    is_last: bool = False  # the session ends: all its leases go back
    seen: bytes = b""  # the opportunities since the last beat, as `Demand.take` packs them
    details: tuple[WinDetails, ...] = ()  # one for each of the wins; empty: of the version before
    slack: tuple[SlackLine, ...] = ()  # one for each of the lines; empty: no slack is held or wanted

    def slack_lines(self) -> Iterable[tuple[LeaseLine, SlackLine]]:
        """Each line with its slack."""
        return zip(self.lines, self.slack or (NO_SLACK,) * len(self.lines), strict=True)


@pickled_as("ledger.types")
class Grant(NamedTuple):
    """An addition to a lease."""

    brand_id: str
    day: dt.date
    micros: int
    lasting: bool
    ends_in_s: float  # until the brand's midnight


@pickled_as("ledger.types")
@dataclass(frozen=True, slots=True)
class Reply:
    session_id: int
    secret: bytes
    now: dt.datetime  # the ledger's clock
    lease_s: float  # leases may be drawn on for so long from when the beat was sent
    is_open: bool = True  # False: the session has ended; its leases are gone, the beat's wins are recorded
    grants: tuple[Grant, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)  # brand_id → brand_budget | portfolio_budget | …
    recalled: tuple[str, ...] = ()  # brand ids: return what is not used of their leases, others need it
    terms: Terms | None = None  # None: they have not changed
    slack: dict[str, tuple[int, int, int] | None] = field(default_factory=dict)
    """By brand id: (day as an ordinal, micros of the brand's slack, of the portfolio's) that are added to its lease;
    None: there is not enough. Plain values, since a replica of the version before gets them, too."""


@pickled_as("ledger.types")
@dataclass(frozen=True, slots=True)
class Event:
    """One item of POST /api/performance, validated, and allowed for its caller."""

    event_id: str
    type: str  # impression | click | conversion | conversion_update | aggregate
    occurred_at: dt.datetime
    brand_id: str
    partner_id: str
    slot_id: str | None = None
    device_type: str | None = None
    creative_type: str | None = None
    placement_score: float | None = None
    reservation_id: str | None = None
    click_id: str | None = None
    conversion_id: str | None = None
    status: str | None = None  # of conversions: pending | approved | rejected
    period: str | None = None  # of aggregates: hour | day
    impressions: int = 0
    clicks: int = 0
    conversions: int = 0
    cost_micros: int | None = None
    revenue_micros: int | None = None
    currency: str | None = None
    restates: bool = True  # the caller may change a recorded conversion; partners may not


@pickled_as("ledger.types")
class Result(NamedTuple):
    """Whether an event was accepted."""

    event_id: str
    status: str  # accepted | duplicate | conflict | rejected
    code: str | None = None
    message: str | None = None


@pickled_as("ledger.types")
@dataclass(frozen=True, slots=True)
class BrandTerms:
    """What an ingress replica needs to score one brand's bids."""

    currency: str
    active: bool
    target_roas: float
    strategy_multiplier: float
    lambda_: float  # strategy_multiplier × κ
    share: float  # of auctions that the brand takes part in, 1 unless throttled
    throttled: bool
    day: dt.date  # the budget day
    day_ends_at: dt.datetime
    portfolio_id: str | None
    budget_micros: int | None  # daily; None: unlimited. After a change refused leases are asked for again
    portfolio_budget_micros: int | None
    factor: float = 1.0  # realised ÷ predicted revenue, as far as today has shown it
    portfolio_target_roas: float | None = None
    lambda_floor: float = 0.0  # share of target_roas that λ stays at or above
    max_cost_micros: int | None = None  # no win is dearer; None: as the brand's history says


@pickled_as("ledger.types")
@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of all brands; `version` grows with every change."""

    version: int
    brands: dict[str, BrandTerms]
    is_whole: bool = True  # False: only brands that have changed since the beat's `known_version`
