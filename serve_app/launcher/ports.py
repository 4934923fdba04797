"""Ports that nobody listens on, and what a system uses them for."""

from __future__ import annotations

import errno
import socket
from typing import NamedTuple, Self

import psutil

from serve_app.launcher.errors import CannotRun

FIRST_PORT, LAST_PORT = 20_000, 29_999
REPLICA_PORTS = 20


def is_free(host: str, port: int) -> bool:
    """Whether this machine could listen there."""
    try:
        _listen(host, port)
    except OSError:
        return False
    return True


def _listen(host: str, port: int) -> None:
    """Raises: OSError, it cannot be done."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def require_free(host: str, port: int) -> None:
    """
    Raises:
        CannotRun: nobody could listen there; says why, and who does.
    """
    try:
        _listen(host, port)
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise CannotRun(f"this machine has no address {host}; check PACELINE_HTTP_HOST") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            why = f"this user may not listen on port {port}: those below 1024 are root's; give another: PORT=8000"
        elif error.errno == errno.EADDRINUSE:
            other = port + 1 if port < 65535 else 8000
            why = f"port {port} of {host} is taken{_by_whom(port)}; stop that, or give another: PORT={other}"
        else:
            why = f"cannot listen on port {port} of {host}: {error.strerror}"
        raise CannotRun(why) from None


def _by_whom(port: int) -> str:
    """The process that listens there, as far as this user may see it; that of another Paceline by its folder."""
    try:
        connections = psutil.net_connections("tcp")
        listening = [each.pid for each in connections if each.status == "LISTEN" and port in each.laddr[1:]]
        process = psutil.Process(next(filter(None, listening)))
        state = process.environ().get("PACELINE_STATE") if process.name() == "haproxy" else None
    except (StopIteration, psutil.Error, OSError):
        return ""
    return f" by the Paceline of STATE={state}" if state else f" by process {process.pid} ({process.name()})"


def free_ports(number: int, salt: int) -> list[int]:
    """A run of neighbouring ports that nobody listens on. `salt` keeps systems apart that start together.

    Raises:
        OSError: there is none.
    """
    spans = (LAST_PORT - FIRST_PORT) // number
    for step in range(spans):
        first = FIRST_PORT + (salt + step * 7) % spans * number
        span = range(first, first + number)
        if all(is_free("0.0.0.0", port) for port in span):
            return list(span)
    raise OSError(f"no {number} neighbouring ports are free between {FIRST_PORT} and {LAST_PORT}")


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
        """Raises: OSError, see `free_ports`."""
        single = len(cls._fields) - 2
        ports = free_ports(single + 2 * REPLICA_PORTS, salt)
        replicas = ports[single:]
        return cls._make([*ports[:single], replicas[:REPLICA_PORTS], replicas[REPLICA_PORTS:]])
