"""The environment: what `make run` reads in it, and what it hands to every process that it starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from db.environment import BadSetting
from db.errors import file_error
from db.state import State, secret_file
from serve_app.launcher import machine
from serve_app.launcher.ports import Ports
from serve_app.settings import SECRET_LEAST_BYTES, Settings

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def options() -> tuple[Path | None, bool]:
    """(DATA: the file with the history, if one was given; NIGHTLY: whether nights are run).

    Raises:
        BadSetting: one of them, or PORT, cannot be used.
    """
    nightly = os.environ.get("NIGHTLY", "on").lower()
    if nightly not in ("on", "off"):
        raise BadSetting([f"NIGHTLY={nightly!r}: must be on or off"])
    port = os.environ.get("PORT", "").strip()
    if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise BadSetting([f"PORT={port!r}: must be a whole number from 1 to 65535, such as 8000"])
    data = os.environ.get("DATA", "").strip()
    return (_history(data) if data else None), nightly == "on"


def _history(data: str) -> Path:
    """Raises: BadSetting, it is no file that can be read. What is in it is seen to when it is imported."""
    path = Path(data)
    if not path.exists():
        raise BadSetting([f"DATA={data!r}: there is no such file; check the name"])
    if not path.is_file():
        raise BadSetting([f"DATA={data!r}: that is no file; name a CSV, CSV.gz or Parquet file"])
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise BadSetting([f"DATA={data!r}: the file is empty; name another"])
    except OSError as error:
        raise BadSetting([f"DATA={data!r} cannot be read: {file_error(error)}"]) from None
    return path.resolve()


def with_long_names(state: State) -> dict[str, str]:
    """This process's variables, with make's short names under their long ones."""
    found = dict(os.environ)
    found["PACELINE_STATE"] = str(state.root)
    if os.environ.get("PORT"):
        found["PACELINE_HTTP_PORT"] = os.environ["PORT"]
    return found


def keys(state: State, settings: Settings) -> dict[str, str]:
    """Keys that are made on the first run, each readable by its owner only.

    Raises:
        BadSetting: one that is there cannot be used.
    """
    added = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(state.ray_token)}
    secret_file(state.ray_token)
    if state.model_key.exists():
        secret_file(state.model_key)  # not used before the first model, which would be late to hear of it
    if not settings.general.jwks and not settings.jwt.secret:
        secret = added["PACELINE_JWT_SECRET"] = secret_file(state.jwt_secret)
        if len(secret.encode()) < SECRET_LEAST_BYTES:
            short = f"{state.jwt_secret} holds less than {SECRET_LEAST_BYTES} bytes, too short a key"
            raise BadSetting([f"{short}; delete it, and a new one is made"])
    return added


def of_cluster(ports: Ports, proxy: Path) -> dict[str, str]:
    """What every process of the Ray cluster inherits. `proxy`: HAProxy's files."""
    proxy.mkdir(exist_ok=True)
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
        **_of_haproxy(ports, proxy),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.fallback_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.replicas_http[0]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.replicas_http[-1]),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(ports.replicas_grpc[0]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(ports.replicas_grpc[-1]),
    }


def _of_haproxy(ports: Ports, proxy: Path) -> dict[str, str]:
    return {
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
        "RAY_SERVE_HAPROXY_MAXCONN": str(machine.connections()),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(os.cpu_count() or 1, 4)),
    }
