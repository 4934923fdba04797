"""What reaches a program that GNU make has started."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import os, threading, time
from pathlib import Path
from serve_app.launcher.signals import heed_make
threading.Thread(target=heed_make, daemon=True).start()
Path("pid").write_text(str(os.getpid()))
try:
    while not Path("enough").exists():
        time.sleep(0.05)
    Path("said").write_text("enough")
except KeyboardInterrupt:
    Path("said").write_text("interrupted")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    # SIGINT as a terminal's program finds it: what a script starts in the background ignores it.
    child = f"import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n{CHILD}"
    (tmp_path / "child.py").write_text(child)
    (tmp_path / "Makefile").write_text(f"run:\n\t@exec env PYTHONPATH={ROOT} {sys.executable} child.py\n")
    yield tmp_path
    pid = tmp_path / "pid"
    if pid.exists() and not (tmp_path / "said").exists():
        os.kill(int(pid.read_text()), signal.SIGKILL)


def make(folder: Path) -> subprocess.Popen[bytes]:
    """As a terminal would: with no signal ignored, whatever this process has inherited."""
    heeding = "import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp('make', ['make', 'run'])"
    return subprocess.Popen([sys.executable, "-c", heeding], cwd=folder)


def wait_for(file: Path) -> str:
    until = time.monotonic() + 60
    while not (file.exists() and (text := file.read_text())):
        assert time.monotonic() < until, f"no {file.name}"
        time.sleep(0.05)
    return text


def test_an_interrupted_make_interrupts_its_program(folder):
    made = make(folder)
    wait_for(folder / "pid")
    time.sleep(0.5)  # the program has looked at make
    made.send_signal(signal.SIGINT)
    assert wait_for(folder / "said") == "interrupted"
    made.wait(60)


def test_a_program_in_a_scripts_background_goes_on(folder):
    subprocess.run(["sh", "-c", "make run &"], cwd=folder, check=True)
    wait_for(folder / "pid")
    time.sleep(1.5)
    (folder / "enough").touch()
    assert wait_for(folder / "said") == "enough"


def test_a_program_ends_when_its_make_is_killed(folder):
    made = make(folder)
    wait_for(folder / "pid")
    time.sleep(0.5)
    made.kill()
    assert wait_for(folder / "said") == "interrupted"
    made.wait(60)
