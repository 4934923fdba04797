"""The other composition: the model in replicas of its own, which may die."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import System, running
from tests.cluster.test_faults import replica_pids
from tests.cluster.test_round_trip import PLACE, brand_ids, wait_until
from tests.cluster.test_swap import assert_unharmed, swapped_under_load

pytestmark = pytest.mark.usefixtures("audited")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("pool") / "state"
    replicas = {"PACELINE_SERVE_PREDICTOR_REPLICAS": "2", "PACELINE_SERVE_INGRESS_REPLICAS": "2"}
    with running(folder, PACELINE_SERVE_PREDICTOR="pool", **replicas) as system:
        yield system


def request(name: str, brand: str, slots: list[str], **more: Any) -> dict[str, Any]:
    bids = [
        {
            "bid_id": f"b-{number}",
            "brand_id": brand,
            **PLACE,
            "slot_id": slot,
            "pricing_model": "cpm",
            "price_micros": 1000,
        }
        for number, slot in enumerate(slots)
    ]
    return {"request_id": f"{name}-{time.time_ns()}", "bids": bids, **more}


def test_the_pool_predicts_explains_and_looks_at_a_slot(http: httpx.Client) -> None:
    brand = brand_ids(http)[0]
    answers = [http.post("/api/score", json=request("pool", brand, ["s-1", "s-2"])).json() for _ in range(3)]
    assert [answer["ranked"][0]["status"] for answer in answers] == ["won"] * 3
    first, *others = ({item["bid_id"]: item["predicted_revenue_micros"] for item in one["ranked"]} for one in answers)
    assert all(other == first for other in others), "remembered or asked for anew: the same"
    explained = http.post("/api/score", json=request("why", brand, ["s-1"], explain=True)).json()["ranked"][0]
    shown = explained["contributions"]
    raw = shown["base"] + sum(shown["features"].values())
    assert math.isclose(math.exp(raw), explained["predicted_revenue_micros"], rel_tol=1e-6)
    assert explained["predicted_revenue_micros"] == first["b-0"]
    where = {"brand_id": brand, "partner_id": PLACE["partner_id"], "slot_id": "s-1"}
    seen = http.get("/api/roas", params=where | {"device_type": "mobile", "creative_type": "300x250"}).json()
    assert seen["model_version"] == answers[0]["model_version"]


def test_swaps_under_load_reach_every_predictor_and_mix_no_versions(system: System, http: httpx.Client) -> None:
    before = replica_pids(system, "Predictor")
    assert_unharmed(swapped_under_load(system, brand_ids(http), swaps=3), swaps=3)
    assert replica_pids(system, "Predictor") == before


def test_a_predictor_s_death_costs_the_requests_that_it_held(system: System, http: httpx.Client) -> None:
    brand = brand_ids(http)[1]
    assert http.post("/api/score", json=request("known", brand, ["s-known"])).status_code == 200
    before = replica_pids(system, "Predictor")
    assert len(before) == 2
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    statuses: list[int] = []

    def is_whole_again() -> bool:
        number = len(statuses)
        answer = http.post("/api/score", json=request("new", brand, [f"s-{number}", "s-known"]))
        statuses.append(answer.status_code)
        assert answer.status_code == 200 or answer.json()["type"] == "urn:paceline:predictor-unavailable", answer.text
        there = replica_pids(system, "Predictor")
        return len(there) == 2 and killed not in there and statuses[-5:] == [200] * 5

    wait_until(is_whole_again, 90)
