"""Takes a score request through its steps: parse, predict, rank, reserve, answer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from ledger.bidding.throttle import Admissions
from ledger.client.ledger_client import LedgerClient
from ledger.domain.messages import Award, Claim
from serve_app.http.auth import Caller
from serve_app.http.json_response import encode
from serve_app.monitor import Tally
from serve_app.prediction.cache import PredictionCache
from serve_app.prediction.columns import columns_of
from serve_app.prediction.expectation import Expectation
from serve_app.prediction.predictions import Predictions
from serve_app.schemas.score import Ranked
from serve_app.scoring.bids import Bids
from serve_app.scoring.idempotency import IdempotencyEntry
from serve_app.scoring.opportunities import opportunities
from serve_app.scoring.ranking import Offers, Ranking, rank, rejections
from serve_app.scoring.request import RequestColumns, read_checked, read_fast
from serve_app.scoring.response import Contributions, ScoreAnswer, ranked_items
from serve_app.scoring.score_log import Sampling, ScoreLog
from serve_app.scoring.upstream_errors import known_terms, prediction_problems
from serve_app.settings import Settings
from training.model.model import Explanation


class Scorer:
    """Makes the answers of one replica, from memory where it can, else by asking predictor and ledger."""

    def __init__(
        self, settings: Settings, predictions: Predictions, ledger: LedgerClient, tally: Tally, log: ScoreLog
    ) -> None:
        self._predictions, self._ledger, self._tally, self._log = predictions, ledger, tally, log
        chance = random.SystemRandom().random  # nobody can foresee it
        self._admissions, self._sampling = Admissions(chance), Sampling(log.share, chance)
        self._currency = settings.general.currency
        self._expectations = PredictionCache(
            predictions, settings.score.batch_rows, settings.serve.predictor_replicas, settings.score.remembered_tuples
        )

    def read(self, body: bytes) -> tuple[RequestColumns, Expectation | None]:
        """(the request, its bids' expectation or None if a predictor has to be asked).

        Raises:
            Invalid: 422, with a pointer to each mistake.
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

    def answer_at_once(
        self, caller: Caller, request: RequestColumns, expectation: Expectation, entry: IdempotencyEntry, until: float
    ) -> bytes | None:
        """The answer; None, and nothing has been reserved, if the ledger has to be asked or the deadline has passed."""
        ranking = self._ranked(caller, request, expectation, entry)
        if (within_s := until - time.perf_counter()) <= 0:
            return None
        award = self._ledger.reserve_now(_claim(caller, request, entry, ranking, within_s))
        if award is None:
            return None
        return self._answer(caller, request, entry, expectation.model_version, ranking, award)

    async def answer_when_predicted(
        self, caller: Caller, request: RequestColumns, entry: IdempotencyEntry, within_s: float
    ) -> bytes:
        """The answer, after asking the predictor and, where a lease is short, the ledger.

        Raises:
            Problem: 503, no prediction in time, or the ledger has not been reached yet.
        """
        until = time.monotonic() + within_s
        with prediction_problems():
            async with asyncio.timeout(within_s):
                expectation, explanation = await self._predicted(request)
        ranking = self._ranked(caller, request, expectation, entry)
        claim = _claim(caller, request, entry, ranking, until - time.monotonic())
        award = await self._ledger.reserve(claim)
        return self._answer(caller, request, entry, expectation.model_version, ranking, award, explanation)

    async def _predicted(self, request: RequestColumns) -> tuple[Expectation, Explanation | None]:
        keys = request.bids.keys
        at = int(time.time() if request.at_s is None else request.at_s)
        if request.explain:
            return await self._predictions.explain(columns_of(keys, at))
        return await self._expectations.of(keys, at, is_now=request.at_s is None), None

    def _ranked(
        self, caller: Caller, request: RequestColumns, expectation: Expectation, entry: IdempotencyEntry
    ) -> Ranking:
        terms = known_terms(self._ledger)
        if entry.admission is None:
            entry.admission = self._admissions.auction(caller.sub)
        return rank(
            request.bids,
            expectation,
            terms,
            rejections(request.bids, terms, request.currency or self._currency, caller.owns_partner),
            request.floor_micros,
            entry.admission,
        )

    def _answer(
        self,
        caller: Caller,
        request: RequestColumns,
        entry: IdempotencyEntry,
        version: str,
        ranking: Ranking,
        award: Award,
        explanation: Explanation | None = None,
    ) -> bytes:
        """The answer's bytes; the ledger, the counters and the score log are told of it."""
        bids = request.bids
        entry.wins = [(bids.brand_id[bids.bid_id.index(win.bid_id)], win.reservation_id) for win in award.wins]
        self._ledger.saw(opportunities(bids, ranking, award))
        items = ranked_items(bids, ranking, award)
        self._tally.bids(len(bids) - len(ranking.rejected))
        if explanation is not None:
            _add_contributions(items, bids, explanation)
        if self._sampling.takes(caller.sub):
            self._log.add(caller.sub, request.request_id, bids, items, version)
        return encode(ScoreAnswer(request.request_id, version, request.currency or self._currency, items))


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
