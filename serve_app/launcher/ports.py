"""Ports that nobody listens on, and what a system uses them for."""

from __future__ import annotations

import socket
from typing import NamedTuple, Self

FIRST_PORT, LAST_PORT = 20_000, 29_999
REPLICA_PORTS = 20


def is_free(host: str, port: int) -> bool:
    """Whether this machine could listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


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
