"""`python -m bench startup`: seconds from start to the first 200, compared with the smallest Serve application."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import httpx

from bench.load import ROOT
from bench.system import DATA
from bench.tables import table
from bench.turns import say
from db.state import State
from serve_app.launcher import processes
from serve_app.launcher.environment import of_cluster
from serve_app.launcher.ports import Ports, free_ports

TURNS = 3
WAIT_S, STOP_S = 240.0, 30.0
HELLO, AGAIN, EMPTY = "a trivial application", "Paceline, again", "Paceline, from an empty folder"
GOAL_S = 15.0
"""More than the trivial application, at most, when it was started before."""

PHASES = {
    "state ": "imports, settings",
    "redis ": "Redis answers",
    "starting Ray": "Ray is being started",
    "database ready": "database ready",
    "history:": "history known",
    "[3/8] fit:": "trees fitted",
    "[4/8] gate:": "judged",
    "model ": "model ready",
    "starting Serve": "Ray up",
    "deploying": "Serve up, model ready",
}
"""By how a line of `make run` begins: the stage that has ended."""


class Start(NamedTuple):
    ready_s: float  # from the program's start to its first 200
    phases: Mapping[str, float]  # seconds from the program's start to its lines


def main(argv: Sequence[str]) -> str | None:
    """Seconds to the first 200, by stage."""
    parser = argparse.ArgumentParser(prog="python -m bench startup", description=main.__doc__)
    parser.add_argument("--turns", type=int, default=TURNS, help=f"of each (default {TURNS})")
    parser.add_argument("--market", action="store_true", help="simulated history instead of the shared file")
    asked = parser.parse_args(argv)
    data = None if asked.market or not DATA.exists() else DATA
    found: dict[str, list[Start]] = {HELLO: [], AGAIN: [], EMPTY: []}
    with tempfile.TemporaryDirectory(prefix="paceline-bench-") as folder:
        known = Path(folder) / "known"
        ours(known, data)
        for number in range(asked.turns):
            empty = Path(folder) / f"empty-{number}"
            found[HELLO].append(hello(Path(folder) / f"hello-{number}"))
            found[AGAIN].append(ours(known, data))
            found[EMPTY].append(ours(empty, data))
            shutil.rmtree(empty)
            say(f"  turn {number + 1} of {asked.turns}: {', '.join(_shown(starts[-1]) for starts in found.values())}")
    return report(found, data is None)


def ours(state: Path, data: Path | None) -> Start:
    """`make run`'s program, from its start to the line that begins with `ready`; then it is stopped.

    Raises:
        RuntimeError: it did not become ready; the text has its output.
    """
    environ = _environ() | {"STATE": str(state), "NIGHTLY": "off", "PORT": str(_port())}
    if data is not None:
        environ["DATA"] = str(data)
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "serve_app.run"],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    phases, said, ready_s = {}, [], None
    try:
        for line in process.stdout:
            said.append(line)
            if line.startswith("ready "):
                ready_s = time.monotonic() - began
                break
            told = re.sub(r"^\[ *[\d.]+ s\] *", "", line)
            for start, name in PHASES.items():
                if told.startswith(start):
                    phases[name] = time.monotonic() - began
    finally:
        process.terminate()
        threading.Thread(target=process.stdout.read, daemon=True).start()  # it says that it stops
        process.wait(STOP_S)
        shutil.rmtree(State(state.resolve()).scratch, ignore_errors=True)
    if ready_s is None:
        raise RuntimeError(f"Paceline did not start; its last lines: {''.join(said[-3:])}")
    return Start(ready_s, phases)


def hello(folder: Path) -> Start:
    """`bench/hello.py` in the environment that `make run` gives its Ray, from its start to the first 200.

    Raises:
        RuntimeError: it did not answer.
    """
    folder.mkdir()
    name, port = uuid.uuid4().hex, _port()
    scratch = Path(tempfile.mkdtemp(prefix="pl-hello-", dir="/tmp"))  # short: HAProxy takes 97 bytes of a path
    token = folder / "token"
    token.write_text(uuid.uuid4().hex * 2)
    environ = _environ() | of_cluster(Ports.free(salt=port), scratch / "h")
    environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": str(scratch),
        processes.MARK: name,
    }
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.hello", str(port)],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        ready_s = _answers_after(f"http://127.0.0.1:{port}/", process, began)
    finally:
        left = {*processes.marked(name), *processes.descendants(process.pid)}
        processes.end([process.pid], STOP_S)
        process.wait()
        processes.end([pid for pid in left | {*processes.marked(name)} if processes.is_alive(pid)], 5.0)
        shutil.rmtree(scratch, ignore_errors=True)
    return Start(ready_s, {})


def _answers_after(url: str, process: subprocess.Popen[bytes], began: float) -> float:
    while process.poll() is None and time.monotonic() - began < WAIT_S:
        try:
            if httpx.get(url, timeout=5.0).status_code == 200:
                return time.monotonic() - began
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"the trivial application did not answer at {url} within {WAIT_S:g} s, or ended")


def _environ() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("PACELINE_", "RAY_", "_PACELINE"))
    }


def _port() -> int:
    return free_ports(1, salt=os.getpid() + time.monotonic_ns() // 1000 % 5000)[0]


def _shown(start: Start) -> str:
    return f"{start.ready_s:.1f} s"


def report(found: Mapping[str, Sequence[Start]], is_market: bool) -> str:
    middle = {name: median(start.ready_s for start in starts) for name, starts in found.items()}
    rows = [
        [
            name,
            f"{middle[name]:.1f} s",
            f"{middle[name] - middle[HELLO]:+.1f} s",
            ", ".join(_shown(start) for start in starts),
        ]
        for name, starts in found.items()
    ]
    names = list(PHASES.values())
    phases = [
        [
            name,
            *(_or_dash([start.phases[name] for start in found[who] if name in start.phases]) for who in (AGAIN, EMPTY)),
        ]
        for name in names
    ]
    ready = ["**ready**", *(f"**{middle[who]:.1f} s**" for who in (AGAIN, EMPTY))]
    verdict = "met" if middle[AGAIN] - middle[HELLO] <= GOAL_S else "**missed**"
    return "\n\n".join(
        [
            f"Seconds from a program's start to its first 200, medians of {len(found[HELLO])}, in turns. The trivial "
            "application is `bench/hello.py`, one deployment, with the same Ray settings as `make run` "
            "(HAProxy, throughput mode, token).",
            table(["", "to the first 200", "more than trivial", "all"], rows),
            f"Goal: a second start takes at most {GOAL_S:g} s more than the trivial one: {verdict}.",
            "Seconds from the program's start to each stage (the history is prepared while Ray starts):",
            table(["", AGAIN, f"{EMPTY}, {'simulated market' if is_market else DATA.name}"], [*phases, ready]),
        ]
    )


def _or_dash(values: Sequence[float]) -> str:
    return f"{median(values):.1f} s" if values else "–"
