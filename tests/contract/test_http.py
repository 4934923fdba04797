"""The HTTP contract beside scores and reports: scopes, the order of checks, brands, models, the document."""

from __future__ import annotations

import datetime as dt
import json
import logging
import math
from typing import Any

import pytest
from redis.asyncio import Redis

from serve_app import token
from serve_app.schemas.brands import Brand, BrandPage, Portfolio
from serve_app.schemas.models import ModelPage
from serve_app.schemas.performance import PerformanceResponse
from serve_app.schemas.roas import RoasResponse
from serve_app.schemas.score import ScoreResponse
from tests.contract.http import TODAY, World, bid, event, request
from training.etl.importer import import_frame
from training.etl.simulated_market import performance
from training.nightly.pipeline import run
from training.settings import ModelSettings


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
        ({"portfolio_id": "missing", "daily_budget_micros": 5}, "/portfolio_id"),
        ({"active": "yes"}, "/active"),
        ({"throttle_roas": 1.01}, "/throttle_roas"),
        ({"target_roas": 2.0, "throttle_roas": 2.5}, "/throttle_roas"),
        ({"currency": "ABC"}, "/currency"),
        ({"max_cost_micros": 0}, "/max_cost_micros"),
        ({"cost_tolerance": 0.9}, "/cost_tolerance"),
        ({"brand_id": "another"}, "/brand_id"),
        ({"portfolio_id": ".."}, "/portfolio_id"),
        ({"target_roas": 3.0}, "/daily_budget_micros"),  # it has a budget, which a default would replace
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
    shown = (await admin.get("/metrics")).text.splitlines()
    assert "model_challenger_rejected 0.0" in shown
    assert {"paceline_jwks_failing 0.0", "paceline_jwks_age_seconds NaN"} <= set(shown)
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
    assert set(document["paths"]) == {path for path in on_sqlite.paths if path.startswith("/api/")}
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
    await on_sqlite.brand("cheap", timezone="Europe/London", target_roas=0.01, daily_budget_micros=10**9)
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


async def test_why_a_token_is_refused_is_in_the_log_and_no_token_is(
    on_sqlite: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for each in ("paceline", "paceline.access", "paceline.auth"):
        caplog.set_level(logging.DEBUG, each)
    good = on_sqlite.token()
    forged = token.make("another-secret-" + "x" * 32, "admin", [], [], 60, "tester")
    for number, bearer in enumerate((None, forged, good)):
        named = {"X-Request-ID": f"asked-{number}"}
        answer = await on_sqlite.anonymous(bearer).post("/api/score", request(f"log-{number}"), **named)
        assert answer.status_code == (200 if bearer == good else 401)
        assert "signature" not in answer.text + str(answer.headers)
        assert not bearer or bearer not in answer.text + str(answer.headers)
    await on_sqlite.flush_score_log()
    lines = {line.split("request=")[-1] for record in caplog.records for line in record.getMessage().splitlines()}
    assert {"'asked-0' refused=header_missing", "'asked-1' refused=signature_invalid", "'asked-2'"} <= lines
    for bearer in (good, forged):
        assert not any(part in caplog.text for part in (bearer, bearer.split(".")[2]))
