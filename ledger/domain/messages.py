"""The messages that the ledger and its callers exchange. Plain frozen data: it travels between processes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

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
    """A bid that wants to win: a score above zero, and what must be held for it."""

    bid_id: str
    where: Placement
    pricing_model: str  # cpm | cpc | cpa | revshare
    amount_micros: int  # ceil of the predicted cost


class Claim(NamedTuple):
    """One request's offers, best first. At most `winners` of them win, at most one a brand."""

    sub: str
    request_id: str
    request_hash: str
    winners: int
    offers: Sequence[Offer]
    within_s: float  # after this nobody waits for the answer


class Win(NamedTuple):
    bid_id: str
    reservation_id: str
    reserved_micros: int
    expires_at: dt.datetime


class Award(NamedTuple):
    """What became of a claim."""

    wins: tuple[Win, ...]
    refused: dict[str, str]  # bid_id → brand_budget | portfolio_budget | brand_paused | brand_unknown | no_lease


# Between an ingress replica and the ledger of a shard: one beat at a time, each answered by one reply.


class WinRecord(NamedTuple):
    """A win that was answered: what its id does not say."""

    reservation_id: str  # says the session, the amount, the day, the pricing model and the time
    award_id: str  # the wins of one answer have one
    sub: str
    request_id: str
    request_hash: str
    bid_id: str
    where: Placement


class LeaseLine(NamedTuple):
    """What a replica says of a brand's lease, and what more it wants."""

    brand_id: str
    day: dt.date  # of the lease; of the brand's today, as far as the replica knows, where it has none
    holds_micros: int  # not drawn yet. What the ledger has lent beyond this and the beat's wins goes back
    least_micros: int = 0  # less is of no use
    want_micros: int = 0
    lasting: bool = False  # it may be drawn on for holds that wait for a conversion

    @property
    def days_lent(self) -> tuple[dt.date, dt.date]:
        """Of which the wanted may be lent: the line's, or the next, which may have begun where the ledger is.

        Of no other: whoever loses the answer states what it holds of these two.
        """
        return self.day, self.day + dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Beat:
    """A replica's heartbeat: its wins since the last one that was answered, its leases, its wants."""

    session_id: int | None  # None: open one
    number: int  # grows; the ledger ignores what comes after a greater one
    wins: tuple[WinRecord, ...] = ()
    lines: tuple[LeaseLine, ...] = ()
    known_version: int = -1  # of the terms
    is_last: bool = False  # nothing is drawn any more: every lease of the session goes back
    seen: bytes = b""  # the opportunities since the last beat, as `Demand.take` packs them


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
    lease_s: float  # leases hold this long from when the beat was sent
    is_open: bool = True  # False: the session has lapsed; its leases are void, its wins have been recorded
    grants: tuple[Grant, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)  # brand_id → brand_budget | portfolio_budget | …
    recalled: tuple[str, ...] = ()  # brands of whose budget others need what is not used
    terms: Terms | None = None  # None: those that are known


@pickled_as("ledger.types")
@dataclass(frozen=True, slots=True)
class Event:
    """One item of POST /api/performance, already validated and allowed for its caller."""

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
    restates: bool = True  # the caller may change a conversion that is already there; partners may not


@pickled_as("ledger.types")
class Result(NamedTuple):
    """What became of an event."""

    event_id: str
    status: str  # accepted | duplicate | conflict | rejected
    code: str | None = None
    message: str | None = None


@pickled_as("ledger.types")
@dataclass(frozen=True, slots=True)
class BrandTerms:
    """What an ingress replica needs to score one brand's bids, in memory."""

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
    budget_micros: int | None  # the daily ones: with another budget there may be room again
    portfolio_budget_micros: int | None


@pickled_as("ledger.types")
@dataclass(frozen=True, slots=True)
class Terms:
    """A snapshot of all brands; `version` grows whenever something in it has changed."""

    version: int
    brands: dict[str, BrandTerms]
    is_whole: bool = True  # False: only the brands that have changed since the version that was known
