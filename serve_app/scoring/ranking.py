"""Scores bids and orders them. Pure: no clock, no database, no cluster."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ledger.domain.messages import BrandTerms, Offer, Placement
from serve_app.prediction.expectation import Expectation, FloatArray
from serve_app.schemas.score import Reason, Status
from serve_app.scoring.bids import Bids

EXPLORED_MOST = 0.05
"""Most that is added to a throttled brand's share of auctions on a placement without history; never more than the
share itself."""
KNOWN_IMPRESSIONS = 500.0
"""Impressions of history at which half of that addition is left."""


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
    if np.count_nonzero(lambda_ >= 0) < lambda_.size:
        raise ValueError("λ must not be negative or NaN")
    return revenue * multiplier - lambda_ * cost


def costs(bids: Bids, expectation: Expectation) -> FloatArray:
    """Expected cost of one impression of each bid, as its pricing model charges it.

    Returns:
        (n,) micros per impression.
    """
    models = set(bids.pricing_model)
    if models == {"cpm"}:
        return np.array(bids.price_micros, np.float64) / 1000.0
    price = np.array([micros or 0 for micros in bids.price_micros], np.float64)
    model = np.array(bids.pricing_model)
    cost = price / 1000.0
    for name, rate in (("cpc", expectation.ctr), ("cpa", expectation.cvr)):
        if name in models:
            cost = np.where(model == name, price * rate, cost)
    if "revshare" in models:
        share = np.array([part or 0.0 for part in bids.revenue_share], np.float64)
        cost = np.where(model == "revshare", expectation.revenue_micros * share, cost)
    return cost


class Ranking(NamedTuple):
    """A request's bids before anything is reserved."""

    revenue: FloatArray  # (n,) like the next four
    cost: FloatArray
    score: FloatArray
    multiplier: FloatArray
    lambda_: FloatArray
    best_first: list[int]  # indices of the bids that are not rejected, by score, then by bid_id
    has_ties: bool  # whether some scores are equal
    brands: int  # number of distinct brands
    refused: dict[int, tuple[Status, Reason]]  # index → status, reason: bids that cannot win whatever the budget
    rejected: dict[int, Reason]  # index → reason: bids that are not even scored

    @property
    def order(self) -> list[int]:
        """Indices of the bids that may win, best first."""
        if not self.refused:
            return self.best_first
        return [index for index in self.best_first if index not in self.refused]


def rejections(
    bids: Bids, terms: Mapping[str, BrandTerms], currency: str, owns_partner: Callable[[str], bool]
) -> dict[int, Reason]:
    """Bids that are not scored: index → reason.

    Args:
        terms: every brand by id.
        currency: of the request; a request is scored in one currency.
        owns_partner: whether the caller may offer this partner's slots.
    """
    brands: dict[str, Reason] = {}
    for brand_id in set(bids.brand_id):
        brand = terms.get(brand_id)
        if brand is None:
            brands[brand_id] = "brand_unknown"
        elif not brand.active:
            brands[brand_id] = "brand_paused"
        elif brand.currency != currency:
            brands[brand_id] = "currency_mismatch"
    strangers = {partner_id for partner_id in set(bids.partner_id) if not owns_partner(partner_id)}
    if not brands and not strangers:
        return {}
    rejected: dict[int, Reason] = {}
    for index, (brand_id, partner_id) in enumerate(zip(bids.brand_id, bids.partner_id, strict=True)):
        if partner_id in strangers:
            rejected[index] = "not_found"
        elif brand_id in brands:
            rejected[index] = brands[brand_id]
    return rejected


def rank(
    bids: Bids,
    expectation: Expectation,
    terms: Mapping[str, BrandTerms],
    rejected: dict[int, Reason],
    floor_micros: float | None,
    admitted: Callable[[str, float], bool],
) -> Ranking:
    """Score every bid that is not rejected and order those that may win.

    Args:
        rejected: index → reason of the bids that are left out.
        floor_micros: least expected cost per impression that may win.
        admitted: whether a brand that takes part in this share of auctions takes part in this one.
    """
    cost = costs(bids, expectation)
    names = list(dict.fromkeys(bids.brand_id))
    # A rejected bid's brand may have no terms; its score is never looked at.
    brands = [terms.get(name, NOBODY) for name in names]
    code_of = dict(zip(names, range(len(names)), strict=True))
    code = np.array([code_of[brand_id] for brand_id in bids.brand_id], np.intp)
    multiplier = np.array([brand.strategy_multiplier for brand in brands])[code]
    lambda_ = np.array([brand.lambda_ for brand in brands])[code]
    score = scores(expectation.revenue_micros, cost, multiplier, lambda_)
    best_first, has_ties = _by_score(bids, score, rejected)
    throttled = {name: brand.share for name, brand in zip(names, brands, strict=True) if brand.share < 1}
    outliers = _outliers(cost, code, brands)
    refused: dict[int, tuple[Status, Reason]] = {}
    if outliers or throttled or floor_micros is not None or (best_first and score[best_first[-1]] < 0):
        refused = _refusals(bids, expectation, cost, score, best_first, outliers, floor_micros, throttled, admitted)
    return Ranking(
        expectation.revenue_micros,
        cost,
        score,
        multiplier,
        lambda_,
        best_first,
        has_ties,
        len(names),
        refused,
        rejected,
    )


