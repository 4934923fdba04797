"""A bid is scored and won, its results come back, the night learns from them, and the next prediction has changed."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from db.state import State
from serve_app.launcher import processes
from tests.cluster.conftest import ROOT, STOP_S, System

pytestmark = pytest.mark.usefixtures("audited")
BIN = Path(sys.executable).parent
PLACE = {"partner_id": "partner-new", "slot_id": "slot-new", "device_type": "mobile", "creative_type": "300x250"}


def brand_ids(http: httpx.Client) -> list[str]:
    return [brand["brand_id"] for brand in http.get("/api/brands").json()["brands"]]


PAID = PLACE | {"slot_id": "slot-paid"}  # another slot, because events count before aggregates


def request(name: str, brand: str, price_micros: int = 1000, place: dict[str, str] = PLACE) -> dict[str, Any]:
    bid = {"bid_id": "b", "brand_id": brand, **place, "pricing_model": "cpm", "price_micros": price_micros}
    return {"request_id": name, "bids": [bid]}


def new_brand(http: httpx.Client, **settings: Any) -> str:
    """A brand that nothing has been won or leased for yet, and that the replicas know."""
    brand = f"new-{time.time_ns()}"
    assert http.put(f"/api/brands/{brand}", json={"target_roas": 0.01} | settings).status_code == 200

    def is_known() -> bool:  # by a bid too dear to win
        asked = request(f"is-known-{time.time_ns()}", brand, price_micros=10**12)
        return bool(http.post("/api/score", json=asked).json()["ranked"][0]["reason"] == "score_below_zero")

    wait_until(is_known, 20)
    return brand


def now() -> str:
    return dt.datetime.now(dt.UTC).isoformat().replace("+00:00", "Z")


def test_a_day_of_results_changes_the_next_prediction(system: System, http: httpx.Client) -> None:
    brand = brand_ids(http)[0]
    first = http.post("/api/score", json=request("round-1", brand)).json()
    won = first["ranked"][0]
    assert won["status"] == "won" and won["reserved_micros"] == 1
    was = http.post("/api/score", json=request("round-2", brand, place=PAID)).json()["ranked"][0]
    before = http.get(f"/api/brands/{brand}").json()["today"]
    assert before["reserved"] >= 2
    event = {
        "type": "impression",
        "occurred_at": now(),
        "brand_id": brand,
        **PLACE,
        "reservation_id": won["reservation_id"],
        "cost_micros": 1,
    }
    aggregate = {"type": "aggregate", "period": "hour", "occurred_at": now(), "brand_id": brand, **PAID} | {
        "impressions": 500_000,
        "clicks": 5000,
        "conversions": 500,
        "cost_micros": 400_000_000,
        "revenue_micros": 5_000_000_000,
    }
    events = [{"event_id": "round-1-i", **event}, {"event_id": "round-1-a", **aggregate}]
    answer = http.post("/api/performance", json={"events": events}).json()
    assert answer["accepted"] == 2, answer
    assert http.post("/api/performance", json={"events": events}).json()["duplicates"] == 2
    after = http.get(f"/api/brands/{brand}").json()["today"]
    assert after["reserved"] == before["reserved"] - 1
    assert after["settled"] == before["settled"] + 1 + 400_000_000

    failures, versions, stop = [], set(), threading.Event()

    def keep_asking() -> None:
        number = 0
        with system.http() as asking:
            while not stop.is_set():
                number += 1
                reply = asking.post("/api/score", json=request(f"load-{number}", brand))
                if reply.status_code != 200:
                    failures.append(reply.text)
                else:
                    versions.add(reply.json()["model_version"])

    load = threading.Thread(target=keep_asking)
    load.start()
    try:
        night = submit_night(system)
        assert night["accepted"], night
        wait_until(lambda: http.get("/readyz").json()["model_version"] == night["version"], 60)
        time.sleep(1)
    finally:
        stop.set()
        load.join()
    assert failures == [], "no request may fail while a new model comes in"
    assert versions == {first["model_version"], night["version"]}

    second = http.post("/api/score", json=request("round-3", brand, place=PAID)).json()
    assert second["model_version"] == night["version"]
    before_night, after_night = (item["predicted_revenue_micros"] for item in (was, second["ranked"][0]))
    assert abs(after_night - 10_000) < 0.7 * abs(before_night - 10_000), (
        f"the slot earned 10,000 an impression; predicted {before_night}, then {after_night}"
    )

    registry = subprocess.run(
        ["git", "-C", str(system.state / "registry"), "log", "--oneline"], capture_output=True, text=True
    )
    assert night["version"] in registry.stdout
    models = {model["version"]: model for model in http.get("/api/models").json()["models"]}
    assert models[night["version"]]["live"] and not models[first["model_version"]]["live"]
    assert http.post(f"/api/models/{first['model_version']}/activate").status_code == 200
    wait_until(lambda: http.get("/readyz").json()["model_version"] == first["model_version"], 60)


def submit_night(system: System) -> dict[str, Any]:
    """By `ray job submit`, as the README says."""
    environ = system.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(system.state / "ray_token")}
    command = [
        str(BIN / "ray"),
        "job",
        "submit",
        "--address",
        system.run_file["dashboard"],
        "--",
        "python",
        "-m",
        "training.nightly",
    ]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)
    summaries = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert summaries, done.stdout + done.stderr
    return dict(json.loads(summaries[-1]))


def wait_until(condition: Any, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended since it was listed
        return b""


def ledger_pid(system: System) -> int:
    for pid in processes.marked(system.run_file["system"]):
        if b"LedgerActor" in command_line(pid):
            return pid
    raise AssertionError("there is no ledger")


def test_a_killed_ledger_comes_back_with_every_cent(system: System, http: httpx.Client) -> None:
    brand = brand_ids(http)[1]
    for number in range(20):
        http.post("/api/score", json=request(f"kill-{number}", brand)).raise_for_status()
    before = http.get(f"/api/brands/{brand}").json()["today"]
    os.kill(ledger_pid(system), signal.SIGKILL)
    wins = [
        http.post("/api/score", json=request(f"killed-{number}", brand)).json()["ranked"][0]["status"]
        for number in range(20)
    ]
    held = before["reserved"] + wins.count("won")

    def reserved() -> int | None:  # the replicas' wins come with their next beat
        answer = http.get(f"/api/brands/{brand}")
        return answer.json()["today"]["reserved"] if answer.status_code == 200 else None

    wait_until(lambda: reserved() == held, 20)
    time.sleep(2.0)  # beats go on
    assert reserved() == held, "each answered win is held, and nothing else"
    epochs = [line for line in http.get("/metrics").text.splitlines() if line.startswith("ledger_epoch")]
    assert epochs


def test_a_pause_reaches_the_replicas(http: httpx.Client) -> None:
    brand = brand_ids(http)[2]
    settings = {"daily_budget_micros": 10_000_000, "active": False}
    assert http.put(f"/api/brands/{brand}", json=settings).status_code == 200
    wait_until(
        lambda: (
            http.post("/api/score", json=request(f"pause-{time.time_ns()}", brand)).json()["ranked"][0]["reason"]
            == "brand_paused"
        ),
        60,
    )
    assert http.put(f"/api/brands/{brand}", json=settings | {"active": True}).status_code == 200
    wait_until(
        lambda: (
            http.post("/api/score", json=request(f"pause-{time.time_ns()}", brand)).json()["ranked"][0]["status"]
            == "won"
        ),
        60,
    )


def test_a_budget_is_never_overspent_by_many_at_once(system: System, http: httpx.Client) -> None:
    brand = new_brand(http, daily_budget_micros=100)
    won: list[int] = []

    def ask(worker: int) -> None:
        with system.http() as asking:
            for number in range(10):
                body = request(f"race-{worker}-{number}", brand, price_micros=7000)
                ranked = asking.post("/api/score", json=body).json()["ranked"]
                won.extend(item["reserved_micros"] for item in ranked if item["status"] == "won")

    threads = [threading.Thread(target=ask, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(won) == 98, "14 wins of 7 micros fit into 100"


SAMPLES = """
    brand_roas_current brand_roas_target brand_lambda brand_throttled brand_budget_micros brand_overspend_micros
    score_requests_total score_latency_seconds_bucket bids_scored_total events_total model_info model_age_seconds
    ledger_epoch
