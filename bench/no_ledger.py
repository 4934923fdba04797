"""The application without a ledger, to measure what leases, records, sessions and λ cost.

For the benchmark only. `serve_app.run.main(application="bench.no_ledger:build")` starts it as `make run` would.
Every win is granted and nothing is recorded, so its reservations are worth nothing.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Collection, Sequence
from typing import Any

from ray.serve import Application

import serve_app.app
from bench.system import BRANDS, LIMITS
from db.brands import BrandSettings
from ledger.bidding.demand import Opportunity
from ledger.bidding.terms import TermsBook
from ledger.client.ledger_client import LedgerClient
from ledger.domain.brand import Brand
from ledger.domain.messages import Award, Claim, Offer, Win
from serve_app.app import IngressReplica
from serve_app.settings import Settings

TTL = dt.timedelta(minutes=30)


class Granting(LedgerClient):
    """Replaces `LedgerClient`: has the terms of the benchmark's brands, and grants every win."""

    def __init__(self) -> None:
        super().__init__([])  # nobody is connected to, nothing beats
        now = dt.datetime.now(dt.UTC)
        settings = BrandSettings.model_validate(LIMITS)
        book = TermsBook()
        book.make(now, 1, {brand_id: Brand(brand_id, settings, now) for brand_id in BRANDS}, {}, {})
        self.terms = book.newest
        self._granted = time.time_ns() % 10**12 * 10**6

    async def reserve(self, claim: Claim) -> Award:
        return self.reserve_now(claim)

    def reserve_now(self, claim: Claim) -> Award:
        best: dict[str, Offer] = {}
        for offer in claim.offers:
            if len(best) >= claim.winners:
                break
            best.setdefault(offer.where.brand_id, offer)
        return Award(tuple(self._grant(offer) for offer in best.values()), {})

    def _grant(self, offer: Offer) -> Win:
        self._granted += 1
        # As long as a real id, so that answers are.
        return Win(offer.bid_id, f"{self._granted:056}", offer.amount_micros, dt.datetime.now(dt.UTC) + TTL)

    def saw(self, opportunities: Sequence[Opportunity]) -> None:
        """Does nothing: no λ is computed."""

    def release(self, wins: Collection[tuple[str, str]]) -> None:
        """Does nothing: there are no reservations."""


class WithoutLedger(IngressReplica):
    """The ingress replica, with another ledger."""

    def ledger(self, settings: Settings, decided_at: float) -> LedgerClient:
        return Granting()


def build(args: dict[str, Any]) -> Application:
    """The application of `serve_app.app`, with these ingress replicas."""
    deployment = serve_app.app.build(args)._bound_deployment
    made = deployment._replica_config
    return deployment.options(func_or_class=WithoutLedger).bind(*(made.init_args or ()), **(made.init_kwargs or {}))
