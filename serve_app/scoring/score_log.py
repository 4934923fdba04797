"""Writes a sample of the scored requests to the table score_log, from which λ is fitted; no money depends on it."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from db.errors import in_a_line
from db.outage import Outage
from db.rows import insert_columns
from db.session import Database
from db.tables import score_log
from ledger.bidding.throttle import Admissions
from serve_app.schemas.score import Ranked
from serve_app.scoring.bids import Bids

logger = logging.getLogger("paceline.score_log")


class Sampling:
    """Chooses the requests that are logged: this share of each caller's, by chance. Nothing that a caller sends
    decides, so that no request_id is in the sample more often than its weight says.

    Args:
        share: of the requests, 0 to 1.
        draw: a number from 0 to 1, evenly distributed, that callers cannot foresee.
    """

    def __init__(self, share: float, draw: Callable[[], float]) -> None:
        self._share, self._admissions = share, Admissions(draw)

    def takes(self, sub: str) -> bool:
        """Whether this request, one more of the caller with this `sub`, is logged."""
        return self._share > 0 and self._admissions.auction(sub)("", self._share)


class ScoreLog:
    """Rows waiting for the next write, once a second. Best effort: rows beyond the limits, or that the database does
    not take, are dropped and counted.

    Args:
        share: of the requests that is logged, 0 to 1.
        rows_per_s: most rows in a second.
        caller_rows_per_s: most of them that requests of one caller fill, so that others find room.
        dropped: told how many rows were dropped.
    """

    def __init__(
        self,
        database: Database,
        share: float,
        rows_per_s: int,
        caller_rows_per_s: int,
        dropped: Callable[[int], None],
    ) -> None:
        self._database, self.share, self._rows_per_s, self._dropped = database, share, rows_per_s, dropped
        self._caller_rows_per_s = caller_rows_per_s
        self._waiting: list[_Request] = []
        self._rows = 0
        self._rows_of: Counter[str] = Counter()
        self._outage = Outage(logger, "score_log is written again")

    def add(self, sub: str, request_id: str, bids: Bids, items: Sequence[Ranked], model_version: str) -> None:
        """Queue a request's bids. `sub`: the caller's, whose rows are limited."""
        scored = [item for item in items if item.score is not None]
        rows, of_caller = len(scored), self._rows_of[sub]
        # A caller's first request of a second has room whatever its size: else large ones were never logged.
        if self._rows + rows > self._rows_per_s or (of_caller and of_caller + rows > self._caller_rows_per_s):
            self._dropped(rows)
        elif scored:
            self._waiting.append(_Request(dt.datetime.now(dt.UTC), request_id, bids, scored, model_version))
            self._rows += rows
            self._rows_of[sub] += rows

    async def flush(self) -> None:
        """Write the rows that wait; on failure they are dropped."""
        waiting, rows, self._waiting, self._rows = self._waiting, self._rows, [], 0
        self._rows_of.clear()
        if not waiting:
            return

        def write(connection: Connection) -> None:
            insert_columns(connection, score_log, _columns(waiting) | {"weight": [1.0 / self.share] * rows})

        try:
            await self._database.run_write(write)
        except (SQLAlchemyError, OSError) as error:
            self._dropped(rows)
            lost = f"{rows} rows dropped (λ learns from fewer bids, no money is affected)"
            self._outage.failed(f"cannot write to score_log, {lost}, trying again with new rows: {in_a_line(error)}")
        else:
            self._outage.ended()

    async def keep_flushing(self) -> None:
        """Flush every second until cancelled."""
        while True:
            await asyncio.sleep(1.0)
            await self.flush()


class _Request(NamedTuple):
    at: dt.datetime
    request_id: str
    bids: Bids
    items: list[Ranked]  # those that were scored
    model_version: str


def _columns(requests: Sequence[_Request]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}

    def add(name: str, values: Iterable[Any]) -> None:
        columns.setdefault(name, []).extend(values)

    for at, request_id, bids, items, model_version in requests:
        add("at", repeat(at, len(items)))
        add("request_id", repeat(request_id, len(items)))
        add("model_version", repeat(model_version, len(items)))
        for name, field in OF_ITEMS.items():
            add(name, map(field, items))
        place_of = dict(zip(bids.bid_id, zip(*(getattr(bids, name) for name in OF_BIDS), strict=True), strict=True))
        for name, values in zip(OF_BIDS, zip(*(place_of[item.bid_id] for item in items), strict=True), strict=True):
            add(name, values)
    return columns


OF_BIDS = ("partner_id", "slot_id", "pricing_model")
OF_ITEMS = {
    "bid_id": attrgetter("bid_id"),
    "brand_id": attrgetter("brand_id"),
    "predicted_revenue_micros": attrgetter("predicted_revenue_micros"),
    "predicted_cost_micros": attrgetter("predicted_cost_micros"),
    "lambda": attrgetter("lambda_"),
    "score": attrgetter("score"),
    "status": attrgetter("status"),
}
"""Columns of score_log, by where their values come from: the bid or the answer's item."""
