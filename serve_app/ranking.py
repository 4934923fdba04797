"""Score, order, winners. Pure: no clock, no database, no cluster."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ledger import Award, BrandTerms, Offer, Tuple
from ledger.seen import OUTBID, TOO_DEAR, UNDECIDED, WON, Opportunity
from serve_app.schemas import Bid

FloatArray = NDArray[np.float64]


class Expectation(NamedTuple):
    """What winning each bid would bring, per impression: (n,) revenue in micros, clicks and conversions as rates."""

    revenue_micros: FloatArray
    ctr: FloatArray
    cvr: FloatArray
    model_version: str


def scores(revenue: FloatArray, cost: FloatArray, multiplier: FloatArray, lambda_: FloatArray) -> FloatArray:
    """Worth of winning each bid once its cost is priced at λ: revenue · multiplier − λ · cost.

    Args:
        revenue, cost: (n,) expected micros per impression, ≥ 0.
        multiplier: (n,) the brand's strategy, dimensionless, > 0.
        lambda_: (n,) price of one micro of cost in micros of revenue, ≥ 0.

    Returns:
        (n,) micros per impression; below zero the brand is better off losing.

    Raises:
        ValueError: some λ is negative or NaN.

    Source: Lagrangian of revenue under a ROAS and a budget constraint, arXiv:2302.08530.

    >>> scores(np.array([1700.0]), np.array([1300.0]), np.ones(1), np.array([0.5])).tolist()
    [1050.0]
    """
    if not bool((lambda_ >= 0).all()):
        raise ValueError("λ must be a number, and not negative")
    return revenue * multiplier - lambda_ * cost


def costs(bids: Sequence[Bid], expectation: Expectation) -> FloatArray:
    """Expected cost of one impression of each bid, as its pricing model charges it.

    Returns:
        (n,) micros per impression.

    >>> bid = Bid(
    ...     bid_id="b",
    ...     brand_id="x",
    ...     partner_id="p",
    ...     slot_id="s",
    ...     device_type="d",
    ...     creative_type="c",
    ...     pricing_model="cpm",
    ...     price_micros=1_300_000,
    ... )
    >>> costs([bid], Expectation(np.array([1700.0]), np.zeros(1), np.zeros(1), "v")).tolist()
    [1300.0]
    """
    result = np.empty(len(bids))
    for index, bid in enumerate(bids):
        if bid.pricing_model == "revshare":
            result[index] = expectation.revenue_micros[index] * (bid.revenue_share or 0.0)
            continue
        price = float(bid.price_micros or 0)
        if bid.pricing_model == "cpm":
            result[index] = price / 1000.0
        else:
            result[index] = price * (expectation.ctr if bid.pricing_model == "cpc" else expectation.cvr)[index]
    return result


class Ranking(NamedTuple):
    """A request's bids before anything is reserved. `order` lists the eligible ones, best first."""

    revenue: FloatArray
    cost: FloatArray
    score: FloatArray
    order: list[int]
    refused: dict[int, tuple[str, str]]  # index → status, reason: bids that cannot win whatever the budget
    rejected: dict[int, str]  # index → reason: bids that are not even scored


def rejections(
    bids: Sequence[Bid], terms: Mapping[str, BrandTerms], currency: str, owns_partner: Callable[[str], bool]
) -> dict[int, str]:
    """Bids that are not scored: index → reason. A request is scored in one currency."""
    rejected: dict[int, str] = {}
    for index, bid in enumerate(bids):
        brand = terms.get(bid.brand_id)
        if not owns_partner(bid.partner_id):
            rejected[index] = "not_found"
        elif brand is None:
            rejected[index] = "brand_unknown"
        elif not brand.active:
            rejected[index] = "brand_paused"
        elif brand.currency != currency:
            rejected[index] = "currency_mismatch"
    return rejected


def rank(
    bids: Sequence[Bid],
    expectation: Expectation,
    terms: Mapping[str, BrandTerms],
    rejected: dict[int, str],
    floor_micros: float | None,
    admitted: Callable[[str, float], bool],
) -> Ranking:
    """Score every bid that is not rejected and order those that may win.

    Args:
        rejected: index → reason of the bids that are left out.
        floor_micros: least expected cost per impression that may win.
        admitted: whether (brand, share) takes part in this request.
    """
    cost = costs(bids, expectation)
    scored = [index for index in range(len(bids)) if index not in rejected]
    multiplier, lambda_ = np.ones(len(bids)), np.zeros(len(bids))
    for index in scored:
        brand = terms[bids[index].brand_id]
        multiplier[index], lambda_[index] = brand.strategy_multiplier, brand.lambda_
    score = scores(expectation.revenue_micros, cost, multiplier, lambda_)
    refused: dict[int, tuple[str, str]] = {}
    order = []
    takes_part: dict[str, bool] = {}
    for index in sorted(scored, key=lambda i: (-score[i], bids[i].bid_id)):
        brand_id = bids[index].brand_id
        if brand_id not in takes_part:
            takes_part[brand_id] = admitted(brand_id, terms[brand_id].share)
        if floor_micros is not None and cost[index] < floor_micros:
            refused[index] = ("lost", "below_floor")
        elif score[index] < 0:
            refused[index] = ("lost", "score_below_zero")
        elif not takes_part[brand_id]:
            refused[index] = ("throttled", "roas_throttle")
        else:
            order.append(index)
    return Ranking(expectation.revenue_micros, cost, score, order, refused, rejected)


