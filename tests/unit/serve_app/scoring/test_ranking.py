"""Scores, order and reasons, without a cluster."""

from __future__ import annotations

import datetime as dt
import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.bidding.demand import OUTBID, TOO_DEAR, UNDECIDED, WON
from ledger.bidding.throttle import Admissions
from ledger.domain.messages import Award, BrandTerms, Win
from serve_app.http.json_response import encode
from serve_app.prediction.expectation import Expectation
from serve_app.schemas.score import Bid, Ranked, ScoreResponse
from serve_app.scoring.bids import Bids
from serve_app.scoring.opportunities import opportunities
from serve_app.scoring.ranking import Offers, costs, rank, rejections, scores
from serve_app.scoring.response import Contributions, ScoreAnswer, ranked_items

MIDNIGHT = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)


def bid(bid_id: str = "b", brand: str = "x", **changes: object) -> Bid:
    fields: dict[str, object] = {
        "bid_id": bid_id,
        "brand_id": brand,
        "partner_id": "p",
        "slot_id": "s",
        "device_type": "d",
        "creative_type": "c",
        "pricing_model": "cpm",
        "price_micros": 1_000_000,
    }
    return Bid.model_validate(fields | changes)


def terms(
    lambda_: float = 0.5, multiplier: float = 1.0, share: float = 1.0, currency: str = "EUR", active: bool = True
) -> BrandTerms:
    day = MIDNIGHT.date() - dt.timedelta(days=1)
    return BrandTerms(currency, active, 1.0, multiplier, lambda_, share, share < 1, day, MIDNIGHT, None, None, None)


def expect(*revenue: float, ctr: float = 0.01, cvr: float = 0.001, known: float = 1e9) -> Expectation:
    n = len(revenue)
    return Expectation(np.array(revenue), np.full(n, ctr), np.full(n, cvr), np.full(n, float(known)), "v1")


@pytest.mark.parametrize(
    ("story", "changes", "cost"),
    [
        ("cpm is per thousand impressions", {}, 1000.0),
        ("cpc is per click", {"pricing_model": "cpc"}, 10_000.0),
        ("cpa is per conversion", {"pricing_model": "cpa"}, 1000.0),
        (
            "revshare is a share of revenue",
            {"pricing_model": "revshare", "price_micros": None, "revenue_share": 0.25},
            425.0,
        ),
    ],
)
def test_cost_of_an_impression_follows_the_pricing_model(story: str, changes: dict[str, object], cost: float) -> None:
    assert costs(Bids.of([bid(**changes)]), expect(1700.0)).tolist() == [cost], story
    among_others = Bids.of([bid("a"), bid("b", **changes), bid("c", pricing_model="cpc")])
    assert costs(among_others, expect(1.0, 1700.0, 1.0)).tolist() == [1000.0, cost, 10_000.0], story


def test_a_negative_or_missing_lambda_is_refused() -> None:
    for wrong in (-0.1, math.nan):
        with pytest.raises(ValueError, match="λ"):
            scores(np.ones(1), np.ones(1), np.ones(1), np.array([wrong]))


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 10**9), st.sampled_from("xyz")), min_size=1, max_size=30),
    st.floats(0, 5),
)
def test_the_order_is_by_score_and_every_bid_comes_back_once(
    rows: list[tuple[float, int, str]], lambda_: float
) -> None:
    bids = Bids.of([bid(f"b-{i}", brand, price_micros=price) for i, (_, price, brand) in enumerate(rows)])
    known = {brand: terms(lambda_) for brand in "xyz"}
    ranking = rank(bids, expect(*(revenue for revenue, _, _ in rows)), known, {}, None, lambda *_: True)
    items = ranked_items(bids, ranking, Award((), {}))
    assert sorted(item.bid_id for item in items) == sorted(bids.bid_id)
    assert [item.rank for item in items] == list(range(1, len(bids) + 1))
    assert items == sorted(items, key=lambda item: (-number(item.score), item.bid_id))
    for item in items:  # the score is computed from the reported numbers
        again = number(item.predicted_revenue_micros) * number(item.strategy_multiplier) - number(
            item.lambda_
        ) * number(item.predicted_cost_micros)
        assert item.score == again
        assert (item.score < 0) == (item.reason == "score_below_zero")


