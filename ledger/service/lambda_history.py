"""Which λ was live when: written down when it has moved, so that the registry can tell, and off every request's way."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert

from db import tables as t
from db.session import Database
from ledger.bidding.terms import ControlSignal
from ledger.domain.messages import BrandTerms
from ledger.service.ledger import Ledger

LOOK_S = 15.0
MOVED = 0.02
"""λ has moved when it differs from what was written by more than this share…"""
APART = dt.timedelta(minutes=1)
"""…and a brand is written once in this time at most."""
AGAIN = dt.timedelta(days=1)
"""A λ that stands still is written again after this time: whoever reads need not look back further."""
MOST = 1000
"""Brands written at a time; the others have their turn at the next look."""


class Written(NamedTuple):
    lambda_: float
    at: dt.datetime


class LambdaHistory:
    """A shard's. It remembers what it has written; a new one writes every brand once."""

    def __init__(self, ledger: Ledger, database: Database) -> None:
        self._ledger, self._database = ledger, database
        self._written: dict[str, Written] = {}

    async def look(self) -> int:
        """Write what has moved.

        Returns:
            How many brands that were.

        Raises:
            SQLAlchemyError, OSError: the database is away; the next look tries again.
        """
        now, terms = self._ledger.now(), self._ledger.terms.newest.brands
        moved = due(self._written, terms, now)
        if not moved:
            return 0
        rows = [_row(brand_id, terms[brand_id], self._ledger.terms.steered.get(brand_id), now) for brand_id in moved]

        def work(connection: Connection) -> None:
            connection.execute(insert(t.lambda_history), rows)

        await self._database.run_write(work)
        self._written = {brand_id: known for brand_id, known in self._written.items() if brand_id in terms}
        self._written |= {row["brand_id"]: Written(row["lambda"], now) for row in rows}
        return len(rows)


def due(written: Mapping[str, Written], terms: Mapping[str, BrandTerms], now: dt.datetime) -> list[str]:
    """Brands to write now, those that were written longest ago first."""
    long_ago = dt.datetime.min.replace(tzinfo=dt.UTC)
    waiting = []
    for brand_id, brand in terms.items():
        before = written.get(brand_id)
        if not brand.active:
            continue
        if before is None:
            waiting.append((long_ago, brand_id))
        elif now - before.at >= (APART if _has_moved(before.lambda_, brand.lambda_) else AGAIN):
            waiting.append((before.at, brand_id))
    return [brand_id for _, brand_id in sorted(waiting)[:MOST]]


def _has_moved(before: float, now: float) -> bool:
    return abs(now - before) > MOVED * abs(before)


def _row(brand_id: str, brand: BrandTerms, steered: ControlSignal | None, now: dt.datetime) -> dict[str, Any]:
    kappa = None if steered is None else steered.kappa
    return {"brand_id": brand_id, "at": now, "lambda": brand.lambda_, "kappa": kappa}
