"""Ray on this machine: one node that listens on loopback, started and stopped."""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import time
import warnings
from collections.abc import Callable

from db.state import State
from ledger.runtime.deployment import end_sessions
from serve_app.launcher import processes
from serve_app.launcher.environment import BIN
from serve_app.launcher.errors import keep_traceback
from serve_app.launcher.ports import Ports, is_free
from serve_app.launcher.signals import raise_stop

START_S = 60.0
FLUSH_S, STOP_S = 1.2, 3.0
LEASES_S, DRAINING_S = 3.0, 0.2


class RayCluster:
    """Its environment must be that of this process before `start`: see `environment.of_cluster`."""

    def __init__(self, state: State, ports: Ports) -> None:
        self._state, self._ports = state, ports
        self._log = state.logs / "ray.log"
        self._head: subprocess.Popen[bytes] | None = None

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
        """Start the node, and connect this process to it.

        Args:
            meanwhile: called again and again; what it raises breaks the start off.

        Raises:
            RuntimeError: Ray did not start; names its log.
        """
        with self._log.open("wb") as out:
            self._head = subprocess.Popen(
                [str(BIN / "ray"), "start", "--head", "--block", *self._options()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=processes.die_with_parent,
            )
        until = time.monotonic() + START_S
        while is_free("127.0.0.1", self._ports.ray):
            if self._head.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"Ray did not start; see {self._log}")
            meanwhile()
            time.sleep(0.05)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray  # not before: Ray reads its environment on import
        ray.init(address=self.address, namespace="paceline", log_to_driver=False, logging_level=logging.ERROR)
        signal.signal(signal.SIGTERM, raise_stop)  # Ray has put its own there

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
            "--temp-dir": self._state.scratch / "ray",
        }
        return [f"{name}={value}" for name, value in options.items()]

    def stop(self) -> None:
        """Let the replicas write and the ledger take its leases back, then end Ray.

        Not serve.shutdown(): it takes up to half a minute. Once HAProxy lets no more in, the replicas write what waits
        for its second and tell the ledger their last wins, and it takes their leases back.
        """
        import ray

        flushed = time.monotonic() + FLUSH_S
        try:
            end_sessions(LEASES_S, DRAINING_S)
        except Exception as error:
            keep_traceback(self._state, error)  # what is lent waits in quarantine; nothing is lost
        time.sleep(max(flushed - time.monotonic(), 0.0))
        ray.shutdown()
        if self._head is not None:
            self._head.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._head.wait(STOP_S)
