"""Processes that stop or die under the money: what was answered is held, and nothing is lent twice."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.launcher import processes
from tests.cluster.conftest import System
from tests.cluster.test_round_trip import PLACE, brand_ids, command_line, ledger_pid, now, request, wait_until

pytestmark = pytest.mark.usefixtures("audited")


def epoch(http: httpx.Client) -> int:
    lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith('ledger_epoch{shard="0"}')]
    return int(float(lines[0].split()[-1]))


def ask(http: httpx.Client, brand: str, name: str) -> dict[str, Any]:
    answer = http.post("/api/score", json=request(f"{name}-{time.time_ns()}", brand))
    answer.raise_for_status()
    item: dict[str, Any] = answer.json()["ranked"][0]
    return item


def replica_pids(system: System, name: str) -> set[int]:
    return {pid for pid in processes.marked(system.run_file["system"]) if f":{name}".encode() in command_line(pid)}


def test_a_stopped_ledger_is_replaced_and_cannot_write_when_it_wakes(system: System, http: httpx.Client) -> None:
    brand = brand_ids(http)[4]
    assert ask(http, brand, "before-stop")["status"] == "won"
    before, stopped = epoch(http), ledger_pid(system)
    os.kill(stopped, signal.SIGSTOP)
    try:
        began = time.monotonic()
        seen: list[str] = []
        while not (time.monotonic() > began + 4 and seen[-1] == "won"):
            assert time.monotonic() < began + 60, seen
            seen.append(ask(http, brand, "stopped")["status"])
            time.sleep(0.1)
        wait_until(lambda: epoch(http) > before, 30)
    finally:
        if Path(f"/proc/{stopped}").exists():
            os.kill(stopped, signal.SIGCONT)
    wait_until(lambda: not Path(f"/proc/{stopped}").exists(), 30)
    after = epoch(http)
    assert ask(http, brand, "after-stop")["status"] == "won"
    time.sleep(3)
    assert epoch(http) == after, "the old one does not come back"
    assert seen[0] == "won", "leases are drawn on while the ledger is silent"


def test_wins_of_a_killed_replica_are_paid_from_its_block(system: System, http: httpx.Client) -> None:
    brand = brand_ids(http)[5]
    assert http.put(f"/api/brands/{brand}", json={"daily_budget_micros": 1_000_000}).status_code == 200
    first = http.get(f"/api/brands/{brand}").json()["today"]
    won = [ask(http, brand, "doomed") for _ in range(20)]
    assert {item["status"] for item in won} == {"won"}
    killed = replica_pids(system, "Ingress")  # all of them: any may have answered
    for pid in killed:
        os.kill(pid, signal.SIGKILL)

    def serves_again() -> bool:
        try:
            there = replica_pids(system, "Ingress")
            return len(there) == len(killed) and not there & killed and http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(serves_again, 60)
    events = [
        {"event_id": f"doomed-{time.time_ns()}-{number}", "type": "impression", "occurred_at": now(), "cost_micros": 1}
        | {"brand_id": brand, **PLACE, "reservation_id": item["reservation_id"]}
        for number, item in enumerate(won)
    ]
    reported = http.post("/api/performance", json={"events": events})
    assert reported.json()["accepted"] == len(won), reported.text
    today = http.get(f"/api/brands/{brand}").json()["today"]
    assert today["settled"] == first["settled"] + len(won)
    assert today["reserved"] == first["reserved"], "each hold was found and ended, recorded or not"
    assert today["budget"] == sum(today[state] for state in ("available", "leased", "reserved", "settled"))
    assert ask(http, brand, "reborn")["status"] == "won"
