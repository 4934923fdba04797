"""Stores which λ was live when: a row when a brand's λ has moved. Runs in the background, off the requests' path."""

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
"""A λ is stored when it differs from the last stored one by more than this share…"""
APART = dt.timedelta(minutes=1)
"""…at most once in this time for each brand."""
AGAIN = dt.timedelta(days=1)
"""An unchanged λ is stored again after this time, so that readers need not look back further."""
MOST = 1000
"""Most brands stored at a time; the others follow at the next look."""


class Written(NamedTuple):
    lambda_: float
    at: dt.datetime


class LambdaHistory:
    """One shard's λ history. It remembers what it has stored; after a start every brand is stored once."""

    def __init__(self, ledger: Ledger, database: Database) -> None:
        self._ledger, self._database = ledger, database
        self._written: dict[str, Written] = {}

    async def look(self) -> int:
        """Store every λ that has moved. Returns how many.

        Raises:
            SQLAlchemyError, OSError: the database does not answer; the next look tries again.
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
    """Ids of the brands to store now, at most MOST; those stored longest ago first."""
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
