"""The answer of POST /api/score, as it is written."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from itertools import repeat

import numpy as np
from msgspec import UNSET, Struct, UnsetType

from ledger.domain.messages import Award, Win
from serve_app.prediction.columns import Bids
from serve_app.scoring.ranking import Ranking


class Contributions(Struct, gc=False):
    base: float
    features: dict[str, float]


class Ranked(Struct, rename={"lambda_": "lambda"}, gc=False):
    """An item of `schemas.ScoreResponse.ranked`, as it is written."""

    bid_id: str
    brand_id: str
    rank: int
    status: str
    reason: str | None
    score: float | None = None
    predicted_revenue_micros: float | None = None
    predicted_cost_micros: float | None = None
    predicted_roas: float | None = None
    strategy_multiplier: float | None = None
    lambda_: float | None = None
    reservation_id: str | None = None
    reserved_micros: int | None = None
    expires_at: dt.datetime | None = None
    contributions: Contributions | UnsetType | None = UNSET


class Answer(Struct, gc=False):
    """`schemas.ScoreResponse`, as it is written."""

    request_id: str
    model_version: str
    currency: str
    ranked: list[Ranked]


def answer(bids: Bids, ranking: Ranking, award: Award) -> list[Ranked]:
    """All bids, best first; rejected ones last, with null predictions."""
    wins = {win.bid_id: win for win in award.wins}
    # The ledger may know of a pause that this replica has not heard of yet.
    rejected = ranking.rejected | {
        bids.bid_id.index(bid_id): reason
        for bid_id, reason in award.refused.items()
        if reason in ("brand_paused", "brand_unknown")
    }
    order = ranking.best_first
    if len(rejected) > len(ranking.rejected):
        order = [index for index in order if index not in rejected]
    if ranking.has_ties:
        values = ranking.score.tolist()
        order = sorted(order, key=lambda i: (-values[i], bids.bid_id[i] not in wins, bids.bid_id[i]))
    return [*_scored(bids, ranking, award, wins, order), *_rejected(bids, rejected, len(order))]


def _scored(bids: Bids, ranking: Ranking, award: Award, wins: Mapping[str, Win], order: list[int]) -> list[Ranked]:
    if not order:
        return []
    at, n = np.array(order), len(order)
    revenue, cost = ranking.revenue[at], ranking.cost[at]
    roas: list[float | None]
    if np.count_nonzero(cost) == n:
        roas = (revenue / cost).tolist()
    else:  # what costs nothing has none
        roas = [one / micros if micros else None for one, micros in zip(revenue.tolist(), cost.tolist(), strict=True)]
    names = [bids.bid_id[index] for index in order]
    items = list(
        map(
            Ranked,
            names,
            [bids.brand_id[index] for index in order],
            range(1, n + 1),
            repeat("lost"),
            repeat("outbid"),
            ranking.score[at].tolist(),
            revenue.tolist(),
            cost.tolist(),
            roas,
            ranking.multiplier[at].tolist(),
            ranking.lambda_[at].tolist(),
        )
    )
    if ranking.refused:
        for item, index in zip(items, order, strict=True):
            if index in ranking.refused:
                item.status, item.reason = ranking.refused[index]
    if award.refused:
        for item in items:
            if (reason := award.refused.get(item.bid_id)) is not None:
                item.status, item.reason = "no_budget", reason
    for bid_id, win in wins.items():
        item = items[names.index(bid_id)]
        item.status, item.reason = "won", None
        item.reservation_id, item.reserved_micros, item.expires_at = win[1:]
    return items


def _rejected(bids: Bids, reasons: Mapping[int, str], ahead: int) -> list[Ranked]:
    return [
        Ranked(bids.bid_id[index], bids.brand_id[index], position, "rejected", reasons[index])
        for position, index in enumerate(sorted(reasons), start=ahead + 1)
    ]
