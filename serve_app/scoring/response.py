"""Builds the response body of POST /api/score."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import repeat
from typing import Any

import numpy as np

from ledger.domain.messages import Award, Win
from serve_app.schemas import score as contract
from serve_app.schemas.score import Ranked, Reason
from serve_app.schemas.structs import struct_of
from serve_app.scoring.bids import Bids
from serve_app.scoring.ranking import Ranking

# Made from the contract: an `_Item` has the fields of `schemas.score.Ranked`, which stands for it in annotations.
Contributions = struct_of(contract.Contributions)
_Item = struct_of(contract.Ranked)
ScoreAnswer = struct_of(contract.ScoreResponse)
"""The whole body: request_id, model_version, currency, ranked."""


def ranked_items(bids: Bids, ranking: Ranking, award: Award) -> list[Ranked]:
    """All bids as they are answered, best first; rejected ones last, with null predictions."""
    wins = {win.bid_id: win for win in award.wins}
    # The ledger may know that a brand is paused before this replica does.
    refused: dict[str, Any] = award.refused  # bid_id → one of the contract's reasons
    rejected = ranking.rejected | {
        bids.bid_id.index(bid_id): reason
        for bid_id, reason in refused.items()
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
    else:  # no ROAS where the cost is 0
        roas = [one / micros if micros else None for one, micros in zip(revenue.tolist(), cost.tolist(), strict=True)]
    names = [bids.bid_id[index] for index in order]
    items: list[Ranked] = list(
        map(
            _Item,
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
        reasons: dict[str, Any] = award.refused
        for item in items:
            if (reason := reasons.get(item.bid_id)) is not None:
                item.status, item.reason = "no_budget", reason
    for bid_id, win in wins.items():
        item = items[names.index(bid_id)]
        item.status, item.reason = "won", None
        item.reservation_id, item.reserved_micros, item.expires_at = win[1:]
    return items


def _rejected(bids: Bids, reasons: Mapping[int, Reason], ahead: int) -> list[Ranked]:
    nothing = (None,) * 6  # from score to lambda
    return [
        _Item(bids.bid_id[index], bids.brand_id[index], position, "rejected", reasons[index], *nothing)
        for position, index in enumerate(sorted(reasons), start=ahead + 1)
    ]
