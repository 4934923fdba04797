"""The HTTP contract, on SQLite and on MySQL."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from starlette.types import Message

from db.session import Database
from ledger.audit import audit
from serve_app import token
from serve_app.schemas.brands import Brand, BrandPage, Portfolio
from serve_app.schemas.models import ModelPage
from serve_app.schemas.performance import PerformanceResponse
from serve_app.schemas.roas import RoasResponse
from serve_app.schemas.score import ScoreResponse
from tests.contract.http import SECRET, TODAY, World, world
from tests.servers.snapshots import Snapshots
from training.etl.importer import import_frame
from training.etl.simulated_market import performance
from training.nightly.pipeline import run
from training.settings import ModelSettings

PLACE = {"partner_id": "p-1", "slot_id": "s-1", "device_type": "mobile", "creative_type": "300x250"}


@asynccontextmanager
async def served(
    database_url: str, redis_url: str, folder: Path, snapshots: Snapshots, **environ: str
) -> AsyncIterator[World]:
    """A world with a brand whose bids win; its books must balance at the end."""
    async with world(database_url, redis_url, folder / "state", snapshots, **environ) as found:
        await found.brand("cheap", daily_budget_micros=1_000_000, target_roas=0.01)
        yield found
        assert await audit(found.database) == []


@pytest.fixture
async def api(database_url: str, redis_url: str, tmp_path: Path, snapshots: Snapshots) -> AsyncIterator[World]:
    async with served(database_url, redis_url, tmp_path, snapshots) as found:
        yield found


@pytest.fixture
async def on_sqlite(sqlite_url: str, redis_url: str, tmp_path: Path, snapshots: Snapshots) -> AsyncIterator[World]:
    async with served(sqlite_url, redis_url, tmp_path, snapshots) as found:
        yield found


def bid(bid_id: str = "b-1", brand: str = "cheap", **changes: Any) -> dict[str, Any]:
    return {"bid_id": bid_id, "brand_id": brand, **PLACE, "pricing_model": "cpm", "price_micros": 1000} | changes


def request(name: str, *bids: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"request_id": name, "bids": list(bids) or [bid()]} | changes


def event(name: str, kind: str = "impression", **changes: Any) -> dict[str, Any]:
    now = dt.datetime.now(dt.UTC).isoformat()
    fields = {"event_id": name, "type": kind, "occurred_at": now, "brand_id": "cheap", **PLACE} | changes
    return {key: value for key, value in fields.items() if value is not None}


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


async def test_a_click_and_its_conversion_inherit_and_the_latest_word_counts(api: World) -> None:
    admin = api.client()
    base = {"slot_id": None, "device_type": None, "creative_type": None}
    events = [
        event("k", "click", click_id="k-1"),
        event(
            "c",
            "conversion",
            click_id="k-1",
            conversion_id="c-1",
            status="pending",
            cost_micros=50,
            revenue_micros=900,
            **base,
        ),
        event(
            "u",
            "conversion_update",
            conversion_id="c-1",
            status="approved",
            cost_micros=40,
            revenue_micros=1000,
            **base,
        ),
    ]
    answer = (await admin.post("/api/performance", {"events": events})).json()
    assert answer["accepted"] == 3, answer
    found = (await admin.get("/api/roas", brand_id="cheap", partner_id="p-1", slot_id="s-1", window="1d")).json()[
        "actual"
    ]
    assert {
        name: found[name]
        for name in ("clicks", "conversions", "cost_micros", "revenue_micros", "pending_revenue_micros")
    } == {
        "clicks": 1,
        "conversions": 1,
        "cost_micros": 40,
        "revenue_micros": 1000,
        "pending_revenue_micros": 0,
    }
    await admin.post(
        "/api/performance",
        {"events": [event("x", "conversion_update", conversion_id="c-1", status="rejected", **base)]},
    )
    today = (await admin.get("/api/brands/cheap")).json()["today"]
    assert (today["settled"], today["revenue"]) == (0, 0)


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


async def test_roas_of_a_slot_that_was_seen_and_of_one_that_was_not(api: World) -> None:
    admin = api.client()
    known = (await admin.get("/api/brands/brand-atlas")).json()
    assert known["currency"] == "EUR" and known["lambda"] == 1.0
    found = await admin.get(
        "/api/roas", brand_id="brand-atlas", partner_id="never", slot_id="never:seen", window="28d", placement_score=0.5
    )
    assert found.status_code == 200, found.text
    body = found.json()
    assert body["predicted_revenue_micros"] > 0 and body["predicted_cost_micros"] > 0
    assert math.isclose(body["predicted_roas"], body["predicted_revenue_micros"] / body["predicted_cost_micros"])
    assert body["actual"]["impressions"] == 0 and body["actual"]["roas"] is None
    assert body["confidence"]["level"] != "tuple"


@pytest.mark.parametrize(
    ("scope", "brands", "partners", "calls"),
    [
        (
            "brand",
            ("cheap",),
            (),
            {
                "score": 403,
                "own brand": 200,
                "other brand": 404,
                "brands": 403,
                "put": 403,
                "roas": 200,
                "other roas": 404,
            },
        ),
        (
            "partner",
            (),
            ("p-1",),
            {"score": 200, "own brand": 403, "brands": 403, "put": 403, "roas": 200, "other partner": 404},
        ),
        ("partner", (), (), {"score": 200, "roas": 404}),
        ("", (), (), {"score": 403, "own brand": 403, "brands": 403, "put": 403, "roas": 403}),
    ],
)
async def test_scopes(
    on_sqlite: World, scope: str, brands: tuple[str, ...], partners: tuple[str, ...], calls: dict[str, int]
) -> None:
    caller = on_sqlite.client(scope, brands, partners)
    place = {"brand_id": "cheap", "partner_id": "p-1", "slot_id": "s-1"}
    made = {
        "score": lambda: caller.post("/api/score", request("scoped")),
        "own brand": lambda: caller.get("/api/brands/cheap"),
        "other brand": lambda: caller.get("/api/brands/brand-atlas"),
        "brands": lambda: caller.get("/api/brands"),
        "put": lambda: caller.put("/api/brands/cheap", {}),
        "roas": lambda: caller.get("/api/roas", **place),
        "other roas": lambda: caller.get("/api/roas", **place | {"brand_id": "brand-atlas"}),
        "other partner": lambda: caller.get("/api/roas", **place | {"partner_id": "p-2"}),
    }
    found = {name: (await made[name]()).status_code for name in calls}
    assert found == calls
    missing, foreign = (
        await on_sqlite.client("brand", ("cheap",)).get("/api/brands/none"),
        await on_sqlite.client("brand", ("cheap",)).get("/api/brands/brand-atlas"),
    )
    same = [answer.json() | {"instance": ""} for answer in (missing, foreign)]
    assert same[0] == same[1], "somebody else's thing looks like one that does not exist"


async def test_what_each_caller_may_report(on_sqlite: World) -> None:
    partner = on_sqlite.client("partner", (), ("p-1",))
    conversion = {"conversion_id": "c", "revenue_micros": 1}
    events = [
        event("1"),
        event("2", partner_id="p-2"),
        event("3", "conversion", status="pending", **conversion),
        event("4", "conversion", status="approved", **conversion),
        event("5", "conversion_update", status="rejected", conversion_id="c"),
        event("6", "aggregate", period="day", impressions=1),
    ]
    items = (await partner.post("/api/performance", {"events": events})).json()["items"]
    assert [(item["status"], item.get("code")) for item in items] == [
        ("accepted", None),
        ("rejected", "not_found"),
        ("accepted", None),
        ("rejected", "forbidden"),
        ("rejected", "forbidden"),
        ("rejected", "forbidden"),
    ]
    mine = on_sqlite.client("partner", (), ("p-1",))
    ranked = (await mine.post("/api/score", request("mine", bid(), bid("b-2", partner_id="p-2")))).json()["ranked"]
    assert [(item["status"], item["reason"]) for item in ranked] == [("won", None), ("rejected", "not_found")]
    assert ranked[1]["score"] is None


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


async def test_bad_events_are_refused_whole(on_sqlite: World) -> None:
    admin = on_sqlite.client()
    wrong = [
        event("e", "conversion", status="pending"),
        event("e", "impression", revenue_micros=5),
        event("e", "aggregate"),
        event("e", cost_micros=-1),
        event("e", cost_micros=2**53),
        event("e", "conversion", conversion_id="c", status="pending", slot_id=None),
        event("e", occurred_at="yesterday"),
        event("e", "sale"),
    ]
    for body in wrong:
        answer = await admin.post("/api/performance", {"events": [event("good"), body]})
        assert answer.status_code == 422, body
    assert (await admin.post("/api/performance", {"events": [event("good")]})).json()["accepted"] == 1


async def test_the_order_of_checks(on_sqlite: World) -> None:
    nobody, brand, admin = on_sqlite.anonymous(), on_sqlite.client("brand", ("cheap",)), on_sqlite.client()
    huge = b" " * (10 * 1024 * 1024 + 1)
    assert (await nobody.post("/api/score", huge)).status_code == 401
    assert (await brand.post("/api/score", huge)).status_code == 413
    assert (await brand.post("/api/score", b"{")).status_code == 403
    assert (await admin.post("/api/score", b"{")).status_code == 422
    unauthorized = await on_sqlite.anonymous("rubbish").get("/api/brands")
    assert unauthorized.headers["www-authenticate"].startswith("Bearer")
    assert (await admin.get("/api/nothing")).status_code == 404
    assert (await admin.get("/api/score")).status_code == 405


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


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"target_roas": 0}, "/target_roas"),
        (b'{"target_roas": Infinity}', ""),
        ({"timezone": "Mars/Olympus"}, "/timezone"),
        ({"daily_budget_micros": -1}, "/daily_budget_micros"),
        ({"daily_budget_micros": 2**53}, "/daily_budget_micros"),
        ({"daily_budget_micros": 1.5}, "/daily_budget_micros"),
        ({"budget": 1}, "/budget"),
        ({"exploration": 1.1}, "/exploration"),
        ({"strategy_multiplier": 0}, "/strategy_multiplier"),
        ({"portfolio_id": "missing"}, "/portfolio_id"),
        ({"active": "yes"}, "/active"),
        ([], ""),
    ],
)
async def test_a_brand_cannot_be_set_to_nonsense(on_sqlite: World, body: Any, pointer: str) -> None:
    admin = on_sqlite.client()
    before = (await admin.get("/api/brands/cheap")).json()
    answer = await admin.put("/api/brands/cheap", body)
    assert answer.status_code == 422, answer.text
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert (await admin.get("/api/brands/cheap")).json() == before


async def test_brands_and_portfolios_by_page(on_sqlite: World) -> None:
    admin = on_sqlite.client()
    seen, cursor = [], None
    while True:
        page = (await admin.get("/api/brands", limit=3, **({"cursor": cursor} if cursor else {}))).json()
        seen += [brand["brand_id"] for brand in page["brands"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == sorted(set(seen)) and "cheap" in seen and len(seen) >= 9
    assert (await admin.get("/api/brands", limit=0)).status_code == 422
    assert (await admin.get("/api/brands", offset=1)).status_code == 422
    assert (await admin.put("/api/portfolios/group", {"daily_budget_micros": 5})).status_code == 200
    await on_sqlite.brand("member", portfolio_id="group", target_roas=0.01)
    first = (await admin.post("/api/score", request("g-1", bid(brand="member", price_micros=5000)))).json()["ranked"][0]
    second = (await admin.post("/api/score", request("g-2", bid(brand="member")))).json()["ranked"][0]
    assert (first["status"], second["status"], second["reason"]) == ("won", "no_budget", "portfolio_budget")
    assert (await admin.put("/api/brands/member", {"portfolio_id": "group", "currency": "USD"})).status_code == 422


async def test_models_can_be_rolled_back_and_an_unknown_one_is_404(on_sqlite: World) -> None:
    admin = on_sqlite.client()
    models = (await admin.get("/api/models")).json()["models"]
    assert [model["live"] for model in models] == [True] and models[0]["simulated"]
    assert (await admin.post(f"/api/models/{models[0]['version']}/activate", b"")).status_code == 200
    assert (await admin.post("/api/models/none/activate", b"")).status_code == 404


async def test_models_show_their_gate_who_was_live_when_and_the_monitor_a_champion_that_stays(
    on_sqlite: World, redis_url: str
) -> None:
    admin = on_sqlite.client()
    (first,) = (await admin.get("/api/models")).json()["models"]
    assert first["gate"]["accepted"] and first["gate"]["reason"] == "no champion to compare with"
    assert "model_challenger_rejected 0.0" in (await admin.get("/metrics")).text.splitlines()
    impossible = ModelSettings(trees=20, gate_score_shift=1.0000001, gate_week_deviance=1e-9, gate_deviance=1e-9)
    more = performance(TODAY, days=1, seed=3)
    await import_frame(on_sqlite.database, more, "more", simulated=True, say=lambda _: None)
    lost = await run(
        on_sqlite.database, on_sqlite.state, settings=impossible, redis_url=redis_url, verify=False, say=lambda _: None
    )
    page = ModelPage.model_validate_json((await admin.get("/api/models")).content)
    newest = page.models[0]
    assert (newest.version, newest.status, newest.live, page.as_of) == (lost.version, "rejected", False, None)
    assert newest.gate is not None and newest.gate.reason == lost.reason
    assert next(check.check for check in newest.gate.checks if not check.passed) == "newest day"
    assert newest.gate.newest_day is not None and newest.gate.newest_day.champion is not None
    assert newest.gate.newest_day.champion["rows"] > 0
    metrics = (await admin.get("/metrics")).text.splitlines()
    assert "model_challenger_rejected 1.0" in metrics
    assert {"model_night_unverified 0.0", "model_night_failed 0.0"} <= set(metrics)

    now = dt.datetime.now(dt.UTC).isoformat().replace("+00:00", "Z")
    as_of = (await admin.get("/api/models", at=now)).json()["as_of"]
    assert (as_of["model_version"], as_of["reason"]) == (first["version"], "nightly")
    atlas = next(brand for brand in as_of["lambdas"] if brand["brand_id"] == "brand-atlas")
    assert (atlas["lambda"], atlas["kappa"], atlas["night_kappa"]) == (1.0, None, None), "cold: the target"
    before = (await admin.get("/api/models", at="2020-01-01T00:00:00Z", brand_id="cheap")).json()["as_of"]
    assert before["model_version"] is None
    for wrong in ({"at": "last Tuesday"}, {"at": "2020-01-01T00:00:00"}, {"when": now}):
        assert (await admin.get("/api/models", **wrong)).status_code == 422, wrong


async def test_a_changed_model_file_is_refused_and_the_live_one_stays(on_sqlite: World, redis_url: str) -> None:
    admin = on_sqlite.client()
    assert (await admin.post("/api/score", request("loaded"))).status_code == 200
    version = (await admin.get("/api/models")).json()["models"][0]["version"]
    async with Redis.from_url(redis_url) as redis:
        await redis.delete(f"roas_model:{version}")  # with it, the folder would be made anew
    tree = on_sqlite.state.models / version / "model.txt"
    tree.write_text(tree.read_text().replace("leaf_value=", "leaf_value=9", 1))
    refused = await admin.post(f"/api/models/{version}/activate", b"")
    assert refused.status_code == 409, refused.text
    assert (await admin.post("/api/score", request("still"))).status_code == 200
    tree.unlink()
    assert (await admin.post(f"/api/models/{version}/activate", b"")).status_code == 409


async def test_open_routes_and_the_document(on_sqlite: World) -> None:
    nobody = on_sqlite.anonymous()
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json", "/metrics"):
        assert (await nobody.get(path)).status_code == 200, path
    document = (await nobody.get("/openapi.json")).json()
    assert set(document["paths"]) >= {
        "/api/score",
        "/api/performance",
        "/api/roas",
        "/api/brands",
        "/api/brands/{brand_id}",
    }
    assert document["components"]["schemas"]["ScoreRequest"]["additionalProperties"] is False
    references = json.dumps(document).split('"$ref": "#/components/schemas/')[1:]
    assert {reference.split('"')[0] for reference in references} <= set(document["components"]["schemas"])
    named = await nobody.get("/healthz")
    assert named.headers["x-request-id"]


async def test_answers_are_what_the_document_says(on_sqlite: World) -> None:
    admin = on_sqlite.client()
    score = await admin.post("/api/score", request("shape", bid(), bid("b-2", "nobody"), explain=True))
    ScoreResponse.model_validate_json(score.content)
    events = await admin.post("/api/performance", {"events": [event("shape")]})
    PerformanceResponse.model_validate_json(events.content)
    place = {"brand_id": "cheap", "partner_id": "p-1", "slot_id": "s-1"}
    RoasResponse.model_validate_json((await admin.get("/api/roas", **place)).content)
    assert (await admin.put("/api/portfolios/shape", {})).status_code == 200
    await on_sqlite.brand("cheap", timezone="Europe/London", target_roas=0.01)
    brand = Brand.model_validate_json((await admin.get("/api/brands/cheap")).content)
    assert brand.scheduled is not None
    assert brand.scheduled.timezone == "Europe/London"
    BrandPage.model_validate_json((await admin.get("/api/brands")).content)
    Portfolio.model_validate_json((await admin.get("/api/portfolios/shape")).content)
    ModelPage.model_validate_json((await admin.get("/api/models")).content)


async def test_the_monitor_names_the_brand_whose_payout_broke(on_sqlite: World, redis_url: str) -> None:
    admin = on_sqlite.client()
    before = (await admin.get("/metrics")).text
    assert (
        "# TYPE brand_payout_broken gauge" in before and 'brand_payout_broken{brand_id="brand-atlas"} 1.0' not in before
    )
    # Two weeks of a brand that pays 0.2 a click, half of that on the last day, beside everything else.
    history = performance(TODAY, days=14, seed=4)
    pays = history["clicks"] * (0.2 - 0.1 * (history["ts"] == history["ts"].max()))
    halved = history[history["brand_id"] == "brand-atlas"].assign(brand_id="halved", revenue=pays, pending_revenue=0.0)
    await import_frame(on_sqlite.database, halved, "halved", say=lambda _: None)
    settings = ModelSettings(trees=3, gate_week_deviance=1e-9)
    lost = await run(
        on_sqlite.database, on_sqlite.state, settings=settings, redis_url=redis_url, verify=False, say=lambda _: None
    )
    assert not lost.accepted, "a payout that breaks is told whoever wins at the gate"
    text = (await admin.get("/metrics")).text.splitlines()
    assert 'brand_payout_broken{brand_id="halved"} 1.0' in text
    shown = [line for line in text if line.startswith("brand_payout_broken{")]
    assert [line for line in shown if not line.endswith(" 0.0")] == ['brand_payout_broken{brand_id="halved"} 1.0']


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


async def test_an_import_of_yesterday_shows_in_the_actuals(on_sqlite: World) -> None:
    yesterday = (TODAY - dt.timedelta(days=1)).isoformat()
    found = (await on_sqlite.client().get("/api/brands/brand-atlas")).json()
    assert found["today"]["settled"] == 0, f"an import (up to {yesterday}) never touches budgets"
