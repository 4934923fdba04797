"""`make run` stopped at each stage of its start, and a start of Ray that has to be made twice."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from db.state import State
from serve_app.launcher import processes
from serve_app.launcher.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
WAIT_S, STOP_S = 240.0, 30.0
PROGRAM = (sys.executable, "-m", "serve_app.run")
IMPATIENT = """
import sys
from serve_app.launcher import ray_cluster
ray_cluster.ATTEMPTS_S = (6.0, 300.0)
from serve_app.run import main
sys.exit(main())
"""


class Start:
    """A start in the background, and everything that hangs below it."""

    def __init__(self, state: Path, command: Sequence[str], **variables: str) -> None:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("PACELINE_", "RAY_", "_PACELINE"))
        }
        port = str(free_ports(1, salt=os.getpid() + 11)[0])
        environ = inherited | {"STATE": str(state), "PORT": port, "NIGHTLY": "off", "PYTHONPATH": str(ROOT)} | variables
        self.state, self._log = State(state), state.with_suffix(".log")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environ, stdout=log, stderr=log, start_new_session=True
            )
        self._had: set[int] = set()

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_for(self, words: str) -> None:
        until = time.monotonic() + WAIT_S
        while words not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < until, self.said
            time.sleep(0.02)

    def below(self) -> list[str]:
        """The command lines of all processes below it."""
        pids = processes.descendants(self.process.pid)
        self._had.update(pids)
        return [processes.title_of(psutil.Process(pid)) for pid in pids]

    def stop(self, number: signal.Signals) -> int:
        self.below()
        self.process.send_signal(number)
        return self.process.wait(STOP_S)

    def left(self) -> list[str]:
        """What is still there of it: below it, marked as its system's, or with its folders on the command line."""
        name = self.state.running().get("system")
        found = {*self._had, *(processes.marked(name) if name else ())}
        for process in psutil.process_iter(["cmdline"]):
            words = " ".join(process.info["cmdline"] or ())
            if str(self.state.scratch) in words or str(self.state.root) in words:
                found.add(process.pid)
        return [processes.title_of(psutil.Process(pid)) for pid in found if processes.is_alive(pid)]


@contextmanager
def started(state: Path, command: Sequence[str] = PROGRAM, **variables: str) -> Iterator[Start]:
    start = Start(state, command, **variables)
    try:
        yield start
    finally:
        start.process.kill()
        start.process.wait()
        name = start.state.running().get("system")
        if name:
            processes.end(processes.marked(name), 1.0)
        shutil.rmtree(start.state.scratch, ignore_errors=True)


def test_ray_is_started_once_more_when_its_first_start_takes_too_long(tmp_path: Path) -> None:
    with started(tmp_path / "state", (sys.executable, "-c", IMPATIENT)) as start:
        start.wait_for("its processes are ended, starting it once more")
        start.wait_for("starting Serve behind HAProxy")
        below = start.below()
        sessions = {session for line in below for session in re.findall(r"/session_[-\d_]+", line)}
        assert len(sessions) == 1, below
        assert start.stop(signal.SIGTERM) == 0, start.said
        assert start.left() == []
    assert "Ray did not start: waited 6 s for Ray's " in start.said
    assert "Traceback" not in start.said


def test_a_node_whose_agent_is_slow_to_start_is_waited_for(tmp_path: Path) -> None:
    """Ray's node process gives its agent 15 s, on a machine that is busy too little."""
    slow = "import time\nif b'dashboard/agent.py' in open('/proc/self/cmdline', 'rb').read(): time.sleep(17)\n"
    (tmp_path / "sitecustomize.py").write_text(slow)
    with started(tmp_path / "state", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}") as start:
        start.wait_for("starting Serve behind HAProxy")
        assert "once more" not in start.said
        assert start.stop(signal.SIGINT) == 0, start.said


STAGES = {
    "imports": "",
    "redis": "] redis ",
    "Ray": "] starting Ray",
    "history": "] history: no DATA given",
    "Serve": "] starting Serve",
    "deploying": "] deploying",
    "running": "\nready ",
}
"""How far a start has come, by the words that tell it."""


@pytest.mark.parametrize(
    ("stage", "numbers"),
    [
        ("redis", [signal.SIGINT]),
        ("Ray", [signal.SIGTERM, signal.SIGTERM]),
        ("history", [signal.SIGINT, signal.SIGINT]),
    ],
)
def test_a_start_is_stopped_at_every_stage(tmp_path: Path, stage: str, numbers: list[signal.Signals]) -> None:
    with started(tmp_path / "state") as start:
        start.wait_for(STAGES[stage])
        for number in numbers[1:]:
            start.process.send_signal(number)
            time.sleep(0.2)
        assert start.stop(numbers[0]) == 0, start.said
        assert start.left() == []
    assert f"] stopping ({numbers[0].name})\n" in start.said
    assert "Traceback" not in start.said
