"""`make run`: everything on this machine, from an empty folder to a line that begins with `ready`."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import uuid
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple, Self

from db.environment import BadSetting
from db.migrate import CannotMigrate
from db.state import State, secret_file
from ledger.runtime.deployment import end_sessions
from serve_app.launcher import processes
from serve_app.launcher.embedded_redis import EmbeddedRedis
from serve_app.launcher.nightly_trigger import NightlyTrigger
from serve_app.settings import Settings, load, with_state

LEAST_FREE_BYTES = 512 * 1024 * 1024
RAY_START_S, READY_S = 60.0, 180.0
STOP_HAPROXY_S, FLUSH_S, STOP_RAY_S, STOP_REST_S = 2.0, 1.2, 3.0, 1.0
LEASES_S, DRAINING_S = 3.0, 0.2
REPLICA_PORTS = 20
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
APPLICATION = "serve_app.app:build"


class CannotRun(Exception):
    """One line for the person who typed `make run`."""


class Stop(BaseException):
    """Ctrl-C or SIGTERM."""


def say(text: str) -> None:
    """One line of progress, seconds since the start before it."""
    with contextlib.suppress(OSError):  # whoever read it may have gone: `make run | tee log`, and Ctrl-C
        print(f"[{time.monotonic() - STARTED:5.1f} s] {text}", file=TERMINAL, flush=True)


STARTED = time.monotonic()
TERMINAL = os.fdopen(os.dup(sys.stdout.fileno()), "w")
ERRORS = os.fdopen(os.dup(sys.stderr.fileno()), "w")
"""Where progress and the last word go, also after the rest of this process's output has been sent to a file."""


def main(argv: Sequence[str] | None = None, application: str = APPLICATION) -> int:
    """
    Args:
        application: module:builder, as Serve's `import_path`. Imported once Ray's environment is set.
    """
    parser = argparse.ArgumentParser(
        prog="make run",
        description="Start all of Paceline on this machine. Settings come from the environment: "
        "DATA, PORT, STATE, NIGHTLY and every PACELINE_ variable of the README.",
    )
    parser.parse_args(argv)
    for number in STOP_SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, _raise_stop)
    threading.Thread(target=_heed_make, daemon=True).start()
    try:
        run(application)
    except Stop:
        return 0
    except (CannotRun, BadSetting, CannotMigrate) as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
    return 0


def _refuse(reason: str) -> int:
    print(f"cannot run: {reason}", file=ERRORS, flush=True)
    return 1


def _heed_make() -> None:
    """GNU make waits for its child without handing SIGINT on: Ctrl-C reaches both, a lone `kill -INT` only make.

    make takes its handler off when the signal has come: that can be seen from here. A make that never had one was
    started with SIGINT ignored, as a script's `make run &` is.
    """
    parent = Path(f"/proc/{os.getppid()}")
    try:
        if (parent / "comm").read_text().strip() not in ("make", "gmake"):
            return
    except OSError:  # no parent here: a container's first process
        return
    had_one = _catches_sigint(parent)
    while True:
        time.sleep(0.25)
        has_one = _catches_sigint(parent)
        if has_one is None or (had_one and not has_one):  # None: make has gone, so do we
            os.kill(os.getpid(), signal.SIGINT)
            return


def _catches_sigint(process: Path) -> bool | None:
    """Whether a process of /proc has a handler for SIGINT; None: it has gone."""
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return None
    said = dict(line.split(maxsplit=1) for line in lines if line.startswith(("State:", "SigCgt:")))
    if said["State:"].startswith("Z"):
        return None
    return bool(int(said["SigCgt:"], 16) & 1 << (signal.SIGINT - 1))


def _raise_stop(_number: int, _frame: object) -> None:
    raise Stop


