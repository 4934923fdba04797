"""POST /api/performance: takes reports of impressions, clicks and conversions from those who may send them."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from db.times import TOO_OLD, Bounds
from ledger.client.ledger_client import LedgerClient
from ledger.domain.messages import Event, Result
from serve_app.http.auth import Caller
from serve_app.http.json_response import json_response
from serve_app.http.openapi import Operation
from serve_app.http.parsing import parse
from serve_app.http.request_reader import RequestReader
from serve_app.monitor import Tally
from serve_app.schemas import examples
from serve_app.schemas.performance import COUNTS, PerformanceEvent, PerformanceRequest, PerformanceResponse
from serve_app.scoring.upstream_errors import ledger_problems

RECORD_WAIT_S = 30.0
"""Seconds to wait for the ledger to record a batch."""


class PerformanceRoutes:
    """
    Args:
        history_from: its first day; None: ten years ago.
    """

    def __init__(
        self, requests: RequestReader, ledger: LedgerClient, tally: Tally, history_from: dt.date | None = None
    ) -> None:
        self._requests, self._ledger, self._tally = requests, ledger, tally
        self._history_from = history_from

    async def report(self, request: Request) -> Response:
        """POST: record what the caller may report. The answer has an item for each event, in the same order."""
        caller, body = await self._requests.caller_and_body(request, "admin", "partner", "brand")
        events = parse(PerformanceRequest, body).events
        bounds = Bounds.at(dt.datetime.now(dt.UTC), self._history_from)
        refusals = [_refusal(caller, event, bounds) for event in events]
        allowed = [event for event, refusal in zip(events, refusals, strict=True) if refusal is None]
        recorded = iter(await self._record(caller, allowed))
        results = [refusal or next(recorded) for refusal in refusals]
        counted = Counter(result.status for result in results)
        self._tally.events(counted)
        return json_response(
            {
                "accepted": counted["accepted"],
                "duplicates": counted["duplicate"],
                "rejected": counted["rejected"] + counted["conflict"],
                "items": [_item(result) for result in results],
            }
        )

    async def _record(self, caller: Caller, events: list[PerformanceEvent]) -> list[Result]:
        """Results in the order of the events. Raises: Problem, the ledger declined or cannot be reached."""
        if not events:
            return []
        with ledger_problems():
            return await self._ledger.record(RECORD_WAIT_S, [_event(caller, event) for event in events])


def _refusal(caller: Caller, event: PerformanceEvent, bounds: Bounds) -> Result | None:
    """The rejection of an event that the caller may not report, or that is too old; None if they may."""
    owns_brand = caller.owns_brand(event.brand_id)
    if not owns_brand and not caller.owns_partner(event.partner_id):
        return Result(event.event_id, "rejected", "not_found", "no such brand or partner")
    decides = event.type in ("conversion_update", "aggregate") or event.status in ("approved", "rejected")
    if decides and not owns_brand:
        why = "only a token of the brand or an admin may approve or reject conversions, or send updates and aggregates"
        return Result(event.event_id, "rejected", "forbidden", why)
    if bounds.code(event.occurred_at) == TOO_OLD:  # the ledger says what is in the future, by its own clock
        return Result(event.event_id, "rejected", TOO_OLD, f"occurred_at {bounds.reason(TOO_OLD)}")
    return None


def _event(caller: Caller, event: PerformanceEvent) -> Event:
    """The event as the ledger takes it."""
    counts = {name: getattr(event, name) or 0 for name in COUNTS}
    return Event(**{**event.model_dump(), **counts}, restates=caller.owns_brand(event.brand_id))


def _item(result: Result) -> dict[str, Any]:
    """One of `schemas.performance.PerformanceResponse.items`; code and message only where there is a code."""
    item = {"event_id": result.event_id, "status": result.status}
    return item | {"code": result.code, "message": result.message} if result.code else item


OPERATIONS = (
    Operation(
        "post",
        "/api/performance",
        "Report impressions, clicks, conversions and aggregates",
        PerformanceResponse,
        PerformanceRequest,
        tag="Results",
        description="Nothing is counted twice: an event that is sent again under its `event_id` has no effect.",
        examples=examples.PERFORMANCE,
    ),
)
