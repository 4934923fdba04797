"""Nothing that a system has started is left behind."""

import subprocess
import sys
from pathlib import Path

from serve_app.launcher import processes

ROOT = Path(__file__).resolve().parents[4]
SUPERVISOR = """
import os, subprocess, sys, time
from serve_app.launcher import processes
processes.adopt_orphans()
subprocess.run(["sh", "-c", "env -i sleep 1000 & echo $!"], stdout=sys.stdout, check=True)
sys.stdout.flush()
sys.stdin.read()
processes.end(processes.descendants(os.getpid()), 10.0)
processes.reap(10.0)
"""


def test_an_orphan_without_its_environment_is_found_and_ended():
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdin is not None and supervisor.stdout is not None
        orphan = int(supervisor.stdout.readline())
        assert processes.is_alive(orphan)
        assert orphan in processes.descendants(supervisor.pid)
        supervisor.stdin.close()
        assert supervisor.wait(60) == 0
    assert not Path(f"/proc/{orphan}").exists()
