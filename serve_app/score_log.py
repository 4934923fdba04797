"""A hash-sample of the scored requests goes to the database: λ learns from it, no money derives from it."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from db import Database
from db.rows import insert_rows
from db.tables import score_log
from serve_app.bids import Bids
from serve_app.ranking import Ranked

logger = logging.getLogger("paceline.score_log")


def sampled(request_id: str, share: float) -> bool:
    """Whether a request belongs to the sample: the same for every replica and every repetition."""
    return zlib.crc32(request_id.encode()) < share * 2**32


class ScoreLog:
    """Best effort and bounded: what has no room is dropped and counted."""

    def __init__(self, database: Database, share: float, rows_per_s: int, dropped: Callable[[int], None]) -> None:
        self._database, self.share, self._rows_per_s, self._dropped = database, share, rows_per_s, dropped
        self._rows: list[dict[str, Any]] = []

    def add(self, request_id: str, bids: Bids, items: Sequence[Ranked], model_version: str) -> None:
        scored = [item for item in items if item.score is not None]
        if len(self._rows) + len(scored) > self._rows_per_s:
            self._dropped(len(scored))
            return
        of_all = {
            "at": dt.datetime.now(dt.UTC),
            "request_id": request_id,
            "weight": 1.0 / self.share,
            "model_version": model_version,
        }
        index_of = {bid_id: index for index, bid_id in enumerate(bids.bid_id)}
        for item in scored:
            index = index_of[item.bid_id]
            self._rows.append(
                of_all
                | {
                    "bid_id": item.bid_id,
                    "brand_id": item.brand_id,
                    "partner_id": bids.partner_id[index],
                    "slot_id": bids.slot_id[index],
                    "pricing_model": bids.pricing_model[index],
                    "predicted_revenue_micros": item.predicted_revenue_micros,
                    "predicted_cost_micros": item.predicted_cost_micros,
                    "lambda": item.lambda_,
                    "score": item.score,
                    "status": item.status,
                }
            )

    async def flush(self) -> None:
        rows, self._rows = self._rows, []
        if not rows:
            return
        try:
            async with self._database.write() as connection:
                await connection.run_sync(insert_rows, score_log, rows)
        except (SQLAlchemyError, OSError) as error:
            self._dropped(len(rows))
            logger.warning("%d rows of the score log are lost: %s", len(rows), error)

    async def keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            await self.flush()
