"""The embedded Redis starts whatever its files hold: everything in it is copied from the database."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from serve_app.launcher import embedded_redis
from serve_app.launcher.embedded_redis import EmbeddedRedis


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="pl-test-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(embedded_redis, "say", lines.append)
    return lines


def contents(folder: Path, write: dict[str, str]) -> dict[str, str]:
    """What it holds after a start; `write` is added then."""
    redis = EmbeddedRedis(folder / "redis", folder / "redis.sock", folder / "redis.log")
    redis.start()
    try:
        with Redis(unix_socket_path=str(folder / "redis.sock"), decode_responses=True) as client:
            found = {key: str(client.get(key)) for key in client.scan_iter()}
            for key, value in write.items():
                client.set(key, value)
        return found
    finally:
        redis.stop()


def damage(folder: Path, cut: int | None) -> None:
    for file in (folder / "redis").rglob("*"):
        if file.is_file() and cut is not None:
            os.truncate(file, max(file.stat().st_size - cut, 0))
        elif file.is_file():
            file.write_bytes(b"rubbish " * 100)


def test_a_record_that_a_kill_has_cut_off_costs_only_itself(folder, said):
    assert contents(folder, {"first": "1", "last": "2"}) == {}
    damage(folder, cut=3)
    assert contents(folder, {}) == {"first": "1"}
    assert said == []


def test_files_that_it_cannot_read_are_put_aside(folder, said):
    contents(folder, {"first": "1"})
    for _ in range(2):
        damage(folder, cut=None)
        assert contents(folder, {"again": "1"}) == {}
        assert contents(folder, {}) == {"again": "1"}
    assert list((folder / "redis.damaged").iterdir())
    assert len(said) == 2
    assert f"moved to {folder}/redis.damaged" in said[0]


def test_another_failure_is_told_in_its_own_words(folder, said, monkeypatch):
    contents(folder, {"first": "1"})
    broken = folder / "redis-server"
    broken.write_text("#!/bin/sh\necho 'Fatal: no luck today'\nexit 1\n")
    broken.chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        with pytest.raises(RuntimeError, match=r"did not start: Fatal: no luck today; see .*redis\.log"):
            contents(folder, {})
    assert contents(folder, {}) == {"first": "1"}
    assert said == []
