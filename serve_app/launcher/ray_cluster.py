"""Ray on this machine: one node that listens on loopback, started and stopped."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple

from db.state import State
from serve_app.launcher import processes
from serve_app.launcher.environment import BIN
from serve_app.launcher.errors import CannotRun
from serve_app.launcher.ports import Ports
from serve_app.launcher.ray_client import LEASES_S, CallFailed, RayClient
from serve_app.launcher.terminal import say
from serve_app.launcher.waiting import until

ATTEMPTS_S = (300.0, 300.0)
"""How long each attempt to start Ray may take. Ray's own waits end before: see `ray_hook`."""
PATIENCE = {
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "120",  # 60 by default: not enough on a machine whose cores are busy
    "RAY_worker_register_timeout_seconds": "120",  # 60
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # 5, after which Serve ends a proxy that is still being started
    "RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S": "90",  # 30
    "RAY_START_HOOK": "serve_app.launcher.ray_hook.be_patient",
}
CONNECT_S, FLUSH_S, STOP_S = 120.0, 1.2, 3.0


class DidNotStart(Exception):
    """An attempt to start Ray has failed; the text says at what."""


class Part(NamedTuple):
    """A process of Ray's that has to answer before the next one is started."""

    name: str
    port: int


class RayCluster:
    """Its environment must be that of this process before `start`: see `environment.of_cluster`."""

    def __init__(self, state: State, ports: Ports, application: str) -> None:
        self._state, self._ports, self._application = state, ports, application
        self._log = state.logs / "ray.log"
        self._folder = state.scratch / "ray"
        self._head: subprocess.Popen[bytes] | None = None
        self._client: RayClient | None = None
        self._is_connected = False

    @property
    def client(self) -> RayClient:
        """Connected; there is one after `start`."""
        assert self._client is not None and self._is_connected
        return self._client

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._ports.ray}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self._ports.dashboard}"

    @property
    def has_ended(self) -> bool:
        """Whether it was started, and has ended by itself."""
        return self._head is not None and self._head.poll() is not None

    def start(self, meanwhile: Callable[[], object]) -> None:
        """Start the node and a client of it; once more if that fails, as it may on a busy machine.

        Args:
            meanwhile: called again and again; what it raises breaks the start off.

        Raises:
            CannotRun: Ray did not start; names its log.
        """
        self._log.unlink(missing_ok=True)
        for attempt, within_s in enumerate(ATTEMPTS_S, 1):
            try:
                self._start_node(within_s, meanwhile)
                self._connect()
                return
            except DidNotStart as error:
                self._end_node()
                if attempt == len(ATTEMPTS_S):
                    raise CannotRun(
                        f"Ray did not start, at the second attempt either: {error}; see {self._log} and {self._folder}"
                        "/session_latest/logs, and start again when the machine has less to do"
                    ) from None
                say(f"Ray did not start: {error}; its processes are ended, starting it once more")

    def _start_node(self, within_s: float, meanwhile: Callable[[], object]) -> None:
        """Raises: DidNotStart."""
        up = self._folder / "ray_current_cluster"  # `ray start` writes it when all its waits are over
        up.unlink(missing_ok=True)
        with self._log.open("ab") as out:
            head = self._head = subprocess.Popen(
                [str(BIN / "ray"), "start", "--head", "--block", *self._options()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **PATIENCE},
                preexec_fn=processes.die_with_parent,
            )
        self._client = RayClient(self._application, self._log)
        parts = [
            Part("Ray's head process (GCS)", self._ports.ray),
            Part("Ray's dashboard", self._ports.dashboard),
            Part("Ray's node process (raylet)", self._ports.node_manager),
        ]

        def has_come_up() -> bool:
            meanwhile()
            while parts and _answers(parts[0].port):
                del parts[0]
            return up.exists() or head.poll() is not None

        def what() -> str:
            return parts[0].name if parts else "Ray's node process (raylet) to register"

        began = time.monotonic()
        until(has_come_up, what, within_s)
        if not up.exists():
            ended = f"; `ray start` ended with code {head.returncode}" if head.poll() is not None else ""
            raise DidNotStart(f"waited {time.monotonic() - began:.0f} s for {what()}{ended}")

    def _connect(self) -> None:
        """Raises: DidNotStart."""
        assert self._client is not None
        try:
            self._client.call("connect", self.address, what="the connection to Ray", within_s=CONNECT_S)
        except CallFailed as error:
            raise DidNotStart(f"no connection to it: {error}") from None
        self._is_connected = True

    def _options(self) -> list[str]:
        ports = self._ports
        options = {
            "--node-ip-address": "127.0.0.1",
            "--port": ports.ray,
            "--min-worker-port": 0,  # any that is free
            "--max-worker-port": 0,
            "--node-manager-port": ports.node_manager,
            "--object-manager-port": ports.object_manager,
            "--ray-client-server-port": ports.ray_client,
            "--dashboard-host": "127.0.0.1",
            "--dashboard-port": ports.dashboard,
            "--dashboard-agent-listen-port": ports.agent_http,
            "--dashboard-agent-grpc-port": ports.agent_grpc,
            "--runtime-env-agent-port": ports.runtime_env_agent,
            "--metrics-export-port": ports.ray_metrics,
            "--temp-dir": self._folder,
        }
        return [f"{name}={value}" for name, value in options.items()]

    def stop(self) -> None:
        """Let the replicas write and the ledger take its leases back, then end Ray.

        Not serve.shutdown(): it takes up to half a minute. Once HAProxy lets no more in, the replicas write what waits
        for its second and tell the ledger their last wins, and it takes their leases back.
        """
        if self._is_connected and self.client.is_idle and not self.has_ended:
            flushed = time.monotonic() + FLUSH_S
            with contextlib.suppress(CallFailed):  # what is lent waits in quarantine; nothing is lost
                self.client.call("end_sessions", what="the ledger to take its leases back", within_s=2 * LEASES_S)
            time.sleep(max(flushed - time.monotonic(), 0.0))
        self._end_client()
        if self._head is not None:
            self._head.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._head.wait(STOP_S)

    def _end_client(self) -> None:
        self._is_connected = False
        if self._client is not None:
            self._client.end()
            self._client = None

    def _end_node(self) -> None:
        """Everything of an attempt that has failed. What its raylet started may have been left to this process."""
        assert self._head is not None
        self._end_client()
        left = {self._head.pid, *processes.descendants(self._head.pid)}
        self._head.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._head.wait(STOP_S)
        left |= {*processes.group(self._head.pid), *processes.descendants(os.getpid(), "ray::")}
        processes.end(left, STOP_S)
        until(lambda: not any(map(processes.is_alive, left)), lambda: "Ray's processes to end", STOP_S)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0
