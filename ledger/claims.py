"""Who wins: claims against the budgets of a page, offer by offer, best first. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ledger.brand import Brand
from ledger.errors import MoneyOutOfRange
from ledger.page import Page
from ledger.reservation import OPEN, SETTLED, Lifetimes, Reservation, due_at, expires_at
from ledger.types import Award, Claim, Offer, Win

NO_LEASE = "no_lease"
"""Refused, for there is or will be no money behind it."""

Request = tuple[str, str]
"""sub, request_id: a request is paid for once."""


class Recorded(NamedTuple):
    """A win that the database already has."""

    request_hash: str
    status: str
    bid_id: str
    reservation_id: str
    reserved_micros: int
    expires_at: dt.datetime


class Awarding:
    """Awards claims one after the other; each sees what the ones before it have taken.

    Args:
        recorded: wins that the database has of these requests already.
        brands: those that the claims name, as they are now.
    """

    def __init__(
        self,
        page: Page,
        recorded: Mapping[Request, Sequence[Recorded]],
        brands: Mapping[str, Brand],
        lifetimes: Lifetimes,
        ids: Callable[[], str],
    ) -> None:
        self._page, self._brands, self._lifetimes, self._ids = page, brands, lifetimes, ids
        self._recorded = {request: list(wins) for request, wins in recorded.items()}
        self.rows: dict[str, dict[str, Any]] = {}
        """For each new reservation, the columns that only its claim knows."""
        self.confirmed: set[str] = set()
        """Reservations that a repeated claim is told of."""

    def award(self, claim: Claim) -> Award:
        request = (claim.sub, claim.request_id)
        if before := self._recorded.get(request):
            if before[0].request_hash != claim.request_hash:
                return Award((), {}, conflict=True)
            return self._repeat(before)
        wins: list[Win] = []
        refused: dict[str, str] = {}
        winners: set[str] = set()
        for offer in claim.offers:
            if len(wins) >= claim.winners:
                break
            if offer.where.brand_id in winners:
                continue
            refusal, win = self._try(claim, offer)
            if win is None:
                refused[offer.bid_id] = refusal
                continue
            winners.add(offer.where.brand_id)
            wins.append(win)
        if wins:
            self._recorded[request] = [Recorded(claim.request_hash, OPEN, *_win(win)) for win in wins]
        return Award(tuple(wins), refused)

    def _repeat(self, before: Sequence[Recorded]) -> Award:
        """The first award again, as far as there is money behind it: held still, or spent."""
        wins = [Win(*win[2:]) for win in before if win.status in (OPEN, SETTLED)]
        self.confirmed.update(win.reservation_id for win in before if win.status == OPEN)
        gone = {win.bid_id: NO_LEASE for win in before if win.status not in (OPEN, SETTLED)}
        return Award(tuple(wins), gone, repeated=True)

    def _try(self, claim: Claim, offer: Offer) -> tuple[str, Win | None]:
        brand = self._brands.get(offer.where.brand_id)
        if brand is None:
            return "brand_unknown", None
        if not brand.settings.active:
            return "brand_paused", None
        now = self._page.now
        day, portfolio_id = brand.day(now), brand.settings.portfolio_id
        if refusal := self._page.refusal(brand.brand_id, portfolio_id, day, offer.amount_micros):
            return refusal, None
        end = expires_at(offer.pricing_model, now, self._lifetimes)
        reservation = Reservation(
            reservation_id=self._ids(),
            brand_id=brand.brand_id,
            portfolio_id=portfolio_id,
            partner_id=offer.where.partner_id,
            pricing_model=offer.pricing_model,
            day=day,
            amount_micros=offer.amount_micros,
            held_micros=offer.amount_micros,
            settled_micros=0,
            status=OPEN,
            created_at=now,
            expires_at=end,
            due_at=due_at(offer.pricing_model, now, end, now),
        )
        try:
            self._page.reserve(reservation)
        except MoneyOutOfRange:  # an unlimited budget has its end too
            return "brand_budget", None
        self.rows[reservation.reservation_id] = {
            "sub": claim.sub,
            "request_id": claim.request_id,
            "request_hash": claim.request_hash,
            "bid_id": offer.bid_id,
            "slot_id": offer.where.slot_id,
            "device_type": offer.where.device_type,
            "creative_type": offer.where.creative_type,
            "placement_score": offer.where.placement_score,
        }
        win = Win(offer.bid_id, reservation.reservation_id, reservation.amount_micros, reservation.expires_at)
        return "", win


def too_late(claim: Claim) -> Award:
    """Nobody waits for the answer any more: nothing is reserved."""
    return Award((), {offer.bid_id: NO_LEASE for offer in claim.offers})


def _win(win: Win) -> tuple[Any, ...]:
    return win.bid_id, win.reservation_id, win.reserved_micros, win.expires_at
