"""POST /api/score, on SQLite and on MySQL."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

from starlette.types import Message

from db.session import Database
from serve_app import token
from tests.contract.http import SECRET, World, bid, event, request


async def test_a_win_is_answered_held_and_settled(api: World) -> None:
    admin = api.client()
    answer = await admin.post(
        "/api/score", request("r-1", bid(placement_score=0.7), bid("b-2", "brand-atlas", price_micros=10**9))
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    won, lost = body["ranked"]
    assert (won["status"], won["reason"], won["reserved_micros"]) == ("won", None, 1)
    assert (lost["status"], lost["reason"], lost["reservation_id"]) == ("lost", "score_below_zero", None)
    assert (
        won["score"]
        == won["predicted_revenue_micros"] * won["strategy_multiplier"] - won["lambda"] * won["predicted_cost_micros"]
    )
    assert won["lambda"] == 0.01 and won["predicted_cost_micros"] == 1.0
    assert (await admin.get("/api/brands/cheap")).json()["today"]["reserved"] == 1
    events = [event("e-1", reservation_id=won["reservation_id"], cost_micros=3), event("e-2", brand_id="nobody")]
    answer = await admin.post("/api/performance", {"events": events})
    assert answer.json() == {
        "accepted": 1,
        "duplicates": 0,
        "rejected": 1,
        "items": [
            {"event_id": "e-1", "status": "accepted"},
            {"event_id": "e-2", "status": "rejected", "code": "not_found", "message": "no such brand"},
        ],
    }
    today = (await admin.get("/api/brands/cheap")).json()["today"]
    assert (today["reserved"], today["settled"], today["cost"]) == (0, 3, 3)
    assert today["available"] + today["leased"] == 999_997


async def test_the_same_request_gets_the_same_answer_and_another_body_409(api: World) -> None:
    admin = api.client()
    first = await admin.post("/api/score", request("again"))
    assert (await admin.post("/api/score", request("again"))).content == first.content
    changed = await admin.post("/api/score", request("again", bid(price_micros=2000)))
    assert changed.status_code == 409 and changed.json()["title"] == "Conflict"
    other = await api.client(sub="somebody-else").post("/api/score", request("again", bid(price_micros=2000)))
    assert other.status_code == 200
    same = await asyncio.gather(*(admin.post("/api/score", request("at-once")) for _ in range(10)))
    assert len({answer.content for answer in same}) == 1
    assert (await admin.get("/api/brands/cheap")).json()["today"]["reserved"] == 1 + 2 + 1


async def test_many_winners_one_a_brand_and_the_next_best_after_an_empty_budget(api: World) -> None:
    await api.brand("poor", daily_budget_micros=0, target_roas=0.0001)
    bids = [
        bid(f"{brand}-{n}", brand, price_micros=1000 + n)
        for brand in ("cheap", "brand-atlas", "brand-cedar", "poor")
        for n in range(3)
    ]
    ranked = (await api.client().post("/api/score", request("many", *bids, winners=3))).json()["ranked"]
    winners = [item["brand_id"] for item in ranked if item["status"] == "won"]
    assert sorted(winners) == ["brand-atlas", "brand-cedar", "cheap"]
    assert {item["reason"] for item in ranked if item["brand_id"] == "poor"} <= {"brand_budget", "outbid"}
    assert any(item["reason"] == "brand_budget" for item in ranked)


async def test_the_next_bid_wins_however_many_before_it_have_no_money(api: World) -> None:
    await api.brand("poor", daily_budget_micros=0, target_roas=0.0001)
    bids = [bid(f"poor-{n}", "poor") for n in range(30)] + [bid("rich", price_micros=20_000)]
    ranked = (await api.client().post("/api/score", request("late", *bids))).json()["ranked"]
    assert [item["bid_id"] for item in ranked if item["status"] == "won"] == ["rich"]
    assert {item["reason"] for item in ranked if item["brand_id"] == "poor"} == {"brand_budget"}


BODIES: list[tuple[str, Any, str]] = [
    ("not JSON", b"{", ""),
    ("not an object", [1], ""),
    ("deep", b"[" * 100_000, ""),
    ("no bids", {"request_id": "r", "bids": []}, "/bids"),
    ("too many bids", {"request_id": "r", "bids": [bid(f"b-{n}") for n in range(1001)]}, "/bids"),
    ("a typo", request("r", tmax=5), "/tmax"),
    ("a typo in a bid", request("r", bid(price=5)), "/bids/0/price"),
    ("the same bid twice", request("r", bid(), bid()), "/bids/1/bid_id"),
    ("a bad id", request("r", bid(brand="a b")), "/bids/0/brand_id"),
    ("an id with a line after it", request("r\n"), "/request_id"),
    ("a long id", request("r" * 65), "/request_id"),
    ("a price of nothing", request("r", bid(price_micros=0)), "/bids/0/price_micros"),
    ("a negative price", request("r", bid(price_micros=-1)), "/bids/0/price_micros"),
    ("a price beyond 2^53", request("r", bid(price_micros=2**53)), "/bids/0/price_micros"),
    ("a price that is no integer", request("r", bid(price_micros=1.5)), "/bids/0/price_micros"),
    ("a price in quotes", request("r", bid(price_micros="5")), "/bids/0/price_micros"),
    ("a price for revshare", request("r", bid(pricing_model="revshare")), "/bids/0"),
    ("another pricing model", request("r", bid(pricing_model="cpx")), "/bids/0/pricing_model"),
    (
        "a score that is no number",
        b'{"request_id":"r","bids":[' + json.dumps(bid()).encode()[:-1] + b',"placement_score":NaN}]}',
        "/bids/0/placement_score",
    ),
    (
        "a score beyond doubles",
        b'{"request_id":"r","bids":[' + json.dumps(bid()).encode()[:-1] + b',"placement_score":1e999}]}',
        "/bids/0/placement_score",
    ),
    ("no winners", request("r", winners=0), "/winners"),
    ("too many winners", request("r", winners=51), "/winners"),
    ("winners that are true", request("r", winners=True), "/winners"),
    ("a day without time", request("r", at="2026-01-01"), "/at"),
    ("the 30th of February", request("r", at="2026-02-30T00:00:00Z"), "/at"),
    ("a time without zone", request("r", at="2026-01-01T00:00:00"), "/at"),
    ("a deadline of nothing", request("r", tmax_ms=0), "/tmax_ms"),
    ("a currency in small letters", request("r", currency="eur"), "/currency"),
]


async def test_bad_bodies_are_422_with_a_pointer_and_move_nothing(on_sqlite: World) -> None:
    admin = on_sqlite.client()
    before = (await admin.get("/api/brands/cheap")).json()
    for story, body, pointer in BODIES:
        answer = await admin.post("/api/score", body)
        assert answer.status_code == 422, (story, answer.text)
        assert answer.headers["content-type"] == "application/problem+json", story
        problem = answer.json()
        assert set(problem) == {"type", "title", "status", "detail", "instance", "errors"}, story
        assert problem["instance"] == answer.headers["x-request-id"]
        assert pointer in [error["pointer"] for error in problem["errors"]], (story, problem)
        assert "Traceback" not in answer.text and "/serve_app" not in answer.text
    assert (await admin.get("/api/brands/cheap")).json() == before


async def test_a_deadline_is_never_missed(on_sqlite: World) -> None:
    late = await on_sqlite.client().post("/api/score", request("hurry", tmax_ms=1))
    assert late.status_code in (200, 503)
    if late.status_code == 503:
        assert late.headers["retry-after"] and late.json()["type"] == "urn:paceline:deadline"


async def test_a_request_that_is_late_draws_nothing(on_sqlite: World) -> None:
    """Also where everything is known that an answer takes."""
    admin = on_sqlite.client()
    won = (await admin.post("/api/score", request("in-time"))).json()["ranked"][0]
    assert won["status"] == "won"
    path = f"/api/brands/{won['brand_id']}"
    before = (await admin.get(path)).json()["today"]["reserved"]
    for number in range(20):
        late = await admin.post("/api/score", request(f"late-{number}", tmax_ms=1))
        assert late.status_code == 503
    assert (await admin.get(path)).json()["today"]["reserved"] == before


async def test_an_asker_that_leaves_does_not_stop_the_work(on_sqlite: World) -> None:
    """Who repeats the request gets the answer; meanwhile nobody writes to the one who has left."""
    body, sent = json.dumps(request("left", explain=True, tmax_ms=20_000)).encode(), list[Message]()
    messages = iter([{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}])

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        sent.append(message)

    bearer = token.make(SECRET, "admin", (), (), 3600, "tester").encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/score",
        "headers": [(b"authorization", b"Bearer " + bearer)],
    }
    await on_sqlite.application(scope, receive, send)
    assert sent == [] and next(messages, None) is None
    again = await on_sqlite.client().post("/api/score", body)
    assert again.status_code == 200 and again.json()["ranked"][0]["status"] == "won"


async def test_explanations_sum_to_the_raw_prediction(on_sqlite: World) -> None:
    answer = (await on_sqlite.client().post("/api/score", request("why", explain=True))).json()["ranked"][0]
    told = answer["contributions"]
    raw = told["base"] + sum(told["features"].values())
    assert math.isclose(math.exp(raw), answer["predicted_revenue_micros"], rel_tol=1e-6)


async def test_counts_and_the_score_log(on_sqlite: World) -> None:
    admin = on_sqlite.client()
    for number in range(3):
        await admin.post("/api/score", request(f"count-{number}"))
    await admin.post("/api/score", b"{")
    again = event("e")
    await admin.post("/api/performance", {"events": [again, again, event("f", brand_id="none")]})
    text = (await admin.get("/metrics")).text.splitlines()
    for line in (
        'score_requests_total{status="200"} 3.0',
        'score_requests_total{status="422"} 1.0',
        "score_latency_seconds_count 4.0",
        "bids_scored_total 3.0",
        'events_total{status="accepted"} 1.0',
        'events_total{status="duplicate"} 1.0',
        'events_total{status="rejected"} 1.0',
    ):
        assert line in text, line
    await on_sqlite.flush_score_log()
    rows = await logged(on_sqlite.database)
    assert [row.status for row in rows] == ["won"] * 3
    assert {row.weight for row in rows} == {1.0}


async def logged(database: Database) -> Any:
    from db.tables import score_log

    async with database.read() as connection:
        return (await connection.execute(score_log.select())).all()