def _outliers(cost: FloatArray, code: npt.NDArray[np.intp], brands: Sequence[BrandTerms]) -> Collection[int]:
    """The bids whose predicted cost is above the max_cost_micros of their brand.

    Args:
        code: (n,) position of each bid's brand in `brands`.
    """
    if all(brand.max_cost_micros is None for brand in brands):
        return ()
    most = np.array([math.inf if brand.max_cost_micros is None else brand.max_cost_micros for brand in brands])
    return frozenset(np.flatnonzero(cost > most[code]).tolist())


def _refusals(
    bids: Bids,
    expectation: Expectation,
    cost: FloatArray,
    score: FloatArray,
    best_first: list[int],
    outliers: Collection[int],
    floor_micros: float | None,
    throttled: Mapping[str, float],
    admitted: Callable[[str, float], bool],
) -> dict[int, tuple[Status, Reason]]:
    """Bids that cannot win whatever the budget, best first.

    Args:
        outliers: bids that are dearer than their brand allows.
        throttled: the shares of the brands that do not take part in every request. Only a request in which such a
            brand has a bid that could win is counted as its auction.
    """
    refused: dict[int, tuple[Status, Reason]] = {}
    for index in best_first:
        if index in outliers:
            refused[index] = ("lost", "cost_outlier")
        elif floor_micros is not None and cost[index] < floor_micros:
            refused[index] = ("lost", "below_floor")
        elif score[index] < 0:
            refused[index] = ("lost", "score_below_zero")
        elif (share := throttled.get(bids.brand_id[index])) is not None and not admitted(
            bids.brand_id[index], explored(share, float(expectation.impressions[index]))
        ):
            refused[index] = ("throttled", "roas_throttle")
    return refused


def explored(share: float, impressions: float) -> float:
    """A throttled brand's share of auctions, raised where a placement has little history, so that it is explored.

    Args:
        share: the brand's, 0 to 1.
        impressions: of the placement's own history.

    >>> [round(explored(0.02, impressions), 3) for impressions in (0, 500, 100_000)]
    [0.04, 0.03, 0.02]
    """
    return share + min(share, EXPLORED_MOST) * KNOWN_IMPRESSIONS / (KNOWN_IMPRESSIONS + impressions)


def _by_score(bids: Bids, score: FloatArray, rejected: dict[int, Reason]) -> tuple[list[int], bool]:
    """(indices of the bids that are not rejected, best first; whether some scores are equal)."""
    best_first = (-score).argsort(kind="stable")
    in_order = score[best_first]
    order: list[int] = best_first.tolist()
    if rejected:
        order = [index for index in order if index not in rejected]
    has_ties = bool(np.count_nonzero(in_order[1:] == in_order[:-1]))
    if has_ties:
        values = score.tolist()
        order.sort(key=lambda index: (-values[index], bids.bid_id[index]))
    return order, has_ties


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
NOBODY = BrandTerms("", False, 1.0, 1.0, 0.0, 1.0, False, _EPOCH.date(), _EPOCH, None, None, None)


class Offers(Sequence[Offer]):
    """What the ledger is asked to reserve, best first. Made on access, since usually only the first is looked at."""

    def __init__(self, bids: Bids, ranking: Ranking) -> None:
        self._bids, self._order = bids, ranking.order
        self._revenue, self._cost = ranking.revenue, ranking.cost

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, at: int) -> Offer:  # type: ignore[override]
        bids, i = self._bids, self._order[at]
        where = Placement(
            bids.brand_id[i],
            bids.partner_id[i],
            bids.slot_id[i],
            bids.device_type[i],
            bids.creative_type[i],
            bids.placement_score[i],
        )
        cost = float(self._cost[i])
        return Offer(
            bids.bid_id[i],
            where,
            bids.pricing_model[i],
            math.ceil(cost),
            float(self._revenue[i]),
            cost,
            bids.price_micros[i],
            bids.revenue_share[i],
        )

    def __iter__(self) -> Iterator[Offer]:
        return map(self.__getitem__, range(len(self._order)))
