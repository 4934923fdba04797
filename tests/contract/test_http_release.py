"""POST /api/reservations/release, and bids below target, as a caller sees them."""

from __future__ import annotations

import pytest

from tests.contract.http import Client, World, bid, event, request

RELEASE = "/api/reservations/release"


async def won(caller: Client, name: str, **changes: object) -> str:
    (item,) = (await caller.post("/api/score", request(name, bid(brand="held", **changes)))).json()["ranked"]
    assert item["status"] == "won", item
    reservation_id: str = item["reservation_id"]
    return reservation_id


async def became(caller: Client, *reservation_ids: str) -> list[str]:
    answer = await caller.post(RELEASE, {"reservation_ids": list(reservation_ids)})
    assert answer.status_code == 200, answer.text
    items = answer.json()["items"]
    assert [item["reservation_id"] for item in items] == list(reservation_ids)
    assert answer.json()["released"] == sum(item["status"] == "released" for item in items)
    return [item["status"] for item in items]


async def test_what_will_not_be_shown_is_the_brands_again(api: World) -> None:
    await api.brand("held", target_roas=0.01, throttle_roas=0.01, daily_budget_micros=10**9)
    mine, other = api.client("partner", partners=("p-1",)), api.client("partner", partners=("p-2",))
    first, second, third = [await won(mine, f"w-{number}") for number in range(3)]
    today = (await brand_now(api))["today"]
    assert today["reserved"] == 3
    assert await became(other, first) == ["not_found"], "another partner's is none"
    assert await became(mine, first, "nothing") == ["released", "not_found"]
    assert await became(mine, first) == ["ended"], "a repetition has no effect"
    events = [event("shown", "click", brand_id="held", reservation_id=second)]
    assert (await mine.post("/api/performance", {"events": events})).json()["accepted"] == 1
    assert await became(mine, second) == ["shown"]
    assert await became(api.client(), third) == ["released"], "an admin may release anybody's"
    today = (await brand_now(api))["today"]
    assert (today["reserved"], today["settled"]) == (1, 0)


async def brand_now(api: World) -> dict[str, dict[str, int]]:
    shown: dict[str, dict[str, int]] = (await api.client().get("/api/brands/held")).json()
    return shown


@pytest.mark.parametrize(
    "body", [{}, {"reservation_ids": []}, {"reservation_ids": [1]}, {"reservation_ids": ["a" * 65]}]
)
async def test_a_release_of_nothing_is_refused(on_sqlite: World, body: dict[str, object]) -> None:
    assert (await on_sqlite.client().post(RELEASE, body)).status_code == 422
    assert (
        await on_sqlite.client("brand", brands=("held",)).post(RELEASE, {"reservation_ids": ["a"]})
    ).status_code == 403


async def test_requests_alone_give_no_right_to_buy_below_target(api: World) -> None:
    """40 wins at 263 EUR an impression followed 3,350 requests of 1 µ that were never shown."""
    await api.brand("held", target_roas=1.0, daily_budget_micros=None)
    partner = api.client("partner", partners=("p-1",))
    for number in range(50):
        await won(partner, f"cheap-{number}", price_micros=1)
    dear = (await partner.post("/api/score", request("dear", bid(brand="held", price_micros=263 * 10**9)))).json()
    assert dear["ranked"][0]["reason"] in ("roas_slack", "score_below_zero")
    (item,) = dear["ranked"]
    worth = int(1000 * item["predicted_revenue_micros"])
    await api.ledger.beat_within(10.0)
    assert (await won(partner, "at-target", price_micros=worth // 2)).strip(), "above the target nothing else is needed"
