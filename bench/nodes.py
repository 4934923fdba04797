"""Adds Ray nodes (raylets on this machine) to a running system, and deploys as many replicas as wanted."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

from bench import cost
from db.state import State
from serve_app.launcher import processes
from serve_app.launcher.cli import APPLICATION
from serve_app.launcher.environment import BIN
from serve_app.launcher.ports import free_ports

JOIN_S, DEPLOY_S = 60.0, 120.0
CPUS = 2
"""CPUs that each node declares to Ray."""

OBJECT_STORE_BYTES = 100_000_000
PORTS = (
    "node-manager-port",
    "object-manager-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)
RUNNING = "RUNNING"


class Wanted(NamedTuple):
    """How an application is composed."""

    predictor: str  # local or pool
    ingress: int
    predictors: int = 1  # of the pool

    def __str__(self) -> str:
        return f"{self.ingress} ingress" + (f" + {self.predictors} predictor" if self.predictor == "pool" else "")


class Replica(NamedTuple):
    deployment: str
    pid: int
    node_id: str


class Cluster:
    """A running system's Ray, through its dashboard's HTTP interface, as an operator uses it."""

    def __init__(self, state: State) -> None:
        self.run = state.running()
        headers = {"Authorization": f"Bearer {state.ray_token.read_text().strip()}"}
        self._client = httpx.Client(
            base_url=self.run["dashboard"], headers=headers, timeout=30.0
        )  # one: each costs CPU

    def get(self, path: str, **query: str) -> Any:
        return self._asked("GET", path, params=query).json()

    def put(self, path: str, content: object) -> None:
        self._asked("PUT", path, json=content)

    def _asked(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self._client.request(method, path, **more).raise_for_status()

    @property
    def environ(self) -> dict[str, str]:
        """The environment that all its processes were started with: Serve's settings, token file, the system's mark."""
        (first, *_) = processes.marked(self.run["system"], "raylet")
        return psutil.Process(first).environ()

    def nodes(self) -> list[str]:
        """Ids of the nodes that are alive."""
        found = self.get("/api/v0/nodes")["data"]["result"]["result"]
        return [node["node_id"] for node in found if node["state"] == "ALIVE"]

    def calls(self, actor: str = "LedgerActor") -> dict[str, int]:
        """Number of calls of an actor's methods since Ray's start, by Ray's own record of tasks."""
        found = self.get("/api/v0/tasks/summarize")["data"]["result"]["result"]["node_id_to_summary"]
        summary: dict[str, Any] = found["cluster"]["summary"]
        return {
            name.removeprefix(f"{actor}."): sum(entry["state_counts"].values())
            for name, entry in summary.items()
            if name.startswith(f"{actor}.") and entry["type"] == "ACTOR_TASK"
        }

    def replicas(self) -> list[Replica]:
        """Number of running replicas, without those that are about to stop."""
        deployments = self._application()["deployments"]
        return [
            Replica(name, replica["pid"], replica["node_id"])
            for name, deployment in deployments.items()
            for replica in deployment["replicas"]
            if replica["state"] == RUNNING
        ]

    def deploy(self, wanted: Wanted, settings: dict[str, Any] | None = None) -> list[Replica]:
        """Deploy the same application with another composition, as `serve deploy` does. The environment overrides it.

        Args:
            settings: other sections of the deploy file's `args`.

        Raises:
            RuntimeError: it does not run as wanted within `DEPLOY_S`.
        """
        before = self._application()["last_deployed_time_s"]
        serve = {
            "predictor": wanted.predictor,
            "ingress_replicas": wanted.ingress,
            "predictor_replicas": wanted.predictors,
        }
        application = {
            "name": "paceline",
            "route_prefix": "/",
            "import_path": APPLICATION,
            "args": {"serve": serve} | (settings or {}),
        }
        http = {"host": "127.0.0.1", "port": self.run["ports"]["http"]}
        self.put(
            "/api/serve/applications/",
            {"proxy_location": "HeadOnly", "http_options": http, "applications": [application]},
        )
        number = Counter({"Ingress": wanted.ingress})
        if wanted.predictor == "pool":
            number["Predictor"] = wanted.predictors
        until = time.monotonic() + DEPLOY_S
        while time.monotonic() < until:
            time.sleep(0.5)
            now = self._application()
            if now["status"] != RUNNING or now["last_deployed_time_s"] == before:
                continue
            found = self.replicas()
            if (
                Counter(one.deployment for one in found) == number
                and self._alive() == len(found)  # none of the last deployment is left
                and self._is_ready()
            ):
                return found
        raise RuntimeError(
            f"the deployment of {wanted} does not run after {DEPLOY_S:g} s; it is {now['status']}: {now['message']}"
        )

    def _application(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/api/serve/applications/")["applications"]["paceline"]
        return found

    def _alive(self) -> int:
        """Number of processes that are replicas, whatever Serve says of them."""
        return sum("ServeReplica" in one.title for one in cost.running(processes.marked(self.run["system"])))

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.run['url']}/readyz", timeout=5.0).status_code == 200
        except httpx.HTTPError:
            return False


@contextlib.contextmanager
def joined(cluster: Cluster, number: int, logs: Path) -> Iterator[None]:
    """Start more nodes. All have this machine's address, each has its own ports and sockets.

    Args:
        logs: a folder for their logs.

    Raises:
        RuntimeError: one did not start.
    """
    environ, before = cluster.environ, len(cluster.nodes())
    started: list[subprocess.Popen[bytes]] = []
    try:
        for one in range(number):
            process = _start(cluster, environ, one, logs)
            started.append(process)
        _until(lambda: len(cluster.nodes()) == before + number, started, logs)
        yield
    finally:
        below = [pid for process in started for pid in processes.descendants(process.pid)]
        processes.end([*(process.pid for process in started), *below], 2.0)
        for process in started:
            process.wait()


def _start(cluster: Cluster, environ: dict[str, str], number: int, logs: Path) -> subprocess.Popen[bytes]:
    """Start one node. Returns when its socket exists, since two that start at once would choose the same name."""
    ports = free_ports(len(PORTS), salt=os.getpid() + 37 * number)
    options = {
        "--address": cluster.run["ray_address"],
        "--node-ip-address": "127.0.0.1",
        "--min-worker-port": 0,
        "--max-worker-port": 0,
        "--num-cpus": CPUS,
        "--object-store-memory": OBJECT_STORE_BYTES,
        **{f"--{name}": port for name, port in zip(PORTS, ports, strict=True)},
    }
    raylets = len(processes.marked(cluster.run["system"], "raylet"))
    with (logs / f"node-{number}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(BIN / "ray"), "start", "--block", *(f"{name}={value}" for name, value in options.items())],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    folder = State(Path(environ["PACELINE_STATE"])).scratch / "ray" / "session_latest" / "sockets"
    try:
        _until(lambda: len(processes.marked(cluster.run["system"], "raylet")) > raylets, [process], logs)
        _until(lambda: sum(path.name.startswith("raylet") for path in folder.iterdir()) > raylets, [process], logs)
    except BaseException:
        processes.end([*processes.descendants(process.pid), process.pid], 3.0)
        process.wait()
        raise
    return process


def _until(happens: Callable[[], bool], started: list[subprocess.Popen[bytes]], logs: Path) -> None:
    until = time.monotonic() + JOIN_S
    while not happens():
        ended = any(process.poll() is not None for process in started)
        if ended or time.monotonic() > until:
            what = "ended while it started" if ended else f"did not start within {JOIN_S:g} s"
            raise RuntimeError(f"a Ray node {what}; see {logs}/node-*.log")
        time.sleep(0.1)
