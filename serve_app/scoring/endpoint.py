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
from serve_app import schemas
from serve_app.http.auth import Authenticator, Caller
from serve_app.http.json_response import encode
from serve_app.http.openapi import Operation
from serve_app.http.parsing import parse
from serve_app.http.problem_details import Invalid, Problem, unavailable
from serve_app.http.request_middleware import header, read_body
from serve_app.monitor import Monitor
from serve_app.prediction.cache import PredictionCache, Predictions
from serve_app.prediction.columns import Bids, Wanted, columns_of, read
from serve_app.prediction.expectation import Expectation
from serve_app.scoring.idempotency import IdempotencyCache, Remembered
from serve_app.scoring.opportunities import opportunities
from serve_app.scoring.ranking import Offers, Ranking, rank, rejections
from serve_app.scoring.response import Answer, Contributions, Ranked, answer
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
        self._repeats = IdempotencyCache(self._settings.idempotency_s, self._settings.idempotency_entries)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        status = 500
        try:
            caller = await self._authenticator.caller(_authorization(scope))
            body = await read_body(scope, receive, self._http.body_most_bytes, self._http.body_timeout_s)
            caller.require("admin", "partner")
            wanted, expectation = self._read(body)
            content, entry = await self._answered_once(caller, wanted, expectation, body, began, receive)
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

    def _read(self, body: bytes) -> tuple[Wanted, Expectation | None]:
        """The request, and what its bids would bring if that is known.

        Raises: Invalid.
        """
        wanted = read(body)
        if wanted is not None:
            at, keys = int(time.time()), wanted.bids.keys
            known = None if wanted.explain else self._expectations.known(keys, at)
            if known is not None:
                return wanted, known
            if wanted.bids.have_ids():
                return wanted, None if wanted.explain else self._expectations.at_once(keys, at)
        request = parse(schemas.ScoreRequest, body)
        _refuse_repeated_bids(request)
        return Wanted.of(request), None

    async def _answered_once(
        self,
        caller: Caller,
        wanted: Wanted,
        expectation: Expectation | None,
        body: bytes,
        began: float,
        receive: Receive,
    ) -> tuple[bytes, Remembered]:
        """The first answer to this request_id, and what is remembered of it."""
        deadline_s = (wanted.tmax_ms or self._settings.deadline_ms) / 1000
        until = began + deadline_s - SENDING_S
        key, body_hash = (caller.sub, wanted.request_id), hashlib.sha256(body).hexdigest()
        entry = self._repeats.find(key)
        if entry is None:
            entry = Remembered(body_hash, time.monotonic())
            if expectation is not None:
                entry.content = self._at_once(caller, wanted, expectation, entry, until)
            if entry.content is None:
                within_s = max(until - time.perf_counter(), 0.0) * (1 - DEADLINE_MARGIN)
                work = self._asking(caller, wanted, entry, within_s)
                # In a context of its own: Serve cancels what was called in the context of a caller that has left. The
                # work goes on, so that a repetition finds it.
                entry.work = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
            self._repeats.begin(key, entry)
        elif entry.body_hash != body_hash:
            raise Problem(409, f"request_id {wanted.request_id} was used with another body", "request-id-reused")
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

    def _return_later(self, entry: Remembered) -> None:
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

    def _at_once(
        self, caller: Caller, wanted: Wanted, expectation: Expectation, entry: Remembered, until: float
    ) -> bytes | None:
        """The answer; None, and nothing has happened, if the ledger has to be asked or it is too late."""
        ranking = self._ranked(caller, wanted, expectation)
        if (within_s := until - time.perf_counter()) <= 0:
            return None
        award = self._ledger.reserve_now(_claim(caller, wanted, entry, ranking, within_s))
        if award is None:
            return None
        return self._told(wanted, entry, expectation.model_version, ranking, award)

    async def _asking(self, caller: Caller, wanted: Wanted, entry: Remembered, within_s: float) -> bytes:
        until = time.monotonic() + within_s
        with prediction_problems():
            async with asyncio.timeout(within_s):
                expectation, explanation = await self._asked(wanted)
        ranking = self._ranked(caller, wanted, expectation)
        claim = _claim(caller, wanted, entry, ranking, until - time.monotonic())
        return self._told(
            wanted, entry, expectation.model_version, ranking, await self._ledger.reserve(claim), explanation
        )

    async def _asked(self, wanted: Wanted) -> tuple[Expectation, Explanation | None]:
        keys = wanted.bids.keys
        at = int(time.time() if wanted.at_s is None else wanted.at_s)
        if wanted.explain:
            return await self._predictions.explain(columns_of(keys, at))
        return await self._expectations.of(keys, at, is_now=wanted.at_s is None), None

    def _ranked(self, caller: Caller, wanted: Wanted, expectation: Expectation) -> Ranking:
        terms = known_terms(self._ledger)
        return rank(
            wanted.bids,
            expectation,
            terms,
            rejections(wanted.bids, terms, wanted.currency or self._currency, caller.owns_partner),
            wanted.floor_micros,
            lambda brand_id, share: admitted(brand_id, wanted.request_id, share),
        )

    def _told(
        self,
        wanted: Wanted,
        entry: Remembered,
        version: str,
        ranking: Ranking,
        award: Award,
        explanation: Explanation | None = None,
    ) -> bytes:
        """The answer's bytes, and word of it to whom it concerns."""
        bids = wanted.bids
        entry.wins = [(bids.brand_id[bids.bid_id.index(win.bid_id)], win.reservation_id) for win in award.wins]
        self._ledger.saw(opportunities(bids, ranking, award))
        items = answer(bids, ranking, award)
        self._tally.bids(len(bids) - len(ranking.rejected))
        if explanation is not None:
            _add_contributions(items, bids, explanation)
        if self._log.share > 0 and sampled(wanted.request_id, self._log.share):
            self._log.add(wanted.request_id, bids, items, version)
        return encode(Answer(wanted.request_id, version, wanted.currency or self._currency, items))


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


def _refuse_repeated_bids(request: schemas.ScoreRequest) -> None:
    seen: set[str] = set()
    for index, bid in enumerate(request.bids):
        if bid.bid_id in seen:
            raise Invalid.at(f"/bids/{index}/bid_id", f"{bid.bid_id} is the name of an earlier bid", "duplicate_bid_id")
        seen.add(bid.bid_id)


def _claim(caller: Caller, wanted: Wanted, entry: Remembered, ranking: Ranking, within_s: float) -> Claim:
    return Claim(
        sub=caller.sub,
        request_id=wanted.request_id,
        request_hash=entry.body_hash,
        winners=wanted.winners,
        offers=Offers(wanted.bids, ranking),
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
        schemas.ScoreResponse,
        schemas.ScoreRequest,
        problems=("409", "413"),
    ),
)
