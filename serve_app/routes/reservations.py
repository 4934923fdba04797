"""POST /api/reservations/release: gives back what wins hold that will not be shown (a loss notice)."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ledger.client.ledger_client import LedgerClient
from serve_app.http.json_response import json_response
from serve_app.http.openapi import Operation
from serve_app.http.parsing import parse
from serve_app.http.request_reader import RequestReader
from serve_app.routes.waits import LEDGER_WAIT_S, SYNC_BEFORE_READ_S
from serve_app.schemas import examples
from serve_app.schemas.reservations import ReleaseRequest, ReleaseResponse
from serve_app.scoring.upstream_errors import ledger_problems


class ReservationRoutes:
    def __init__(self, requests: RequestReader, ledger: LedgerClient) -> None:
        self._requests, self._ledger = requests, ledger

    async def release(self, request: Request) -> Response:
        """POST: release reservations of the caller's own partners, for an admin of any."""
        caller, body = await self._requests.caller_and_body(request, "admin", "partner")
        ids = parse(ReleaseRequest, body).reservation_ids
        partner_ids = None if caller.is_admin else caller.partner_ids
        await self._ledger.summon_within(SYNC_BEFORE_READ_S)  # only recorded wins can be released
        with ledger_problems():
            became = await self._ledger.give_back(LEDGER_WAIT_S, ids, partner_ids)
        return json_response(
            {
                "released": sum(status == "released" for status in became.values()),
                "items": [{"reservation_id": id_, "status": became[id_]} for id_ in ids],
            }
        )


OPERATIONS = (
    Operation(
        "post",
        "/api/reservations/release",
        "Give back the reservations of wins that will not be shown",
        ReleaseResponse,
        ReleaseRequest,
        tag="Scoring",
        description="Without it they hold their brand's budget until they expire. A repetition has no effect.",
        examples=examples.RELEASE,
    ),
)
