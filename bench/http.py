"""`python -m bench http`: requests/s beside what one would write instead, in turns, as ratios of medians."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx

from serve_app import processes, token

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
PEER, LOAD, DATA = (
    SHARED / "bench" / "peer_fastapi.py",
    SHARED / "bench" / "score.lua",
    SHARED / "data" / "online_ads.csv.gz",
)
BIDS, TREES, LEAVES = 50, 300, 63
READY_S = 240.0


class Round(NamedTuple):
    """One run of the load."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float


class Runner(NamedTuple):
    name: str
    url: str
    token: str


def main(argv: Sequence[str]) -> str | None:
    """Requests/s beside what one would write instead."""
    parser = argparse.ArgumentParser(prog="python -m bench http", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default 5)")
    parser.add_argument("--seconds", type=int, default=8, help="length of a turn (default 8)")
    parser.add_argument("--connections", type=int, default=16)
    arguments = parser.parse_args(argv)
    missing = [str(path) for path in (PEER, LOAD, DATA) if not path.exists()]
    if missing or not shutil.which("wrk"):
        print(
            "cannot run: " + ("wrk is not installed" if not missing else f"{missing[0]} is not there"), file=sys.stderr
        )
        return None
    with tempfile.TemporaryDirectory(prefix="paceline-bench-") as folder, contextlib.ExitStack() as stack:
        print("starting the peer and Paceline, each with 300 trees of 63 leaves …", flush=True)
        peer = stack.enter_context(peer_running(Path(folder)))
        paceline = stack.enter_context(paceline_running(Path(folder)))
        runners = [
            Runner("tuned peer (msgspec)", peer.url + "/api/score", peer.token),
            Runner("idiomatic peer (pydantic)", peer.url + "/api/plain", peer.token),
            Runner("Paceline", paceline.url + "/api/score", paceline.token),
        ]
        rounds: dict[str, list[Round]] = {runner.name: [] for runner in runners}
        for number in range(arguments.rounds):
            for runner in runners:
                found = load(runner, arguments.seconds, arguments.connections)
                rounds[runner.name].append(found)
                print(f"  round {number + 1}: {runner.name}: {found.requests_per_s:.0f} requests/s", flush=True)
    return report(rounds, arguments.connections)


@contextlib.contextmanager
def peer_running(folder: Path) -> Iterator[Runner]:
    model, secret = folder / "peer.txt", secrets.token_hex(32)
    subprocess.run([sys.executable, str(PEER), "train", str(DATA), str(model)], check=True)
    port = processes.free_ports(1, salt=os.getpid() + 1)[0]
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "peer_fastapi:app",
        "--port",
        str(port),
        "--workers",
        "2",
        "--no-access-log",
    ]
    environ = os.environ | {"PEER_MODEL": str(model), "PEER_SECRET": secret, "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen([*command, "--log-level", "warning"], cwd=PEER.parent, env=environ)
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{url}/docs")
                break
            if time.monotonic() > until:
                raise RuntimeError("the peer did not start")
            time.sleep(0.2)
        yield Runner("peer", url, token.make(secret, "admin", [], [], 3600, "bench"))
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def paceline_running(folder: Path) -> Iterator[Runner]:
    port = processes.free_ports(1, salt=os.getpid() + 2)[0]
    environ = os.environ | {
        "DATA": str(DATA),
        "STATE": str(folder / "state"),
        "PORT": str(port),
        "NIGHTLY": "off",
        "PACELINE_MODEL_TREES": str(TREES),
        "PACELINE_MODEL_LEAVES": str(LEAVES),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "serve_app.run"], cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        ready = next((line for line in process.stdout if line.startswith("ready ")), None)
        if ready is None:
            raise RuntimeError("Paceline did not start")
        found = re.match(r"ready (\S+) .* token (\S+)", ready)
        assert found is not None
        raise_budgets(found[1], found[2])
        yield Runner("Paceline", found[1], found[2])
    finally:
        process.terminate()
        process.communicate()


def raise_budgets(url: str, bearer: str) -> None:
    """So that every answer holds a win: no limit, and a target that any bid meets."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {bearer}"}) as client:
        for number in (1, 2, 3):
            settings = {"daily_budget_micros": None, "target_roas": 0.001, "throttle_roas": 0.0001}
            client.put(f"/api/brands/camp-{number}", json=settings).raise_for_status()
    time.sleep(2)


def load(runner: Runner, seconds: int, connections: int) -> Round:
    """Raises: RuntimeError, an answer was not 2xx."""
    environ = os.environ | {"TOKEN": runner.token, "NB": str(BIDS)}
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(LOAD), "--latency", runner.url]
    text = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise RuntimeError(f"{runner.name}: {text}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert rate is not None
    return Round(float(rate[1]), _latency(text, "50%"), _latency(text, "99%"))


def _latency(text: str, quantile: str) -> float:
    found = re.search(rf"{quantile}\s+([\d.]+)(us|ms|s)\b", text)
    assert found is not None
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]


def report(rounds: dict[str, list[Round]], connections: int) -> str:
    median = {
        name: Round(*(statistics.median(values) for values in zip(*found, strict=True)))
        for name, found in rounds.items()
    }
    peer = next(iter(median.values()))
    lines = [
        f"{BIDS} bids a request, {connections} connections, {TREES} trees of {LEAVES} leaves on both sides, "
        f"medians of {len(next(iter(rounds.values())))} turns.",
        "",
        "| | requests/s | ÷ tuned peer | p50 | p99 |",
        "|---|---|---|---|---|",
    ]
    for name, found in median.items():
        ratio = found.requests_per_s / peer.requests_per_s
        lines.append(
            f"| {name} | {found.requests_per_s:.0f} | {ratio:.2f} | {found.p50_ms:.1f} ms | {found.p99_ms:.1f} ms |"
        )
    return "\n".join(lines)
