"""What a start waits for is said, and a signal ends the wait."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.launcher import waiting

ROOT = Path(__file__).resolve().parents[4]
WAITS = """
import os, signal
from serve_app.launcher import signals, waiting
signals.heed_stop_signals()
looks = iter([signal.SIGTERM, signal.SIGINT])
def done():
    os.kill(os.getpid(), next(looks))
try:
    waiting.until(done, lambda: "nothing")
except signals.Stop:
    signals.ignore_stop_signals()
    os.kill(os.getpid(), signal.SIGINT)
    print(waiting.until(lambda: False, lambda: "the end", 0.2))
"""


@pytest.fixture
def said(monkeypatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(waiting, "say", lines.append)
    monkeypatch.setattr(waiting, "SAY_EVERY_S", 0.0)
    monkeypatch.setattr(waiting, "LOOK_S", 0.0)
    return lines


def test_what_is_waited_for_now_is_said(said):
    parts = ["the head", "the node"]
    looks = iter([False, False, True])

    def done():
        is_done = next(looks)
        if len(said) == 1:
            del parts[0]
        return is_done

    assert waiting.until(done, lambda: parts[0])
    assert said == ["waiting for the head (0 s)", "waiting for the node (0 s)"]


def test_a_wait_ends_when_its_time_is_over(said):
    assert not waiting.until(lambda: False, lambda: "nothing", 0.01)


def test_work_in_a_thread_returns_or_raises_what_it_does(said):
    assert waiting.result_of(lambda: 7, "seven") == 7
    with pytest.raises(ZeroDivisionError):
        waiting.result_of(lambda: 1 // 0, "nothing")


def test_one_signal_ends_a_wait_and_more_change_nothing():
    done = subprocess.run(
        [sys.executable, "-c", WAITS], cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=60
    )
    first, second = done.stdout.splitlines()
    assert first.endswith("] stopping (SIGTERM)")
    assert second == "False"
    assert (done.returncode, done.stderr) == (0, "")
