"""PUT, PATCH, ETag and If-Match of brands and portfolios."""

import asyncio

import pytest
from openapi_schema_validator import OAS31Validator

from serve_app.http.openapi import PATCH_TYPES
from tests.contract.http import World

BRAND, PORTFOLIO = "/api/brands/b", "/api/portfolios/f"
PLACES = pytest.mark.parametrize("path", [BRAND, PORTFOLIO])


@PLACES
async def test_a_put_that_leaves_the_budget_out_cannot_raise_it(on_sqlite: World, path: str) -> None:
    admin = on_sqlite.client()
    assert (await admin.put(path, {"daily_budget_micros": 1_000_000})).status_code == 200
    refused = await admin.put(path, {"target_roas": 2.0})
    assert refused.status_code == 422
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/daily_budget_micros"]
    assert (await admin.get(path)).json()["daily_budget_micros"] == 1_000_000
    assert (await admin.put(path, {"daily_budget_micros": None})).json()["daily_budget_micros"] is None
    assert (await admin.put(path, {"target_roas": 2.0})).status_code == 200, "it has none that could be replaced"


@PLACES
async def test_a_patch_changes_what_it_names(on_sqlite: World, path: str) -> None:
    admin = on_sqlite.client()
    assert (await admin.patch(path, {"target_roas": 3.0})).status_code == 404
    before = (await admin.put(path, {"daily_budget_micros": 5, "target_roas": 2.0, "throttle_roas": 1.5})).json()
    after = (await admin.patch(path, {"daily_budget_micros": 7})).json()
    assert after == before | {"daily_budget_micros": 7, "today": before["today"] | {"budget": 7, "available": 7}}
    assert (await admin.patch(path, {})).json() == after
    assert (await admin.patch(path, {"daily_budget_micros": None})).json()["daily_budget_micros"] is None
    assert (await admin.patch(path, {"target_roas": None})).status_code == 422
    assert (await admin.patch(path, {"target": 1.0})).status_code == 422
    for wrong in ({"throttle_roas": 2.1}, {"target_roas": 1.4}):
        refused = await admin.patch(path, wrong)
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/throttle_roas")
    assert (await admin.patch(path, {"target_roas": 1.4, "throttle_roas": 1.4})).status_code == 200
    lower = await admin.put(path, {"daily_budget_micros": 5, "target_roas": 0.5})
    assert lower.json()["throttle_roas"] == 0.5, "left out, it is never above the target"


@PLACES
async def test_what_get_answers_can_be_put_back(on_sqlite: World, path: str) -> None:
    admin = on_sqlite.client()
    await admin.put(path, {"daily_budget_micros": 5, "target_roas": 2.0})
    shown = await admin.get(path)
    for method in (admin.put, admin.patch):
        again = await method(path, shown.json())
        assert (again.status_code, again.json(), again.headers["etag"]) == (200, shown.json(), shown.headers["etag"])
    other = shown.json() | {("brand_id" if path == BRAND else "portfolio_id"): "other"}
    assert (await admin.put(path, other)).status_code == 422


async def test_the_document_knows_what_may_be_put_back(on_sqlite: World) -> None:
    admin = on_sqlite.client()
    document = (await admin.get("/openapi.json")).json()
    for path, name in ((BRAND, "brand_id"), (PORTFOLIO, "portfolio_id")):
        await admin.put(path, {})
        shown = (await admin.get(path)).json()
        operations = document["paths"][f"{path[:-1]}{{{name}}}"]
        for method, types in (("put", {"application/json"}), ("patch", set(PATCH_TYPES))):
            content = operations[method]["requestBody"]["content"]
            assert content.keys() == types
            body = OAS31Validator(content["application/json"]["schema"] | {"components": document["components"]})
            body.validate(shown)
            assert not body.is_valid(shown | {"daily_budget": 5})
            headers = {one["name"] for one in operations[method]["parameters"] if one["in"] == "header"}
            assert headers == {"If-Match", "If-None-Match"}
        assert all("ETag" in operations[method]["responses"]["200"]["headers"] for method in ("get", "put", "patch"))


