"""All that one `make run` runs, in the order in which it starts, and back."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

from db.files import atomic_write
from db.state import State
from serve_app.launcher import environment, processes, serve_application
from serve_app.launcher.embedded_redis import EmbeddedRedis
from serve_app.launcher.errors import CannotRun
from serve_app.launcher.nightly_trigger import NightlyTrigger
from serve_app.launcher.ports import Ports
from serve_app.launcher.preparation import Preparation
from serve_app.launcher.ray_cluster import RayCluster
from serve_app.launcher.signals import raise_if_stopped
from serve_app.launcher.terminal import say, say_ready
from serve_app.launcher.waiting import until
from serve_app.settings import Settings

STOP_HAPROXY_S, STOP_REST_S = 2.0, 1.0
LOOK_S = 0.2


class System:
    """
    Args:
        name: marks its processes.
        data: the file with the history; None: a simulated market.
        nightly: submit the night's job.
        stack: stops what was started, in the opposite order.
        application: module:builder, as Serve's `import_path`.
    """

    def __init__(
        self,
        settings: Settings,
        state: State,
        name: str,
        data: Path | None,
        nightly: bool,
        stack: contextlib.ExitStack,
        application: str,
    ) -> None:
        self._settings, self._state, self._name = settings, state, name
        self._nightly, self._stack, self._application = nightly, stack, application
        self._url = serve_application.url_of(settings.http)
        self._ports = Ports.free(salt=settings.http.port)
        self._ray_logs = state.scratch / "ray" / "session_latest" / "logs"
        self._cluster = RayCluster(state, self._ports, application)
        self._preparation = Preparation(settings, state, data)
        self._redis: EmbeddedRedis | None = None
        self._is_ready = False

    def serve(self) -> None:
        """Start everything, say `ready`, and watch until a signal.

        Raises:
            Stop: a signal.
            CannotRun: something did not start, or has ended by itself.
        """
        processes.adopt_orphans()
        self._stack.callback(self._end_what_is_left)
        self._start_redis()
        self._preparation.start()
        self._start_cluster()
        until(self._preparation.has_ended, lambda: "the history and the first model")
        serve_application.deploy(self._cluster.client, self._application, self._ray_logs)
        serve_application.wait_ready(self._url, self._ray_logs)
        if self._nightly:
            night = NightlyTrigger(self._cluster.dashboard, environment.REPOSITORY, say)
            night.start()
            self._stack.callback(night.stop)
        self._is_ready = True
        say_ready(self._ready_line())
        self._watch()

    def _start_redis(self) -> None:
        """The embedded one, where no other was given."""
        state = self._state
        if not str(self._settings.redis.url).startswith("unix://" + str(state.scratch)):
            return
        self._redis = EmbeddedRedis(state.root / "redis", state.redis_socket, state.logs / "redis.log")
        self._stack.callback(self._redis.stop)
        try:
            say(self._redis.start())
        except RuntimeError as error:
            raise CannotRun(str(error)) from None

    def _start_cluster(self) -> None:
        os.environ.update(environment.of_cluster(self._ports, self._state.scratch / "h"))
        self._write_run_file()  # before anything is started: a killed run's processes are found by it
        say("starting Ray (token authentication, loopback)")
        self._stack.callback(self._stop_cluster)
        self._cluster.start(meanwhile=self._preparation.has_ended)
        serve_application.start(self._cluster.client, self._settings.http, self._ray_logs)

    def _write_run_file(self) -> None:
        content = {
            "system": self._name,
            "pid": os.getpid(),
            "url": self._url,
            "dashboard": self._cluster.dashboard,
            "ray_address": self._cluster.address,
            "ports": {"http": self._settings.http.port, **self._ports._asdict()},
        }
        atomic_write(self._state.run, json.dumps(content, indent=2) + "\n")

    def _ready_line(self) -> str:
        from serve_app import token

        secret = self._settings.jwt.secret
        made = token.make(secret, "admin", [], [], 24 * 3600, "developer") if secret else "-"
        return f"ready {self._url} docs {self._url}/docs dashboard {self._cluster.dashboard} token {made}"

    def _watch(self) -> None:
        """Until a signal. The embedded Redis is started again if it dies."""
        while True:
            raise_if_stopped()
            time.sleep(LOOK_S)
            if self._cluster.has_ended:
                raise CannotRun(
                    f"Ray has ended by itself; see {self._state.logs}/ray.log and {self._ray_logs}, and start again"
                )
            if self._redis is not None and not self._redis.is_running():
                say("the embedded Redis has died; starting it again")
                self._redis.start()

    def _stop_cluster(self) -> None:
        say("no new requests; those in flight are answered" if self._is_ready else "ending what was started")
        processes.stop_softly(processes.marked(self._name, "haproxy"), STOP_HAPROXY_S)
        self._cluster.stop()

    def _end_what_is_left(self) -> None:
        processes.end({*processes.marked(self._name), *processes.descendants(os.getpid())}, STOP_REST_S)
        processes.reap(STOP_REST_S)
        if not isinstance(sys.exception(), CannotRun):  # else somebody will want to read Ray's logs
            for folder in ("ray", "h"):
                shutil.rmtree(self._state.scratch / folder, ignore_errors=True)
        say("stopped")
