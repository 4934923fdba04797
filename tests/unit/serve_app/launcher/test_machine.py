"""What the machine gives, and who is told when that is little."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.launcher import machine

ROOT = Path(__file__).resolve().parents[4]
CODE = """
import resource, sys
from serve_app.launcher.errors import CannotRun
from serve_app.launcher.machine import connections, raise_open_files
try:
    raise_open_files()
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], connections())
except CannotRun as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("soft", "hard", "said"),
    [
        (256, 4096, "4096 948"),
        (256, 20_000, "20000 4096"),
        (256, 512, "only 512 files open, 4096 are needed; raise the limit"),
    ],
)
def test_as_many_files_may_be_open_as_the_system_allows(soft, hard, said):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    command = [sys.executable, "-c", CODE]
    assert said in subprocess.run(command, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True).stdout


def test_little_memory_is_a_warning(monkeypatch, tmp_path):
    said: list[str] = []
    monkeypatch.setattr(machine, "say", said.append)
    limit = tmp_path / "memory.max"
    limit.write_text("max\n")
    monkeypatch.setattr(machine, "CGROUP_LIMITS", (limit, tmp_path / "none"))
    monkeypatch.setattr(machine, "WANTED_MEMORY_BYTES", 1)
    monkeypatch.setattr(machine, "WANTED_SHARED_BYTES", 0)
    machine.warn_of_little_memory()
    assert said == []
    monkeypatch.setattr(machine, "WANTED_MEMORY_BYTES", 2 << 30)
    monkeypatch.setattr(machine, "WANTED_SHARED_BYTES", 1 << 62)
    limit.write_text(f"{100 << 20}\n")
    machine.warn_of_little_memory()
    assert said[0].startswith("warning: 100 MiB of memory are free, 2048 MiB are wanted")
    assert "--shm-size" in said[1]
