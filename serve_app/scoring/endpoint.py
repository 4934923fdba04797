"""POST /api/score, the hot route: bare ASGI, and nothing is awaited where nothing has to be asked for."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import time
from collections.abc import Sequence

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ledger.bidding.throttle import admitted
from ledger.client.ledger_client import LedgerClient
from ledger.domain.messages import Award, Claim
from serve_app.http.auth import Authenticator, Caller
from serve_app.http.headers import header
from serve_app.http.json_response import encode
from serve_app.http.openapi import Operation
from serve_app.http.problem_details import Problem, unavailable
from serve_app.http.request_body import read_body
from serve_app.monitor import Monitor
from serve_app.prediction.cache import PredictionCache
from serve_app.prediction.columns import columns_of
from serve_app.prediction.expectation import Expectation
from serve_app.prediction.predictions import Predictions
from serve_app.schemas.score import Ranked, ScoreRequest, ScoreResponse
from serve_app.scoring.bids import Bids
from serve_app.scoring.idempotency import IdempotencyCache, IdempotencyEntry
from serve_app.scoring.opportunities import opportunities
from serve_app.scoring.ranking import Offers, Ranking, rank, rejections
from serve_app.scoring.request import RequestColumns, read_checked, read_fast
from serve_app.scoring.response import Contributions, ScoreAnswer, ranked_items
from serve_app.scoring.score_log import ScoreLog, sampled
from serve_app.scoring.upstream_errors import known_terms, prediction_problems
from serve_app.settings import Settings
from training.model.model import Explanation

SENDING_S = 0.004
"""Of the deadline this much is kept for the way out: the answer's bytes, the proxy."""
DEADLINE_MARGIN = 0.1
"""This share of the deadline is kept for ranking and writing the answer."""


