"""The ledger's settings: `PACELINE_LEDGER_…` and `PACELINE_ROAS_…`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from db.section import MOST, Count, Seconds, Section
from ledger.domain.sharding import SHARDS_MOST
from ledger.former_names import pickled_as


@pickled_as("ledger.settings")
class LedgerSettings(Section, frozen=True):
    reservation_ttl_s: Seconds = 1800.0
    """How long a cpm or cpc win's predicted cost stays reserved without an event."""
    conversion_days: Annotated[int, Field(ge=1, le=365)] = 30
    """How long a cpa or revshare hold lives; it shrinks along the conversion-delay curve meanwhile."""
    lease_s: Seconds = 5.0
    """How long an ingress replica may draw on its leases without an answer from the ledger."""
    beat_s: Seconds = 1.0
    """How often an ingress replica tells the ledger its wins, and hears of λ, throttle, pauses and budgets."""
    shards: Annotated[int, Field(ge=1, le=SHARDS_MOST)] = 1
    """Ledgers that share the portfolios by hash. A deployment with another number replaces all ledgers before it."""
    silence_s: Seconds = 3.0
    """How long a ledger may be silent before it is replaced."""
    sweep_s: Seconds = 1.0
    """How often expired holds are released."""
    refresh_s: Seconds = 1.0
    """How often brands, portfolios and λ fits that other processes wrote are read."""
    batch_events: Count = 1000
    """Most events in one transaction; beats run between the parts of a larger batch."""
    gauges_s: Seconds = 5.0
    """How soon changed budgets show in Redis for the monitor."""


@pickled_as("ledger.settings")
class RoasSettings(Section, frozen=True):
    window: Annotated[str, Field(pattern=r"^[1-9]\d{0,2}d$")] = "7d"
    """Days of `brand_roas_current`, today included."""
    min_impressions: Annotated[int, Field(ge=0)] = 1000
    """With fewer impressions the current ROAS is unknown, and nothing is throttled."""
    resolve_s: Seconds = 5.0
    """How often λ is computed again during the day."""
    watch_s: Annotated[float, Field(ge=0, le=MOST)] = 300.0
    """How long a brand's opportunities are watched before its λ changes by day."""
    refresh_s: Seconds = 60.0
    """How often the current ROAS and the throttle are computed from the Redis counters."""

    @property
    def window_days(self) -> int:
        return int(self.window[:-1])
