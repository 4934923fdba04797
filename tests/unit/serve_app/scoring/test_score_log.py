"""Whose requests are sampled, and how many rows of one caller: without a database."""

from __future__ import annotations

import random
import zlib
from typing import Any

from serve_app.schemas.score import Ranked
from serve_app.scoring.score_log import Sampling, ScoreLog


def test_chosen_request_ids_are_no_more_often_in_the_sample() -> None:
    """With a hash of the request_id, 150 ids that anybody could choose gave 150 rows of weight 100."""
    chosen = [name for n in range(20_000) if zlib.crc32((name := f"r-{n}").encode()) < 0.01 * 2**32][:150]
    assert len(chosen) == 150
    sampling = Sampling(0.01, random.Random(7).random)
    assert sum(sampling.takes("grinder") for _ in chosen) <= 3


def test_each_caller_is_sampled_with_the_share_that_its_weight_says() -> None:
    sampling = Sampling(0.01, random.Random(7).random)
    for sub, requests in (("large", 50_000), ("small", 5_000)):
        assert abs(sum(sampling.takes(sub) for _ in range(requests)) - requests / 100) <= 1


def test_all_or_nothing_is_sampled_where_that_is_said() -> None:
    assert all(Sampling(1.0, random.random).takes("caller") for _ in range(100))
    assert not any(Sampling(0.0, random.random).takes("caller") for _ in range(100))


def ranked(rows: int) -> list[Ranked]:
    return [
        Ranked.model_validate(
            {
                "bid_id": f"b-{n}",
                "brand_id": "x",
                "rank": n + 1,
                "status": "lost",
                "reason": "outbid",
                "score": 1.0,
                "predicted_revenue_micros": 1.0,
                "predicted_cost_micros": 1.0,
                "predicted_roas": 1.0,
                "strategy_multiplier": 1.0,
                "lambda": 1.0,
            }
        )
        for n in range(rows)
    ]


def test_one_caller_leaves_room_for_the_others_and_what_it_loses_is_counted() -> None:
    dropped: list[int] = []
    nowhere: Any = None
    log = ScoreLog(nowhere, 0.01, 1000, 500, dropped.append)
    for number in range(100):
        log.add("flood", f"f-{number}", nowhere, ranked(50), "v1")
    for number in range(10):
        log.add("honest", f"h-{number}", nowhere, ranked(50), "v1")
    assert sum(dropped) == 90 * 50, "of the flood"
    assert sum(len(each.items) for each in log._waiting if each.request_id.startswith("h")) == 500


def test_a_callers_largest_request_has_room() -> None:
    dropped: list[int] = []
    nowhere: Any = None
    ScoreLog(nowhere, 0.01, 1000, 500, dropped.append).add("caller", "r", nowhere, ranked(1000), "v1")
    assert dropped == []
