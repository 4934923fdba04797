"""POST /api/score, the hot route: a bare ASGI application that awaits nothing it does not have to wait for.

It handles the token, the deadline, repeated requests and clients that disconnect; `scorer.py` handles the bids.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import time

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ledger.client.ledger_client import LedgerClient
from serve_app.http.auth import Authenticator, Caller
from serve_app.http.headers import header
from serve_app.http.openapi import Operation
from serve_app.http.problem_details import Problem, unavailable
from serve_app.http.request_body import read_body
from serve_app.monitor import Monitor
from serve_app.prediction.expectation import Expectation
from serve_app.prediction.predictions import Predictions
from serve_app.schemas import examples
from serve_app.schemas.score import ScoreRequest, ScoreResponse
from serve_app.scoring.idempotency import IdempotencyCache, IdempotencyEntry
from serve_app.scoring.request import RequestColumns
from serve_app.scoring.score_log import ScoreLog
from serve_app.scoring.scorer import Scorer
from serve_app.settings import Settings

SENDING_S = 0.004
"""Seconds of the deadline that are left for sending the answer through the proxy."""
DEADLINE_MARGIN = 0.1
"""This share of the deadline is kept for ranking and writing the answer."""


class ScoreEndpoint:
    """An ASGI application for the one route."""

    def __init__(
        self,
        settings: Settings,
        predictions: Predictions,
        ledger: LedgerClient,
        monitor: Monitor,
        authenticator: Authenticator,
        log: ScoreLog,
    ) -> None:
        self._settings, self._http = settings.score, settings.http
        self._authenticator, self._ledger, self._tally = authenticator, ledger, monitor.tally
        self._scorer = Scorer(settings, predictions, ledger, monitor.tally, log)
        self._idempotency = IdempotencyCache(self._settings.idempotency_s, self._settings.idempotency_entries)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        status = 500
        try:
            caller = await self._authenticator.caller(_authorization(scope))
            body = await read_body(scope, receive, self._http.body_most_bytes, self._http.body_timeout_s)
            caller.require("admin", "partner")
            request, expectation = self._scorer.read(body)
            content, entry = await self._first_answer(caller, request, expectation, body, began, receive)
            status = 200
        except Problem as problem:
            status = problem.status
            raise
        except (ClientDisconnect, asyncio.CancelledError):
            status = 499
            raise
        finally:
            self._tally.scored(status, time.perf_counter() - began)
        length = b"%d" % len(content)
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": content})
        except (OSError, asyncio.CancelledError):
            self._return_later(entry)
            raise

    async def _first_answer(
        self,
        caller: Caller,
        request: RequestColumns,
        expectation: Expectation | None,
        body: bytes,
        began: float,
        receive: Receive,
    ) -> tuple[bytes, IdempotencyEntry]:
        """(the answer's bytes, the entry that remembers it); a repeated request gets the first answer.

        Raises:
            Problem: 409, the request_id was used with another body; 503, the deadline passed, or no prediction or
                ledger.
            ClientDisconnect: the client left before the answer was there.
        """
        deadline_s = (request.tmax_ms or self._settings.deadline_ms) / 1000
        until = began + deadline_s - SENDING_S
        entry = self._entry(caller, request, expectation, body, until)
        entry.askers += 1
        try:
            content = entry.content
            if content is None:
                assert entry.work is not None
                content = await _awaited(entry.work, receive, until - time.perf_counter())
            if time.perf_counter() > until:
                raise TimeoutError
        except TimeoutError:
            self._return_later(entry)
            detail = f"no answer within {deadline_s * 1000:g} ms; try again, or raise tmax_ms"
            raise unavailable(detail, "deadline") from None
        except (ClientDisconnect, asyncio.CancelledError):
            self._return_later(entry)
            raise
        return content, entry

    def _entry(
        self, caller: Caller, request: RequestColumns, expectation: Expectation | None, body: bytes, until: float
    ) -> IdempotencyEntry:
        """The entry of this request_id; a new one comes with its answer, or with the task that makes it.

        Raises:
            Problem: 409, the request_id was used with another body; 503, the ledger has not been reached yet.
        """
        key, body_hash = (caller.sub, request.request_id), hashlib.sha256(body).hexdigest()
        entry = self._idempotency.find(key)
        if entry is not None:
            if entry.body_hash != body_hash:
                detail = f"request_id {request.request_id} was used with another body; give each request its own id"
                raise Problem(409, detail, "request-id-reused")
            return entry
        entry = IdempotencyEntry(body_hash, time.monotonic())
        if expectation is not None:
            entry.content = self._scorer.answer_at_once(caller, request, expectation, entry, until)
        if entry.content is None:
            within_s = max(until - time.perf_counter(), 0.0) * (1 - DEADLINE_MARGIN)
            work = self._scorer.answer_when_predicted(caller, request, entry, within_s)
            # In a context of its own, because Serve cancels the tasks of a request whose client has left: the work
            # must go on, so that a repeated request finds its result.
            entry.work = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._idempotency.begin(key, entry)
        return entry

    def _return_later(self, entry: IdempotencyEntry) -> None:
        """Release the wins of an answer that could not be delivered, unless another request gets it in time."""
        entry.askers -= 1

        def give_back() -> None:
            if entry.askers == 0 and entry.wins:
                self._ledger.release(entry.wins)

        def wait(_: object = None) -> None:
            asyncio.get_running_loop().call_later(self._settings.idempotency_s, give_back)

        if entry.work is None:
            wait()
        else:
            entry.work.add_done_callback(wait)


async def _awaited(work: asyncio.Task[bytes], receive: Receive, within_s: float) -> bytes:
    """The result of a task that other requests may wait for too: it is not cancelled when this one stops waiting.

    Raises:
        TimeoutError: it is not done in time.
        ClientDisconnect: the client left, which is all that can be received after the body.
    """
    left = asyncio.ensure_future(receive())
    try:
        await asyncio.wait({work, left}, timeout=max(within_s, 0.0), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        if left.done():
            raise ClientDisconnect
        raise TimeoutError
    finally:
        left.cancel()


def _authorization(scope: Scope) -> str | None:
    value = header(scope, b"authorization")
    return None if value is None else value.decode("latin-1")


OPERATIONS = (
    Operation(
        "post",
        "/api/score",
        "Score and rank bids, and reserve the winners' cost",
        ScoreResponse,
        ScoreRequest,
        problems=("409",),
        tag="Scoring",
        description="Every bid comes back, best first. Report a winner's impression with its `reservation_id`; what is "
        "held and never reported goes back to the brand's budget.",
        examples=examples.SCORE,
    ),
)
