"""A hash-sample of the scored requests goes to the database: λ learns from it, no money derives from it."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import insert
from sqlalchemy.exc import SQLAlchemyError

from db import Database
from db.tables import score_log
from serve_app.schemas import Bid

logger = logging.getLogger("paceline.score_log")


def sampled(request_id: str, share: float) -> bool:
    """Whether a request belongs to the sample: the same for every replica and every repetition."""
    digest = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


class ScoreLog:
    """Best effort and bounded: what has no room is dropped and counted."""

    def __init__(self, database: Database, share: float, rows_per_s: int, dropped: Callable[[int], None]) -> None:
        self._database, self.share, self._rows_per_s, self._dropped = database, share, rows_per_s, dropped
        self._rows: list[dict[str, Any]] = []

    def add(self, request_id: str, bids: Sequence[Bid], items: Sequence[dict[str, Any]], model_version: str) -> None:
        by_id = {bid.bid_id: bid for bid in bids}
        scored = [item for item in items if item["score"] is not None]
        if len(self._rows) + len(scored) > self._rows_per_s:
            self._dropped(len(scored))
            return
        at = dt.datetime.now(dt.UTC)
        for item in scored:
            bid = by_id[item["bid_id"]]
            row = {
                name: item[name]
                for name in (
                    "bid_id",
                    "brand_id",
                    "predicted_revenue_micros",
                    "predicted_cost_micros",
                    "lambda",
                    "score",
                    "status",
                )
            }
            row |= {"at": at, "request_id": request_id, "weight": 1.0 / self.share, "model_version": model_version}
            row |= {"partner_id": bid.partner_id, "slot_id": bid.slot_id, "pricing_model": bid.pricing_model}
            self._rows.append(row)

    async def flush(self) -> None:
        rows, self._rows = self._rows, []
        if not rows:
            return
        try:
            async with self._database.write() as connection:
                await connection.execute(insert(score_log), rows)
        except (SQLAlchemyError, OSError) as error:
            self._dropped(len(rows))
            logger.warning("%d rows of the score log are lost: %s", len(rows), error)

    async def keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            await self.flush()
