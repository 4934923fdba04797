"""Starts a system to be measured, and tells its processes and which of its wins are recorded."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import jwt

from bench import cost
from bench.load import ROOT, SHARED, Seen
from db.state import State
from serve_app.launcher import processes
from serve_app.launcher.ports import free_ports

DATA = SHARED / "data" / "online_ads.csv.gz"
TREES, LEAVES = 300, 63
COMPOSITION = "PACELINE_SERVE_PREDICTOR"
"""local or pool: where the model is."""

KEPT = ("PACELINE_SERVE_", "PACELINE_SCORE_", "PACELINE_LEDGER_", "PACELINE_ROAS_")
"""Variables of the caller's environment that are passed on, without those that name databases and keys."""

BRANDS = ("camp-1", "camp-2", "camp-3")
LIMITS = {"daily_budget_micros": None, "target_roas": 0.001, "throttle_roas": 0.0001}
"""Brands with no budget limit, and a target that any bid meets, so that every answer has a win."""

RECORDED_WITHIN_S = 20.0
RECORDED_LEAST = 0.99
WITHOUT_LEDGER = "from serve_app.run import main; raise SystemExit(main(application='bench.no_ledger:build'))"


class System(NamedTuple):
    """One route of a running system."""

    name: str
    url: str
    token: str
    root: int  # the process that started all the others
    state: State | None = None  # Paceline's
    has_ledger: bool = False

    def processes(self) -> list[cost.Process]:
        """All processes of the system."""
        pids = {self.root, *processes.descendants(self.root)}
        if self.state is not None:
            pids |= {*processes.marked(self.state.running()["system"])}
        return cost.running(sorted(pids))

    def recorded(self, seen: Seen) -> int:
        """Number of requests of a turn whose win the ledger has recorded; waits for beats that are still to come.

        Returns:
            As soon as all accepted requests are recorded, at the latest after `RECORDED_WITHIN_S`.
        """
        assert self.state is not None
        sub = jwt.decode(self.token, options={"verify_signature": False})["sub"]
        span = (f"w-{seen.first_run}-", f"w-{seen.last_run}.")  # "." comes after "-": all of the last run's too
        until = time.monotonic() + RECORDED_WITHIN_S
        with contextlib.closing(sqlite3.connect(f"file:{self.state.database}?mode=ro", uri=True)) as database:
            while True:
                (found,) = database.execute(
                    "SELECT COUNT(DISTINCT request_id) FROM reservations"
                    " WHERE sub = ? AND request_id >= ? AND request_id < ? AND status <> 'void'",
                    (sub, *span),
                ).fetchone()
                if found >= seen.accepted or time.monotonic() > until:
                    return int(found)
                time.sleep(0.25)

    def must_win(self, requests: int = 5) -> None:
        """
        Raises:
            RuntimeError: an answer holds no win.
        """
        with httpx.Client(headers={"Authorization": f"Bearer {self.token}"}, timeout=30.0) as client:
            for number in range(requests):
                request = {"request_id": f"sample-{time.time_ns()}-{number}", "bids": [_bid(n) for n in range(10)]}
                answer = client.post(self.url, json=request)
                if answer.status_code != 200 or all(bid["status"] != "won" for bid in answer.json()["ranked"]):
                    raise RuntimeError(
                        f"this run does not count, {self.name} answered without a win: {answer.text[:500]}"
                    )


def _bid(number: int) -> dict[str, object]:
    return {
        "bid_id": f"b-{number}",
        "brand_id": BRANDS[number % len(BRANDS)],
        "partner_id": "partner-abc",
        "slot_id": "abc:160x600",
        "device_type": "unknown",
        "creative_type": "160x600",
        "placement_score": 0.3333,
        "pricing_model": "cpm",
        "price_micros": 100_000 + number,
    }


@contextlib.contextmanager
def paceline(name: str, folder: Path, settings: dict[str, str], has_ledger: bool = True) -> Iterator[System]:
    """Start Paceline as `make run` does, in a folder of its own.

    Args:
        settings: PACELINE_ variables.
        has_ledger: False: `bench/no_ledger.py` instead of the application.

    Raises:
        RuntimeError: it did not start; the text is the last line of its output.
    """
    folder.mkdir()
    state = State((folder / "state").resolve())
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PACELINE_")} | {
        **{name: value for name, value in os.environ.items() if name.startswith(KEPT)},
        "DATA": str(DATA),
        "STATE": str(state.root),
        "PORT": str(free_ports(1, salt=os.getpid() + len(name) * 7)[0]),
        "NIGHTLY": "off",
        "PACELINE_MODEL_TREES": str(TREES),
        "PACELINE_MODEL_LEAVES": str(LEAVES),
        **settings,
    }
    program = ["-m", "serve_app.run"] if has_ledger else ["-c", WITHOUT_LEDGER]
    process = subprocess.Popen([sys.executable, *program], cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = next((line for line in process.stdout if line.startswith("ready ")), "")
        found = re.match(r"ready (\S+) .* token (\S+)", ready)
        if found is None:
            raise RuntimeError(f"{name} did not print a line that begins with ready; see {state.logs}")
        system = System(name, f"{found[1]}/api/score", found[2], process.pid, state, has_ledger)
        if has_ledger:
            _raise_budgets(found[1], found[2])
        yield system
    finally:
        process.terminate()
        process.communicate()
        shutil.rmtree(state.scratch, ignore_errors=True)


def _raise_budgets(url: str, bearer: str) -> None:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {bearer}"}, timeout=30.0) as client:
        for brand_id in BRANDS:
            client.put(f"/api/brands/{brand_id}", json=LIMITS).raise_for_status()
    time.sleep(2)  # every replica has heard of it
