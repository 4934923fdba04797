"""POST /api/performance, and what comes of it, on SQLite and on MySQL."""

from __future__ import annotations

import datetime as dt
from typing import Any

from tests.contract.http import TODAY, World, bid, event, request


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


async def test_a_time_that_cannot_be_is_refused_to_everybody(on_sqlite: World) -> None:
    """A conversion dated 23:59:59 of today could not be rejected any more: the later word counts."""
    now = dt.datetime.now(dt.UTC)
    conversion = {"conversion_id": "c", "status": "pending", "revenue_micros": 1, "cost_micros": 900}
    kinds: dict[str, dict[str, Any]] = {
        "impression": {}, "click": {"click_id": "k"}, "conversion": conversion,
        "conversion_update": {"conversion_id": "c", "cost_micros": 5},
        "aggregate": {"period": "day", "impressions": 1, "cost_micros": 0},
    }  # fmt: skip
    callers = {
        "admin": on_sqlite.client(),
        "brand": on_sqlite.client("brand", ("cheap",)),
        "partner": on_sqlite.client("partner", (), ("p-1",)),
    }
    times = {
        "in_the_future": [now + dt.timedelta(minutes=6), now + dt.timedelta(days=365), dt.datetime(9999, 12, 31, 23)],
        "too_old": [now - dt.timedelta(days=3654), dt.datetime(1, 1, 1)],
        "accepted": [now + dt.timedelta(minutes=4), now - dt.timedelta(days=3000)],
    }
    for name, caller in callers.items():
        for kind, more in kinds.items():
            if name == "partner" and kind in ("conversion_update", "aggregate"):
                continue
            for code, moments in times.items():
                events = [
                    event(f"{name}-{kind}-{code}-{number}", kind, **more | _at(kind, at, f"{name}-{code}-{number}"))
                    for number, at in enumerate(moments)
                ]
                answer = (await caller.post("/api/performance", {"events": events})).json()
                assert [item.get("code", item["status"]) for item in answer["items"]] == [code] * len(moments), name
    today = event("today", "aggregate", occurred_at=f"{now:%Y-%m-%d}T00:00:00Z", **kinds["aggregate"])
    assert (await callers["brand"].post("/api/performance", {"events": [today]})).json()["accepted"] == 1
    leap = event("leap", "impression", occurred_at="2016-12-31T23:59:60Z")
    again = event("leap", "impression", occurred_at="2017-01-01T00:00:00Z")
    answer = (await callers["admin"].post("/api/performance", {"events": [leap, again]})).json()
    assert [item["status"] for item in answer["items"]] == ["accepted", "duplicate"]


def _at(kind: str, at: dt.datetime, name: str) -> dict[str, str]:
    """When it happened; each conversion is one of its own."""
    return {"occurred_at": _written(at)} | ({"conversion_id": name} if kind == "conversion" else {})


def _written(at: dt.datetime) -> str:
    """With an offset that is not UTC's, where the calendar has room."""
    if at.tzinfo is None:
        return f"{at.isoformat()}{'-14:00' if at.year == 9999 else '+14:00'}"
    return at.astimezone(dt.timezone(dt.timedelta(hours=-11))).isoformat()


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


async def test_an_import_of_yesterday_shows_in_the_actuals(on_sqlite: World) -> None:
    yesterday = (TODAY - dt.timedelta(days=1)).isoformat()
    found = (await on_sqlite.client().get("/api/brands/brand-atlas")).json()
    assert found["today"]["settled"] == 0, f"an import (up to {yesterday}) never touches budgets"