class Scoring:
    """One replica's scoring: an ASGI application for the one route."""

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
        self._currency = settings.general.currency
        self._predictions, self._ledger = predictions, ledger
        self._tally, self._authenticator, self._log = monitor.tally, authenticator, log
        calls = settings.serve.predictor_replicas
        self._expectations = PredictionCache(
            predictions, self._settings.batch_rows, calls, self._settings.remembered_tuples
        )
        self._idempotency = IdempotencyCache(self._settings.idempotency_s, self._settings.idempotency_entries)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        status = 500
        try:
            caller = await self._authenticator.caller(_authorization(scope))
            body = await read_body(scope, receive, self._http.body_most_bytes, self._http.body_timeout_s)
            caller.require("admin", "partner")
            request, expectation = self._read(body)
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

    def _read(self, body: bytes) -> tuple[RequestColumns, Expectation | None]:
        """The request, and what its bids would bring if that is known.

        Raises: Invalid.
        """
        request = read_fast(body)
        if request is not None:
            at, keys = int(time.time()), request.bids.keys
            known = None if request.explain else self._expectations.known(keys, at)
            if known is not None:
                return request, known
            if request.bids.have_ids():
                return request, None if request.explain else self._expectations.at_once(keys, at)
        return read_checked(body), None

    async def _first_answer(
        self,
        caller: Caller,
        request: RequestColumns,
        expectation: Expectation | None,
        body: bytes,
        began: float,
        receive: Receive,
    ) -> tuple[bytes, IdempotencyEntry]:
        """The first answer to this request_id, and what is remembered of it."""
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
            raise unavailable(f"no answer within {deadline_s * 1000:g} ms", "deadline") from None
        except (ClientDisconnect, asyncio.CancelledError):
            self._return_later(entry)
            raise
        return content, entry

    def _entry(
        self, caller: Caller, request: RequestColumns, expectation: Expectation | None, body: bytes, until: float
    ) -> IdempotencyEntry:
        """What is remembered of this request_id; of a new one, its answer or the work that makes it.

        Raises:
            Problem: 409, it was used with another body; 503, the ledger has not been reached yet.
        """
        key, body_hash = (caller.sub, request.request_id), hashlib.sha256(body).hexdigest()
        entry = self._idempotency.find(key)
        if entry is not None:
            if entry.body_hash != body_hash:
                raise Problem(409, f"request_id {request.request_id} was used with another body", "request-id-reused")
            return entry
        entry = IdempotencyEntry(body_hash, time.monotonic())
        if expectation is not None:
            entry.content = self._answer_at_once(caller, request, expectation, entry, until)
        if entry.content is None:
            within_s = max(until - time.perf_counter(), 0.0) * (1 - DEADLINE_MARGIN)
            work = self._answer_when_predicted(caller, request, entry, within_s)
            # In a context of its own: Serve cancels what was called in the context of a caller that has left. The
            # work goes on, so that a repetition finds it.
            entry.work = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._idempotency.begin(key, entry)
        return entry

    def _return_later(self, entry: IdempotencyEntry) -> None:
        """An asker has not heard of these wins. If nobody has, or asks again in time, their money goes back."""
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

    # The way of a request

    def _answer_at_once(
        self, caller: Caller, request: RequestColumns, expectation: Expectation, entry: IdempotencyEntry, until: float
    ) -> bytes | None:
        """The answer; None, and nothing has happened, if the ledger has to be asked or it is too late."""
        ranking = self._ranked(caller, request, expectation)
        if (within_s := until - time.perf_counter()) <= 0:
            return None
        award = self._ledger.reserve_now(_claim(caller, request, entry, ranking, within_s))
        if award is None:
            return None
        return self._answer(request, entry, expectation.model_version, ranking, award)

    async def _answer_when_predicted(
        self, caller: Caller, request: RequestColumns, entry: IdempotencyEntry, within_s: float
    ) -> bytes:
        until = time.monotonic() + within_s
        with prediction_problems():
            async with asyncio.timeout(within_s):
                expectation, explanation = await self._predicted(request)
        ranking = self._ranked(caller, request, expectation)
        claim = _claim(caller, request, entry, ranking, until - time.monotonic())
        return self._answer(
            request, entry, expectation.model_version, ranking, await self._ledger.reserve(claim), explanation
        )

    async def _predicted(self, request: RequestColumns) -> tuple[Expectation, Explanation | None]:
        keys = request.bids.keys
        at = int(time.time() if request.at_s is None else request.at_s)
        if request.explain:
            return await self._predictions.explain(columns_of(keys, at))
        return await self._expectations.of(keys, at, is_now=request.at_s is None), None

    def _ranked(self, caller: Caller, request: RequestColumns, expectation: Expectation) -> Ranking:
        terms = known_terms(self._ledger)
        return rank(
            request.bids,
            expectation,
            terms,
            rejections(request.bids, terms, request.currency or self._currency, caller.owns_partner),
            request.floor_micros,
            lambda brand_id, share: admitted(brand_id, request.request_id, share),
        )

    def _answer(
        self,
        request: RequestColumns,
        entry: IdempotencyEntry,
        version: str,
        ranking: Ranking,
        award: Award,
        explanation: Explanation | None = None,
    ) -> bytes:
        """The answer's bytes, and word of it to whom it concerns."""
        bids = request.bids
        entry.wins = [(bids.brand_id[bids.bid_id.index(win.bid_id)], win.reservation_id) for win in award.wins]
        self._ledger.saw(opportunities(bids, ranking, award))
        items = ranked_items(bids, ranking, award)
        self._tally.bids(len(bids) - len(ranking.rejected))
        if explanation is not None:
            _add_contributions(items, bids, explanation)
        if self._log.share > 0 and sampled(request.request_id, self._log.share):
            self._log.add(request.request_id, bids, items, version)
        return encode(ScoreAnswer(request.request_id, version, request.currency or self._currency, items))


async def _awaited(work: asyncio.Task[bytes], receive: Receive, within_s: float) -> bytes:
    """What others may wait for too: it goes on whatever becomes of this asker.

    Raises:
        TimeoutError: it is not done in time.
        ClientDisconnect: the asker has left; after its body, nothing else can be received.
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


def _claim(
    caller: Caller, request: RequestColumns, entry: IdempotencyEntry, ranking: Ranking, within_s: float
) -> Claim:
    return Claim(
        sub=caller.sub,
        request_id=request.request_id,
        request_hash=entry.body_hash,
        winners=request.winners,
        offers=Offers(request.bids, ranking),
        within_s=within_s,
    )


def _add_contributions(items: Sequence[Ranked], bids: Bids, explanation: Explanation) -> None:
    for item in items:
        if item.status == "rejected":
            item.contributions = None
            continue
        row = bids.bid_id.index(item.bid_id)
        features = dict(zip(explanation.names, explanation.contributions[row].tolist(), strict=True))
        item.contributions = Contributions(float(explanation.base[row]), features)


OPERATIONS = (
    Operation(
        "post",
        "/api/score",
        "Rank bids and reserve for the winners",
        ScoreResponse,
        ScoreRequest,
        problems=("409", "413"),
    ),
)
