"""Runs the load generator wrk with a script, and reads what it reports."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
KNOWN, FRESH, STATUSES = (
    SHARED / "bench" / "score.lua",
    ROOT / "bench" / "fresh.lua",
    ROOT / "bench" / "statuses.lua",
)
BIDS = 50
TIMEOUT_S = 10
"""Time after which wrk counts a request as lost; long enough for both sides to have answered."""


class Load(NamedTuple):
    """What one turn sends."""

    connections: int = 16
    bids: int = BIDS  # a request
    is_fresh: bool = False  # no (tuple, placement_score) is met twice
    counts_statuses: bool = False  # which costs wrk some CPU; else any answer that is not 2xx voids the turn

    def __str__(self) -> str:
        words = [f"{self.connections} connection{'s' if self.connections > 1 else ''}"]
        words += [f"{self.bids} bids"] if self.bids != BIDS else []
        return ", ".join([*words, "fresh tuples"] if self.is_fresh else words)


class Seen(NamedTuple):
    """What wrk measured. Requests are named `w-RUN-NUMBER`; RUN is a second between `first_run` and `last_run`."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    first_run: int
    last_run: int
    accepted: int  # 2xx
    shed: int  # 503
    failed: int  # other statuses
    sockets: int  # not connected, reset, timed out


def missing() -> str | None:
    """Why nothing can be measured on this machine; None if it can."""
    if not KNOWN.exists():
        return f"{KNOWN} is not there"
    return None if shutil.which("wrk") else "wrk is not installed"


def refused(needed: Iterable[Path] = ()) -> bool:
    """Whether something is missing; prints what."""
    reason = missing() or next((f"{path} is not there" for path in needed if not path.exists()), None)
    if reason is not None:
        print(f"cannot run: {reason}", file=sys.stderr)
    return reason is not None


def send(url: str, bearer: str, load: Load, seconds: int) -> Seen:
    """
    Raises:
        RuntimeError: an answer was not 2xx, or there was none, and the load does not count statuses.
    """
    script = FRESH if load.is_fresh else KNOWN
    environ = os.environ | {"TOKEN": bearer, "NB": str(load.bids), "LOAD": str(script)}
    command = ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", "--timeout", f"{TIMEOUT_S}s", "--latency"]
    # A run is named by its second: one that shared it would be answered from memory.
    time.sleep(1.02 - time.time() % 1)
    first_run = int(time.time())
    done = subprocess.run(
        [*command, "-s", str(STATUSES if load.counts_statuses else script), url],
        env=environ,
        capture_output=True,
        text=True,
    )
    last_run, text = int(time.time()), done.stdout
    if done.returncode:
        raise RuntimeError(f"wrk failed: {done.stderr or text}")
    if not load.counts_statuses and ("Non-2xx" in text or "Socket errors" in text):
        raise RuntimeError(f"this run does not count, not every answer was 2xx; wrk's output:\n{text}")
    requests = int(_number(r"(\d+) requests in ", text))
    counted = re.search(r"Statuses: 2xx (\d+), 503 (\d+), other (\d+)", text)
    accepted, shed, failed = (int(number) for number in counted.groups()) if counted else (requests, 0, 0)
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    return Seen(
        requests,
        _number(r"Requests/sec:\s+([\d.]+)", text),
        _latency_ms(text, "50%"),
        _latency_ms(text, "99%"),
        first_run,
        last_run,
        accepted,
        shed,
        failed,
        sum(int(number) for number in sockets.groups()) if sockets else 0,
    )


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"wrk's output has nothing like {pattern}:\n{text}")
    return float(found[1])


def _latency_ms(text: str, quantile: str) -> float:
    found = re.search(rf"{quantile}\s+([\d.]+)(us|ms|s|m)\b", text)
    if found is None:
        raise RuntimeError(f"wrk's output has no {quantile} latency:\n{text}")
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}[found[2]]