def run(application: str = APPLICATION) -> None:
    """Start, serve until told to stop, and stop everything that was started.

    Raises:
        CannotRun, BadSetting, CannotMigrate: with nothing left running.
    """
    state = State.here()
    data, nightly = _options()
    settings = load(environ=_environment(state))
    host, port = settings.http.host, settings.http.port
    state.root.mkdir(parents=True, exist_ok=True)
    with _held(state), contextlib.ExitStack() as stack:
        _end_leftovers(state)
        if not processes.is_free(host, port):
            raise CannotRun(
                f"port {port} of {host} is taken; stop what listens there, or give another: make run PORT={port + 1}"
            )
        free = shutil.disk_usage(state.root).free
        if free < LEAST_FREE_BYTES:
            raise CannotRun(
                f"no disk space: {state.root} has {free >> 20} MiB left, {LEAST_FREE_BYTES >> 20} MiB are needed"
            )
        state.logs.mkdir(exist_ok=True)
        name = uuid.uuid4().hex
        os.environ.update(_environment(state) | _keys(state, settings) | {processes.MARK: name})
        settings = with_state(load(), state)
        say(f"state {state.root}")
        System(settings, state, name, data, nightly, stack, application).serve()


def _options() -> tuple[Path | None, bool]:
    nightly = os.environ.get("NIGHTLY", "on").lower()
    if nightly not in ("on", "off"):
        raise BadSetting([f"NIGHTLY={nightly!r}: must be on or off"])
    data = os.environ.get("DATA")
    if data and not Path(data).is_file():
        raise BadSetting([f"DATA={data!r}: there is no such file"])
    return (Path(data).resolve() if data else None), nightly == "on"


def _environment(state: State) -> dict[str, str]:
    """This process's variables, with make's short names under their long ones."""
    found = dict(os.environ)
    found["PACELINE_STATE"] = str(state.root)
    if os.environ.get("PORT"):
        found["PACELINE_HTTP_PORT"] = os.environ["PORT"]
    return found


def _keys(state: State, settings: Settings) -> dict[str, str]:
    """Keys that are made on the first run, each readable by its owner only."""
    added = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(state.ray_token)}
    secret_file(state.ray_token)
    if not settings.general.jwks and not settings.jwt.secret:
        added["PACELINE_JWT_SECRET"] = secret_file(state.jwt_secret)
    return added


@contextlib.contextmanager
def _held(state: State) -> Iterator[None]:
    """The folder is this process's alone. The lock goes with the process, however it ends."""
    with state.lock.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise CannotRun(
                f"STATE {state.root} is held by process {lock.read().strip() or '?'}; stop it, or give another STATE="
            ) from None
        os.set_inheritable(lock.fileno(), False)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _end_leftovers(state: State) -> None:
    """What a supervisor that was killed could not stop: HAProxy outlives its Ray."""
    name = state.running().get("system")
    if name:
        left = processes.marked(name)
        if left:
            say(f"ending {len(left)} processes that a killed run left behind")
            processes.end(left, 3.0)


class Ports(NamedTuple):
    """Everything that listens besides HTTP; in the README as well."""

    dashboard: int
    ray: int
    ray_client: int
    ray_metrics: int
    node_manager: int
    object_manager: int
    agent_http: int
    agent_grpc: int
    runtime_env_agent: int
    haproxy_metrics: int
    haproxy_stats: int
    fallback_http: int
    fallback_grpc: int
    replicas_http: list[int]
    replicas_grpc: list[int]

    @classmethod
    def free(cls, salt: int) -> Self:
        single = len(cls._fields) - 2
        ports = processes.free_ports(single + 2 * REPLICA_PORTS, salt)
        replicas = ports[single:]
        return cls._make([*ports[:single], replicas[:REPLICA_PORTS], replicas[REPLICA_PORTS:]])


