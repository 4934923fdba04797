"""The words that the ledger and its callers exchange. Plain frozen data: it travels between processes."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import NamedTuple


class Tuple(NamedTuple):
    """Where an impression happened."""

    brand_id: str
    partner_id: str
    slot_id: str
    device_type: str
    creative_type: str
    placement_score: float | None


@dataclass(frozen=True, slots=True)
class Offer:
    """A bid that wants to win: a score above zero, and what must be held for it."""

    bid_id: str
    where: Tuple
    pricing_model: str  # cpm | cpc | cpa | revshare
    amount_micros: int  # ceil of the predicted cost


@dataclass(frozen=True, slots=True)
class Claim:
    """One request's offers, best first. At most `winners` of them win, at most one a brand."""

    sub: str
    request_id: str
    request_hash: str
    winners: int
    offers: tuple[Offer, ...]
    within_s: float  # from when the ledger receives it; after this nobody waits: nothing may be reserved


@dataclass(frozen=True, slots=True)
class Win:
    bid_id: str
    reservation_id: str
    reserved_micros: int
    expires_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Award:
    """What became of a claim."""

    wins: tuple[Win, ...]
    refused: dict[str, str]  # bid_id → brand_budget | portfolio_budget | brand_paused | brand_unknown | no_lease
    repeated: bool = False  # the request was recorded before; of its wins, those that still hold or have spent stand
    conflict: bool = False  # the same request_id was recorded before with another body; nothing was reserved


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


class Result(NamedTuple):
    """What became of an event."""

    event_id: str
    status: str  # accepted | duplicate | conflict | rejected
    code: str | None = None
    message: str | None = None


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
    day_ends_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Terms:
    """A snapshot of all brands; `version` grows whenever something in it has changed."""

    version: int
    brands: dict[str, BrandTerms]
