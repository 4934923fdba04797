"""Makes the opportunities that λ is learned from: each brand's best bid of a request, and whether it won."""

from __future__ import annotations

from ledger.bidding.demand import OUTBID, TOO_DEAR, UNDECIDED, WON, Opportunity
from ledger.domain.messages import Award
from serve_app.scoring.bids import Bids
from serve_app.scoring.ranking import Ranking

FATES = {"score_below_zero": TOO_DEAR, "roas_throttle": OUTBID}
"""Reason why a bid cannot win whatever the budget → what λ learns from it. Nothing from bids below the floor, which no
λ could have won."""


def opportunities(bids: Bids, ranking: Ranking, award: Award) -> list[Opportunity]:
    """One opportunity per brand: its best bid and what became of it, won or not."""
    brand_of, best = bids.brand_id, dict[str, int]()
    for index in ranking.order:
        if brand_of[index] not in best:
            best[brand_of[index]] = index
            if len(best) == ranking.brands:
                break  # usually after a few bids
    fates = dict.fromkeys(best, OUTBID)
    if award.refused:
        fates |= {brand_id: UNDECIDED for brand_id, index in best.items() if bids.bid_id[index] in award.refused}
    for win in award.wins:
        index = bids.bid_id.index(win.bid_id)
        best[brand_of[index]], fates[brand_of[index]] = index, WON
    for index, (_, reason) in ranking.refused.items():  # best first
        if reason in FATES and brand_of[index] not in best:
            best[brand_of[index]], fates[brand_of[index]] = index, FATES[reason]
    revenue, cost = ranking.revenue, ranking.cost
    return [
        Opportunity(brand_id, float(revenue[index]), float(cost[index]), fates[brand_id])
        for brand_id, index in best.items()
    ]
