"""A disk that fills up while a new state folder is prepared: a line, and the next start goes on."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from db.schema import upgrade
from db.state import State
from serve_app.launcher import bootstrap
from serve_app.launcher.errors import CannotRun
from serve_app.launcher.preparation import Preparation
from serve_app.settings import Settings, with_state


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def refusal(settings: Settings, state: State) -> str:
    preparation = Preparation(settings, state, None)
    preparation.start()
    until = time.monotonic() + 120
    try:
        while not preparation.has_ended():
            assert time.monotonic() < until
            time.sleep(0.02)
    except CannotRun as error:
        return str(error)
    raise AssertionError("it had room")


def fill(folder: Path) -> None:
    with (folder / "full").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_a_disk_that_fills_up_is_a_line_and_the_next_start_goes_on(small_disk, monkeypatch):
    state = State(small_disk / "state")
    state.logs.mkdir(parents=True)
    settings = with_state(Settings(), state)
    fill(small_disk)
    line = refusal(settings, state)
    assert str(state.root) in line
    assert line.endswith("; free some space")
    (small_disk / "full").unlink()

    def write_too_much(*_: object) -> None:
        fill(small_disk)
        (state.root / "file").write_bytes(bytes(8192))

    with monkeypatch.context() as patched:
        patched.setattr(bootstrap, "prepare", write_too_much)
        assert refusal(settings, state) == f"{state.root}: no space left on device; free some space"
    (small_disk / "full").unlink()
    upgrade(str(settings.database.url))