"""


def test_metrics_name_everything_and_the_same_from_wherever(http: httpx.Client) -> None:
    text = http.get("/metrics").text
    for name in SAMPLES.split():
        assert f"\n{name}" in text, name
    for name in ("portfolio_roas_current", "portfolio_roas_target"):
        assert f"# TYPE {name} gauge" in text


def test_a_second_system_on_the_same_folder_or_port_is_told_in_a_line(system: System, tmp_path: Path) -> None:
    held = system.run_module("serve_app.run", check=False)
    assert held.returncode == 1
    assert held.stderr.count("\n") == 1 and "is in use by process" in held.stderr
    other = dict(system.environ)
    system.environ["STATE"] = str(tmp_path / "another")
    try:
        taken = system.run_module("serve_app.run", check=False)
    finally:
        system.environ.clear()
        system.environ.update(other)
    assert taken.returncode == 1
    assert taken.stderr.count("\n") == 1 and f"port {system.port}" in taken.stderr


def test_what_the_ledger_declines_is_told_without_its_traceback(http: httpx.Client) -> None:
    missing = http.get("/api/brands/nobody")
    assert missing.status_code == 404
    assert missing.json()["detail"] == "no such brand: nobody"
    refused = http.put("/api/brands/somebody", json={"portfolio_id": "nothing"})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["message"] == "no such portfolio: nothing"


def test_a_caller_that_leaves_takes_nobody_with_it(system: System, http: httpx.Client) -> None:
    """Serve cancels what was called for a caller that disconnects; a coalesced call is everybody's."""
    brand = brand_ids(http)[4]
    one = request("x", brand)["bids"][0]

    def many(name: str, bids: int) -> bytes:
        listed = [one | {"bid_id": f"{name}-{number}", "slot_id": f"s-{number}"} for number in range(bids)]
        return json.dumps({"request_id": name, "tmax_ms": 4000, "bids": listed}).encode()

    def leave(name: str) -> None:
        body = many(name, 600)
        head = f"POST /api/score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {system.token}\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", system.port)) as connection:
            connection.sendall(head.encode() + body)
            time.sleep(0.02)

    for number in range(25):
        leaver = threading.Thread(target=leave, args=(f"leaver-{number}",))
        leaver.start()
        time.sleep(0.006)
        answer = http.post("/api/score", content=many(f"stayer-{number}", 300))
        leaver.join()
        assert answer.status_code == 200, (number, answer.text)


