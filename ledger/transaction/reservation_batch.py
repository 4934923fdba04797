"""Wins of one beat that all became holds, as columns: one batch is cheaper than a reservation object for each. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from itertools import repeat
from typing import Any, NamedTuple

from ledger.domain.messages import Placement, WinDetails, WinRecord
from ledger.domain.reservation import OPEN, Lifetimes, due_at, expires_at
from ledger.domain.reservation_ids import DecodedId


class ReservationBatch(NamedTuple):
    """n wins of one session, in the order in which they were drawn, which is nearly the order of their ids."""

    session_id: int
    wins: Sequence[WinRecord]
    drawn: Sequence[DecodedId]
    portfolio_ids: Sequence[str | None]
    now: dt.datetime
    lifetimes: Lifetimes
    details: Sequence[WinDetails]

    def reservations(self) -> dict[str, Sequence[Any]]:
        """The columns of their rows in `reservations`."""
        ids, awards, subs, requests, hashes, bids, places = zip(*self.wins, strict=True)
        brands, partners, *where = zip(*places, strict=True)
        _, _, _, amounts, days, models = zip(*self.drawn, strict=True)
        starts = [min(one.created_at, self.now) for one in self.drawn]
        ends = list(map(expires_at, models, starts, repeat(self.lifetimes)))
        n = len(self.wins)
        return {
            "reservation_id": ids,
            "brand_id": brands,
            "portfolio_id": self.portfolio_ids,
            "partner_id": partners,
            "pricing_model": models,
            "day": days,
            "amount_micros": amounts,
            "held_micros": amounts,
            "settled_micros": [0] * n,
            "status": [OPEN] * n,
            "created_at": starts,
            "expires_at": ends,
            "due_at": list(map(due_at, models, starts, ends, starts)),
            "ended_at": [None] * n,
            "session_id": [self.session_id] * n,
            "award_id": awards,
            "instead_id": [None] * n,
            "sub": subs,
            "request_id": requests,
            "request_hash": hashes,
            "bid_id": bids,
            **dict(zip(WinDetails._fields, zip(*self.details, strict=True), strict=True)),
            "confirmed": [False] * n,
            **dict(zip(Placement._fields[2:], where, strict=True)),
        }

    def entries(self) -> dict[str, Sequence[Any]]:
        """The columns of their rows in the journal."""
        amounts, n = [one.amount_micros for one in self.drawn], len(self.wins)
        return {
            "kind": ["reserve"] * n,
            "brand_id": [win.where.brand_id for win in self.wins],
            "portfolio_id": self.portfolio_ids,
            "day": [one.day for one in self.drawn],
            "reservation_id": [win.reservation_id for win in self.wins],
            "session_id": [self.session_id] * n,
            "budget_delta_micros": [0] * n,
            "leased_delta_micros": [-micros for micros in amounts],
            "reserved_delta_micros": amounts,
            "settled_delta_micros": [0] * n,
        }
