"""One whole system for all cluster tests: what `make run` starts, on free ports and a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.launcher import processes
from serve_app.launcher.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
READY_S, STOP_S = 240.0, 15.0


class System:
    """A supervisor and its folder. It can be stopped and started again."""

    def __init__(self, state: Path, **environ: str) -> None:
        self.state = state
        self.port = free_ports(1, salt=os.getpid())[0]
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("PACELINE_", "RAY_", "_PACELINE"))
        }
        # What these tests report is no day to judge trees by, least of all when midnight falls between two of them.
        lenient = {
            "PACELINE_MODEL_GATE_EXPOSURE": "1e9",
            "PACELINE_MODEL_GATE_BRAND_EXPOSURE": "1e9",
            "PACELINE_MODEL_GATE_DAY_ROWS": "0",
        }
        self.environ = (
            inherited
            | {"STATE": str(state), "PORT": str(self.port), "NIGHTLY": "off", "PYTHONPATH": str(ROOT)}
            | lenient
            | environ
        )
        self.log = state.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None
        self._had: list[int] = []

    @property
    def python(self) -> str:
        return sys.executable

    def start(self) -> float:
        """Start it and return the seconds to the ready line."""
        began = time.monotonic()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serve_app.run"],
                cwd=ROOT,
                env=self.environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o022,
            )
        while not (ready := self.ready_line()):
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() - began < READY_S, self.log.read_text()
            time.sleep(0.1)
        self.token = re.search(r" token (\S+)$", ready)[1]  # type: ignore[index]
        return time.monotonic() - began

    def ready_line(self) -> str | None:
        return next((line for line in self.log.read_text().splitlines() if line.startswith("ready ")), None)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Stop it and return the seconds it took."""
        if self._process is None:
            return 0.0
        self._had = processes.descendants(self._process.pid)
        began = time.monotonic()
        self._process.send_signal(number)
        status = self._process.wait(STOP_S + 15)
        self._process = None
        assert status == 0, self.log.read_text()
        return time.monotonic() - began

    @property
    def run_file(self) -> dict[str, Any]:
        return dict(json.loads((self.state / "run.json").read_text()))

    def left_over(self) -> list[int]:
        """What has outlived the last stop."""
        return [*processes.marked(self.run_file["system"]), *(pid for pid in self._had if processes.is_alive(pid))]

    def http(self) -> httpx.Client:
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"Authorization": f"Bearer {self.token}"}, timeout=30
        )

    def run_module(self, module: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One of our commands, as an operator beside the system would type it."""
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done


@contextlib.contextmanager
def running(state: Path, **environ: str) -> Iterator[System]:
    """A system from its start until nothing of it is left."""
    system = System(state, **environ)
    system.start()
    try:
        yield system
    finally:
        system.stop()
        processes.end(system.left_over(), 3.0)


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Shared, because a start takes a quarter of a minute. A test leaves it serving, with the model and the replicas
    that it began with; whatever brands have spent by then is nothing to rely on."""
    with running(tmp_path_factory.mktemp("cluster") / "state", PACELINE_SCORE_LOG_SAMPLE="1") as system:
        yield system


@pytest.fixture
def http(system: System) -> Iterator[httpx.Client]:
    with system.http() as client:
        yield client


@pytest.fixture
def audited(system: System) -> Iterator[None]:
    """The books balance after the test, by SQL."""
    yield
    done = system.run_module("ledger.audit", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