@PLACES
async def test_a_patch_of_another_kind_is_not_guessed_at(on_sqlite: World, path: str) -> None:
    admin = on_sqlite.client()
    await admin.put(path, {"daily_budget_micros": 5})
    for kind in ("application/merge-patch+json", "application/json; charset=utf-8", "Application/JSON"):
        assert (await admin.patch(path, {"daily_budget_micros": 6}, content_type=kind)).status_code == 200
    for kind in ("application/json-patch+json", "text/csv"):
        refused = await admin.patch(path, {"daily_budget_micros": 7}, content_type=kind)
        assert (refused.status_code, refused.headers["content-type"]) == (415, "application/problem+json")
        assert refused.headers["accept-patch"] == ", ".join(PATCH_TYPES)
    assert (await admin.patch(path, [{"op": "replace", "path": "/active", "value": False}])).status_code == 422
    for twice in (b'{"daily_budget_micros": 7, "daily_budget_micros": 8}', b'{"today": {"a": 1, "a": 2}}'):
        refused = await admin.patch(path, twice)
        assert (refused.status_code, refused.json()["errors"][0]["code"]) == (422, "repeated")
    assert (await admin.get(path)).json()["daily_budget_micros"] == 6


async def test_only_admins_change_settings(on_sqlite: World) -> None:
    await on_sqlite.client().put(BRAND, {"daily_budget_micros": 5})
    for scope, ids in (("brand", ("b",)), ("partner", ("p",))):
        for path in (BRAND, PORTFOLIO):
            assert (await on_sqlite.client(scope, ids).patch(path, {"daily_budget_micros": 6})).status_code == 403
    assert (await on_sqlite.anonymous().patch(BRAND, {})).status_code == 401


async def test_what_is_put_back_leaves_a_scheduled_change_as_it_is(on_sqlite: World) -> None:
    admin = on_sqlite.client()
    await admin.put(BRAND, {"daily_budget_micros": 5})
    await admin.patch(BRAND, {"timezone": "Europe/London"})
    shown = (await admin.get(BRAND)).json()
    assert shown["scheduled"]["timezone"] == "Europe/London"
    assert (await admin.put(BRAND, shown)).json() == shown
    assert (await admin.patch(BRAND, {"active": False})).json() == shown | {"active": False}
    await admin.put(PORTFOLIO, {"timezone": "Europe/London"})
    both = (await admin.put(BRAND, shown | {"portfolio_id": "f"})).json()
    assert both["scheduled"] == shown["scheduled"] | {"portfolio_id": "f"}, "each of the two by itself"
    only_zone = (await admin.patch(BRAND, {"portfolio_id": None})).json()
    assert only_zone["scheduled"] == shown["scheduled"]
    assert "scheduled" not in (await admin.patch(BRAND, {"timezone": "UTC"})).json(), "said in so many words"


@PLACES
async def test_a_change_is_refused_if_somebody_was_faster(api: World, path: str) -> None:
    admin = api.client()
    assert (await admin.put(path, {"daily_budget_micros": 5}, if_match="*")).status_code == 412
    created = await admin.put(path, {"daily_budget_micros": 5}, if_none_match="*")
    assert created.status_code == 200
    assert (await admin.put(path, {"daily_budget_micros": 6}, if_none_match="*")).status_code == 412
    tag = created.headers["etag"]
    assert tag == (await admin.get(path)).headers["etag"]
    assert tag.startswith('"') and tag.endswith('"')
    answers = await asyncio.gather(
        *(admin.patch(path, {"daily_budget_micros": budget}, if_match=tag) for budget in range(10, 20))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 9
    (won,) = [answer for answer in answers if answer.status_code == 200]
    assert (await admin.get(path)).json() == won.json()
    assert won.headers["etag"] != tag
    assert (await admin.patch(path, {"target_roas": 2.0}, if_match=f'W/"x", {won.headers["etag"]}')).status_code == 200
    now = (await admin.get(path)).headers["etag"]
    for none in ("", ",", '""', "null", f"W/{now}"):
        assert (await admin.patch(path, {"target_roas": 3.0}, if_match=none)).status_code == 412, none
    refused = await admin.patch(path, {"target_roas": 3.0}, if_match=tag)
    assert refused.headers["content-type"] == "application/problem+json"
    assert "GET it and try again" in refused.json()["detail"]


@pytest.mark.parametrize("name", [".", ".."])
async def test_an_id_is_no_place_in_a_path(on_sqlite: World, name: str) -> None:
    admin = on_sqlite.client()
    quoted = name.replace(".", "%2e")
    for path in (f"/api/brands/{quoted}", f"/api/portfolios/{quoted}"):
        assert (await admin.put(path, {"daily_budget_micros": 5})).status_code in (404, 405, 422)
    bid = {"bid_id": name, "brand_id": "cheap", "partner_id": "p", "slot_id": "s", "device_type": "d",
           "creative_type": "c", "pricing_model": "cpm", "price_micros": 1}  # fmt: skip
    for changed in ({}, {"bid_id": "b", "partner_id": name}):
        assert (await admin.post("/api/score", {"request_id": "r", "bids": [bid | changed]})).status_code == 422
    assert (await admin.post("/api/score", {"request_id": name, "bids": [bid | {"bid_id": "b"}]})).status_code == 422