def offers(bids: Sequence[Bid], ranking: Ranking) -> tuple[Offer, ...]:
    """What the ledger is asked to hold, best first."""
    return tuple(
        Offer(
            bid_id=bids[i].bid_id,
            where=Tuple(
                bids[i].brand_id,
                bids[i].partner_id,
                bids[i].slot_id,
                bids[i].device_type,
                bids[i].creative_type,
                bids[i].placement_score,
            ),
            pricing_model=bids[i].pricing_model,
            amount_micros=math.ceil(ranking.cost[i]),
        )
        for i in ranking.order
    )


FATES = {"score_below_zero": TOO_DEAR, "roas_throttle": OUTBID}
"""Of bids that cannot win whatever the budget. One below the floor was never to be had."""


def opportunities(bids: Sequence[Bid], ranking: Ranking, award: Award) -> list[Opportunity]:
    """Each brand's best bid, and what became of it: λ learns from what could have been won, won or not."""
    won = {win.bid_id for win in award.wins}
    found: dict[str, Opportunity] = {}
    for index in ranking.order:
        bid = bids[index]
        if bid.bid_id in won:
            fate = WON
        elif bid.bid_id in award.refused:
            fate = UNDECIDED
        else:
            fate = OUTBID
        if fate == WON or bid.brand_id not in found:
            found[bid.brand_id] = Opportunity(
                bid.brand_id, float(ranking.revenue[index]), float(ranking.cost[index]), fate
            )
    for index, (_, reason) in ranking.refused.items():  # best first
        if reason in FATES and (brand_id := bids[index].brand_id) not in found:
            found[brand_id] = Opportunity(
                brand_id, float(ranking.revenue[index]), float(ranking.cost[index]), FATES[reason]
            )
    return list(found.values())


def answer(
    bids: Sequence[Bid], ranking: Ranking, terms: Mapping[str, BrandTerms], award: Award
) -> list[dict[str, Any]]:
    """All bids, best first; rejected ones last, with null predictions. The items of `ScoreResponse.ranked`."""
    wins = {win.bid_id: win for win in award.wins}
    # The ledger may know of a pause that this replica has not heard of yet.
    rejected = ranking.rejected | {
        i: reason
        for i in ranking.order
        if (reason := award.refused.get(bids[i].bid_id)) in ("brand_paused", "brand_unknown")
    }
    scored = sorted(
        (i for i in range(len(bids)) if i not in rejected),
        key=lambda i: (-ranking.score[i], bids[i].bid_id not in wins, bids[i].bid_id),
    )
    items: list[dict[str, Any]] = []
    for position, index in enumerate([*scored, *sorted(rejected)], start=1):
        bid = bids[index]
        item: dict[str, Any] = {"bid_id": bid.bid_id, "brand_id": bid.brand_id, "rank": position}
        if index in rejected:
            item |= {"status": "rejected", "reason": rejected[index], **NOTHING}
            items.append(item)
            continue
        win = wins.get(bid.bid_id)
        if win is not None:
            status, reason = "won", None
        elif index in ranking.refused:
            status, reason = ranking.refused[index]
        else:
            reason = award.refused.get(bid.bid_id, "outbid")
            status = "lost" if reason == "outbid" else "no_budget"
        brand, revenue, cost = terms[bid.brand_id], float(ranking.revenue[index]), float(ranking.cost[index])
        item |= {
            "status": status,
            "reason": reason,
            "score": float(ranking.score[index]),
            "predicted_revenue_micros": revenue,
            "predicted_cost_micros": cost,
            "predicted_roas": revenue / cost if cost > 0 else None,
            "strategy_multiplier": brand.strategy_multiplier,
            "lambda": brand.lambda_,
            "reservation_id": win.reservation_id if win else None,
            "reserved_micros": win.reserved_micros if win else None,
            "expires_at": win.expires_at if win else None,
        }
        items.append(item)
    return items


NOTHING = dict.fromkeys(
    (
        "score",
        "predicted_revenue_micros",
        "predicted_cost_micros",
        "predicted_roas",
        "strategy_multiplier",
        "lambda",
        "reservation_id",
        "reserved_micros",
        "expires_at",
    )
)
