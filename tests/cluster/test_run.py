"""`make run` with something wrong: one line that names it, nothing left running, nothing half-made."""

from __future__ import annotations

import datetime as dt
import gzip
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.launcher.nightly_trigger import next_night
from serve_app.launcher.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]


def run(state: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PACELINE_", "RAY_", "DATA"))
    }
    port = str(free_ports(1, salt=os.getpid() + 7)[0])
    settings = inherited | {"STATE": str(state), "PORT": port, "NIGHTLY": "off"} | environ
    command = [sys.executable, "-m", "serve_app.run"]
    return subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=120)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("cannot run: ")
    return done.stderr


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "eighty", "from 1 to 65535"),
        ("NIGHTLY", "maybe", "on or off"),
        ("DATA", "/nowhere/at-all.csv", "no such file"),
        ("PACELINE_DATABASE_URL", "postgres://x", "mysql+aiomysql"),
        ("PACELINE_LEDGER_TTL", "5", "no such setting"),
        ("PACELINE_JWT_SECRET", "short", "32 bytes"),
        ("PACELINE_CURRENCY", "euros", "PACELINE_CURRENCY"),
    ],
)
def test_a_wrong_environment_is_named_before_anything_starts(tmp_path: Path, name: str, value: str, said: str) -> None:
    state = tmp_path / "state"
    text = refused(run(state, **{name: value}))
    assert name in text or said in text
    assert said in text
    assert not state.exists()


def test_a_taken_port_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        text = refused(run(tmp_path / "state", PORT=port))
    assert text.count("\n") == 1
    assert f"port {port}" in text


def test_options_are_the_same_as_variables(tmp_path: Path) -> None:
    def typed(*options: str) -> str:
        command = [sys.executable, "-m", "paceline", "run", *options]
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PACELINE_", "RAY_"))}
        environ |= {"STATE": str(tmp_path / "other"), "PORT": "1", "NIGHTLY": "maybe", "DATA": ""}
        return refused(subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120))

    state = tmp_path / "state"
    assert "/nowhere.csv" in typed("--no-nightly", "--state", str(state), "--data", "/nowhere.csv")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"port {port}" in typed("--nightly", "--state", str(state), "--port", port)
    assert not (tmp_path / "other").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"only root can mount a small disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_before_anything_starts(small_disk: Path) -> None:
    text = refused(run(small_disk / "state"))
    assert "no disk space" in text
    assert "MiB" in text


def test_a_state_that_is_a_file_or_cannot_be_written_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert str(file) in refused(run(file))


def test_history_that_cannot_be_read_is_told_and_stops_everything(tmp_path: Path) -> None:
    data = tmp_path / "history.csv.gz"
    data.write_bytes(gzip.compress(b"this,is,not\nwhat,we,need\n"))
    done = run(tmp_path / "state", DATA=str(data))
    text = refused(done)
    assert "history.csv.gz" in text
    assert "stopped" in done.stdout, "Ray had begun to start beside the import"


def test_real_history_does_not_go_into_a_simulated_folder(tmp_path: Path) -> None:
    from db.settings import DatabaseSettings
    from db.state import State
    from serve_app.launcher.bootstrap import prepare
    from serve_app.settings import with_state
    from tests.environment import load_in

    state = State(tmp_path / "state")
    state.root.mkdir()
    settings = with_state(load_in({"PACELINE_MODEL_TREES": "2"}), state)
    settings = settings.model_copy(update={"redis": settings.redis.model_copy(update={"url": "redis://127.0.0.1:1/0"})})
    assert isinstance(settings.database, DatabaseSettings)
    said: list[str] = []
    prepare(settings, state, None, said.append)
    assert any("SIMULATED" in line for line in said)
    prepare(settings, state, None, said.append)
    assert any("imported before" in line for line in said)
    data = tmp_path / "real.csv"
    data.write_text("x")
    with pytest.raises(Exception, match="simulated market"):
        prepare(settings, state, data, said.append)


@pytest.mark.parametrize(
    ("now", "night"),
    [
        ("2026-01-01T00:00:00+00:00", "2026-01-01T02:00:00+00:00"),
        ("2026-01-01T02:00:00+00:00", "2026-01-02T02:00:00+00:00"),
        ("2026-01-01T23:59:59-05:00", "2026-01-03T02:00:00+00:00"),
    ],
)
def test_the_night_is_at_two_utc(now: str, night: str) -> None:
    assert next_night(dt.datetime.fromisoformat(now)).isoformat() == night