def number(value: float | None) -> float:
    assert value is not None
    return value


def test_of_equal_scores_the_winner_stands_first_and_then_the_name_decides() -> None:
    bids = Bids.of([bid("c", "z"), bid("a", "x"), bid("b", "y")])
    ranking = rank(bids, expect(5000.0, 5000.0, 5000.0), dict.fromkeys("xyz", terms()), {}, None, lambda *_: True)
    assert [offer.bid_id for offer in Offers(bids, ranking)] == ["a", "b", "c"]
    award = Award((Win("b", "r", 1000, MIDNIGHT),), {"a": "brand_budget"})
    assert [item.bid_id for item in ranked_items(bids, ranking, award)] == ["b", "a", "c"]


def test_the_answer_is_what_the_contract_says() -> None:
    bids = Bids.of([bid("a", "x"), bid("b", "y"), bid("c", "z")])
    known = {"x": terms(), "y": terms()}
    rejected = rejections(bids, known, "EUR", lambda _: True)
    ranking = rank(bids, expect(5000.0, 4000.0, 3000.0), known, rejected, None, lambda *_: True)
    items = ranked_items(bids, ranking, Award((Win("a", "r", 1000, MIDNIGHT),), {"b": "no_lease"}))
    items[0].contributions = Contributions(1.0, {"hour": 0.5})
    content = encode(ScoreAnswer("r-1", "v1", "EUR", items))
    told = ScoreResponse.model_validate_json(content, strict=True)
    assert [(item.status, item.reason) for item in told.ranked] == [
        ("won", None),
        ("no_budget", "no_lease"),
        ("rejected", "brand_unknown"),
    ]
    names = [field.alias or name for name, field in Ranked.model_fields.items()]
    assert [list(item) for item in json.loads(content)["ranked"]] == [names, names[:-1], names[:-1]]
    assert names[-1] == "contributions", "left out unless it was asked for"


def test_a_bid_that_is_dearer_than_its_brand_allows_does_not_win() -> None:
    bids = Bids.of([bid("dear", price_micros=1_000_001), bid("fair", price_micros=1_000_000), bid("other", "y")])
    known = {"x": replace(terms(), max_cost_micros=1000), "y": terms()}
    ranking = rank(bids, expect(1e9, 1e6, 1e6), known, {}, None, lambda _brand, _share: True)
    assert ranking.refused == {0: ("lost", "cost_outlier")}
    assert [bids.bid_id[index] for index in ranking.order] == ["fair", "other"]


def test_what_costs_nothing_has_no_roas() -> None:
    free = bid("a", pricing_model="revshare", price_micros=None, revenue_share=0.0)
    bids = Bids.of([free, bid("b")])
    ranking = rank(bids, expect(5000.0, 5000.0), {"x": terms()}, {}, None, lambda *_: True)
    assert [item.predicted_roas for item in ranked_items(bids, ranking, Award((), {}))] == [None, 5.0]


def test_each_brand_s_best_bid_is_an_opportunity_with_its_fate() -> None:
    bids = Bids.of(
        [
            bid("a-1", "a", price_micros=2_000_000),
            bid("a-2", "a"),
            bid("b-1", "b", price_micros=3_000_000),
            bid("c-1", "c"),
            bid("d-1", "d", price_micros=90_000_000),
            bid("e-1", "e"),
            bid("f-1", "f", price_micros=1),
        ]
    )
    known = {name: terms() for name in "abcdf"} | {"e": terms(share=0.1)}
    ranking = rank(bids, expect(*[5000.0] * 7), known, {}, 10.0, lambda _, share: share == 1)
    award = Award((Win("a-1", "r", 2000, MIDNIGHT),), {"c-1": "no_lease"})
    found = {one.brand_id: (one.cost_micros, one.fate) for one in opportunities(bids, ranking, award)}
    assert found == {
        "a": (2000.0, WON),  # not its best: its best was not to be had
        "b": (3000.0, OUTBID),
        "c": (1000.0, UNDECIDED),
        "d": (90_000.0, TOO_DEAR),
        "e": (1000.0, OUTBID),
    }