def test_state_is_for_its_user_alone_and_has_no_token_in_it(system: System, http: httpx.Client) -> None:
    """With a umask that lets everybody read, after good, refused and mistyped tokens."""
    brand = new_brand(http, daily_budget_micros=1_000_000)
    shown = system.run_module("serve_app.token", "--scope", "partner", "--partner-id", "p-1").stdout.strip()
    for bearer in (system.token, shown, shown[:-4] + "AAAA", f"{shown}.x"):
        headers = {"Authorization": f"Bearer {bearer}"}
        http.post("/api/score", json=request("token", brand), headers=headers)
        http.get("/api/brands", headers=headers)
        http.get(f"/nowhere/{brand}", headers=headers | {"X-Request-ID": "told"})
    system.run_module("training.etl", "gather")
    time.sleep(2.0)  # access log and score log are written
    paths = [system.state, *system.state.rglob("*")]
    open_ = {str(path): oct(path.lstat().st_mode) for path in paths if path.lstat().st_mode & 0o077}
    assert {path: mode for path, mode in open_.items() if not Path(path).is_symlink()} == {}
    secret = (system.state / "jwt_secret").read_text().strip().encode()
    needles = [bearer.split(".")[2].encode() for bearer in (system.token, shown)] + [secret]
    scratch = State(system.state).scratch
    for path in (*paths, *scratch.rglob("*")):
        if path.is_file() and path.name not in ("jwt_secret",) and not path.is_symlink():
            content = path.read_bytes()
            assert not any(needle in content for needle in needles), path
    commands = [processes.title_of(psutil.Process(pid)) for pid in processes.marked(system.run_file["system"])]
    assert commands
    assert not any(needle.decode() in command for needle in needles for command in commands)


def returned(today: dict[str, Any]) -> dict[str, Any]:
    """A brand's day once all that was leased has come back."""
    available = None if today["available"] is None else today["available"] + today["leased"]
    return today | {"leased": 0, "available": available}


def test_stop_and_start_again_lose_nothing_and_leave_nothing(system: System, http: httpx.Client) -> None:
    brand = new_brand(http, daily_budget_micros=1_000_000)
    assert http.post("/api/score", json=request("before-stop", brand)).json()["ranked"][0]["status"] == "won"
    time.sleep(2.0)  # the ledger has heard of it
    before, version = http.get(f"/api/brands/{brand}").json(), http.get("/readyz").json()["model_version"]
    known = {id_: http.get(f"/api/brands/{id_}").json()["today"] for id_ in brand_ids(http)}
    assert system.stop(signal.SIGINT) < STOP_S
    assert system.left_over() == []
    assert system.start() < 60
    with system.http() as again:
        after = again.get(f"/api/brands/{brand}").json()
        today = before["today"]
        assert after["today"] == returned(today)
        # Whatever other tests have spent on these goes on as well; a killed replica's lease stays in quarantine.
        shown = {id_: again.get(f"/api/brands/{id_}").json()["today"] for id_ in known}
        assert {id_: returned(day) for id_, day in shown.items()} == {id_: returned(day) for id_, day in known.items()}
        assert after | {"today": {}} == before | {"today": {}}
        assert again.get("/readyz").json()["model_version"] == version
        assert again.post("/api/score", json=request("again", brand)).json()["ranked"][0]["status"] == "won"