class System:
    """What runs, in the order in which it starts; `stack` stops it in the opposite order."""

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
        self._data, self._nightly, self._stack = data, nightly, stack
        self._application = application
        self._ports = Ports.free(salt=settings.http.port)
        self._ray: subprocess.Popen[bytes] | None = None
        self._prepared: Future[None] = Future()
        self._redis: EmbeddedRedis | None = None

    def serve(self) -> None:
        processes.adopt_orphans()
        self._stack.callback(self._stopped)
        if str(self._settings.redis.url).startswith("unix://" + str(self._state.scratch)):
            self._redis = EmbeddedRedis(
                self._state.root / "redis", self._state.redis_socket, self._state.logs / "redis.log"
            )
            self._stack.callback(self._redis.stop)
            try:
                say(self._redis.start())
            except RuntimeError as error:
                raise CannotRun(str(error)) from None
        # History and model need one core, the cluster's start the other. A daemon, so that Ctrl-C need not wait for it:
        # an import that is cut off is repaired by the next one.
        threading.Thread(target=self._prepare, daemon=True).start()
        self._start_cluster()
        while not self._has_prepared():  # in slices: a signal is seen between them
            time.sleep(0.05)
        self._deploy()
        self._wait_ready()
        night = NightlyTrigger(self._dashboard, REPOSITORY, say) if self._nightly else None
        if night is not None:
            night.start()
            self._stack.callback(night.stop)
        print(self._ready_line(), file=TERMINAL, flush=True)
        self._watch()

    def _has_prepared(self) -> bool:
        """Raises: what the preparation raised, as soon as it is known."""
        if not self._prepared.done():
            return False
        self._prepared.result()
        return True

    # Database, history, model

    def _prepare(self) -> None:
        from serve_app.launcher.bootstrap import CannotPrepare, prepare

        try:
            prepare(self._settings, self._state, self._data, say)
            self._prepared.set_result(None)
        except (BadSetting, CannotMigrate, CannotPrepare) as error:
            self._prepared.set_exception(CannotRun(str(error)))
        except BaseException as error:
            self._note(error)
            reason = (str(error) or repr(error)).splitlines()[0]
            self._prepared.set_exception(CannotRun(f"{reason}; see {self._state.logs}/start.log"))

    def _note(self, error: BaseException) -> None:
        """The whole story for who wants to know; the terminal gets a line."""
        (self._state.logs / "start.log").write_text("".join(traceback.format_exception(error)))

    # Ray and Serve

    def _start_cluster(self) -> None:
        scratch = self._state.scratch
        scratch.mkdir(mode=0o700, exist_ok=True)
        if scratch.stat().st_uid != os.getuid():
            raise CannotRun(f"{scratch} belongs to another user; remove it, or give another STATE=")
        os.environ.update(self._ray_environment(scratch / "h"))
        self._write_run_file()  # before anything is started: a killed run's processes are found by it
        say("starting Ray (token authentication, loopback)")
        self._stack.callback(self._stop_cluster)
        try:
            self._start_ray()
            self._start_serve()
        except CannotRun:
            raise
        except Exception as error:
            self._note(error)
            last = (str(error).strip() or repr(error)).splitlines()[-1]
            raise CannotRun(f"the cluster did not start: {last}; see {self._state.logs}/start.log") from None

    def _ray_environment(self, proxy: Path) -> dict[str, str]:
        """What every process of the cluster inherits. `proxy`: HAProxy's files."""
        proxy.mkdir(exist_ok=True)
        ports = self._ports
        return {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
            "PATH": os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)]),  # jobs say `python`
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # 15 by default: everything else on the machine would go before the replicas
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "MALLOC_ARENA_MAX": "2",  # each thread's own heap keeps what large answers leave behind
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve_app.http.response_coalescing:middlewares",
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(proxy / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(proxy / "admin.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(proxy),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(proxy / "server-state"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(proxy / "metrics.sock"),
            "RAY_SERVE_HAPROXY_LOG_TARGET": "127.0.0.1:514 sample 1:1000",  # the replicas log every request
            "RAY_SERVE_HAPROXY_TCP_NODELAY": "0",  # head and body in one packet: nothing is streamed
            # A line of syslog a request otherwise, read in Python; the replicas count the same by themselves.
            "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
            "RAY_SERVE_HAPROXY_NBTHREAD": str(min(os.cpu_count() or 1, 4)),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_http),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.fallback_grpc),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.replicas_http[0]),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.replicas_http[-1]),
            "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(ports.replicas_grpc[0]),
            "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(ports.replicas_grpc[-1]),
        }

    def _start_ray(self) -> None:
        ports, log = self._ports, self._state.logs / "ray.log"
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
        with log.open("wb") as out:
            self._ray = subprocess.Popen(
                [
                    str(BIN / "ray"),
                    "start",
                    "--head",
                    "--block",
                    *(f"{name}={value}" for name, value in options.items()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=processes.die_with_parent,
            )
        until = time.monotonic() + RAY_START_S
        while processes.is_free("127.0.0.1", ports.ray):
            if self._ray.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"Ray did not start; see {log}")
            self._has_prepared()
            time.sleep(0.05)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
        ray.init(address=self._ray_address, namespace="paceline", log_to_driver=False, logging_level=logging.ERROR)
        signal.signal(signal.SIGTERM, _raise_stop)  # Ray has put its own there

    def _start_serve(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from ray import serve
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        say("starting Serve behind HAProxy")
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": self._settings.http.host, "port": self._settings.http.port},
            logging_config={"enable_access_log": False},
        )

    @property
    def _ray_address(self) -> str:
        return f"127.0.0.1:{self._ports.ray}"

    @property
    def _dashboard(self) -> str:
        return f"http://127.0.0.1:{self._ports.dashboard}"

    def _write_run_file(self) -> None:
        content = {
            "system": self._name,
            "pid": os.getpid(),
            "url": self._url,
            "dashboard": self._dashboard,
            "ray_address": self._ray_address,
            "ports": {"http": self._settings.http.port, **self._ports._asdict()},
        }
        draft = self._state.run.with_suffix(".draft")
        draft.write_text(json.dumps(content, indent=2) + "\n")
        draft.replace(self._state.run)

    @property
    def _url(self) -> str:
        host = self._settings.http.host
        shown = "127.0.0.1" if host in ("0.0.0.0", "::", "localhost") else f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self._settings.http.port}"

    def _deploy(self) -> None:
        from ray import serve

        module, _, builder = self._application.partition(":")
        build = getattr(importlib.import_module(module), builder)
        say("deploying Ingress, Predictor and ledger")
        try:
            serve.run(build({}), name="paceline", route_prefix="/", blocking=False)
        except RuntimeError as error:
            logs = self._state.scratch / "ray" / "session_latest" / "logs"
            raise CannotRun(f"the application did not start: {str(error).splitlines()[0]}; see {logs}") from None

    def _wait_ready(self) -> None:
        import httpx

        until = time.monotonic() + READY_S
        last = "no answer"
        while time.monotonic() < until:
            try:
                answer = httpx.get(f"{self._url}/readyz", timeout=5.0)
                if answer.status_code == 200:
                    return
                last = answer.text
            except httpx.HTTPError as error:
                last = str(error)
            time.sleep(0.1)
        raise CannotRun(f"not ready after {READY_S:g} s: {last}")

    def _ready_line(self) -> str:
        from serve_app import token

        secret = self._settings.jwt.secret
        made = token.make(secret, "admin", [], [], 24 * 3600, "developer") if secret else "-"
        return f"ready {self._url} docs {self._url}/docs dashboard {self._dashboard} token {made}"

    # Until the end

    def _watch(self) -> None:
        """Until a signal. The embedded Redis is started again if it dies."""
        while True:
            time.sleep(0.5)
            if self._ray is not None and self._ray.poll() is not None:
                raise CannotRun(
                    f"Ray has ended by itself; see {self._state.logs}/ray.log and {self._state.scratch}/ray"
                )
            if self._redis is not None and not self._redis.is_running():
                say("the embedded Redis has died; starting it again")
                self._redis.start()

    def _stop_cluster(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        say("stopping: no new requests, those in flight end")
        # Ray tells at length of every process that it ends: that goes to a file.
        with (self._state.logs / "stop.log").open("ab") as log:
            os.dup2(log.fileno(), sys.stdout.fileno())
            os.dup2(log.fileno(), sys.stderr.fileno())
        # Not serve.shutdown(): it takes up to half a minute. HAProxy lets no more in and ends what it has, the replicas
        # write what waits for its second and tell the ledger their last wins, and it takes their leases back.
        processes.stop_softly(processes.marked(self._name, "haproxy"), STOP_HAPROXY_S)
        import ray

        flushed = time.monotonic() + FLUSH_S
        try:
            end_sessions(LEASES_S, DRAINING_S)
        except Exception as error:
            self._note(error)  # what is lent waits in quarantine; nothing is lost
        time.sleep(max(flushed - time.monotonic(), 0.0))
        ray.shutdown()
        if self._ray is not None:
            self._ray.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._ray.wait(STOP_RAY_S)

    def _stopped(self) -> None:
        processes.end({*processes.marked(self._name), *processes.descendants(os.getpid())}, STOP_REST_S)
        processes.reap(STOP_REST_S)
        if not isinstance(sys.exception(), CannotRun):  # else somebody will want to read Ray's logs
            for folder in ("ray", "h"):
                shutil.rmtree(self._state.scratch / folder, ignore_errors=True)
        say("stopped")