def test_offers_hold_the_ceiling_of_the_expected_cost() -> None:
    bids = Bids.of([bid(price_micros=1_300_001)])
    ranking = rank(bids, expect(9000.0), {"x": terms()}, {}, None, lambda *_: True)
    assert [offer.amount_micros for offer in Offers(bids, ranking)] == [1301]


def test_reasons() -> None:
    bids = Bids.of(
        [
            bid("won", "a"),
            bid("outbid", "b"),
            bid("below-zero", "c", price_micros=90_000_000),
            bid("below-floor", "d", price_micros=1),
            bid("throttled", "e"),
            bid("paused", "f"),
            bid("other-currency", "g"),
            bid("unknown", "h"),
            bid("not-mine", "a", partner_id="q"),
            bid("poor", "i"),
            bid("just-paused", "j"),
        ]
    )
    known = {name: terms() for name in "abcdij"} | {
        "e": terms(share=0.1),
        "f": terms(active=False),
        "g": terms(currency="USD"),
    }
    rejected = rejections(bids, known, "EUR", lambda partner: partner == "p")
    ranking = rank(bids, expect(*[5000.0] * len(bids)), known, rejected, 10.0, lambda _, share: share == 1)
    award = Award((Win("won", "r-1", 1000, MIDNIGHT),), {"poor": "brand_budget", "just-paused": "brand_paused"})
    items = {item.bid_id: item for item in ranked_items(bids, ranking, award)}
    assert {name: (item.status, item.reason) for name, item in items.items()} == {
        "won": ("won", None),
        "outbid": ("lost", "outbid"),
        "below-zero": ("lost", "score_below_zero"),
        "below-floor": ("lost", "below_floor"),
        "throttled": ("throttled", "roas_throttle"),
        "paused": ("rejected", "brand_paused"),
        "other-currency": ("rejected", "currency_mismatch"),
        "unknown": ("rejected", "brand_unknown"),
        "not-mine": ("rejected", "not_found"),
        "poor": ("no_budget", "brand_budget"),
        "just-paused": ("rejected", "brand_paused"),
    }
    assert items["won"].reservation_id == "r-1"
    assert items["just-paused"].score is None, "rejected bids have null predictions"
    assert {name for name, item in items.items() if item.rank > 6} == {
        "paused",
        "other-currency",
        "unknown",
        "not-mine",
        "just-paused",
    }


@pytest.mark.parametrize(("known", "least", "most"), [(1e9, 0.035, 0.065), (0.0, 0.08, 0.12)])
def test_a_throttled_brand_learns_where_it_knows_little(known: float, least: float, most: float) -> None:
    """Twice its share on tuples that nothing is known of, its share on those it knows."""

    admissions = Admissions(random.Random(7).random)

    def takes_part() -> bool:
        offered, expected = Bids.of([bid()]), expect(9000.0, known=known)
        return not rank(offered, expected, {"x": terms(share=0.05)}, {}, None, admissions.auction("caller")).refused

    assert least < sum(takes_part() for _ in range(4000)) / 4000 < most


def test_only_auctions_that_could_be_won_are_counted() -> None:
    """Else a caller could save up wins with bids that cost it nothing."""
    admissions, throttled = Admissions(random.Random(7).random), {"x": terms(share=0.05)}
    for _ in range(1000):
        offered = Bids.of([bid()])
        rank(offered, expect(9000.0), throttled, {}, 1e12, admissions.auction("caller"))
        rank(offered, expect(9000.0), throttled, {0: "not_found"}, None, admissions.auction("caller"))
        rank(offered, expect(0.0), throttled, {}, None, admissions.auction("caller"))
    assert admissions.count("x", "caller").due == 0.0
