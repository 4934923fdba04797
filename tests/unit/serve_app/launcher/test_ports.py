"""Systems that run side by side listen on different ports."""

import socket

import pytest

from serve_app.launcher import ports
from serve_app.launcher.ports import REPLICA_PORTS, Ports, free_ports, is_free


def test_a_run_with_a_taken_port_is_passed_over(monkeypatch):
    monkeypatch.setattr(ports, "FIRST_PORT", 29_000)
    first = free_ports(3, salt=0)
    assert first == list(range(first[0], first[0] + 3))
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", first[1]))
        taken.listen()
        assert not is_free("127.0.0.1", first[1])
        assert not set(free_ports(3, salt=0)) & set(first)


def test_no_room_is_an_error(monkeypatch):
    monkeypatch.setattr(ports, "is_free", lambda host, port: False)
    with pytest.raises(OSError, match="no 4 neighbouring ports"):
        free_ports(4, salt=1)


def test_every_port_of_a_system_is_its_own(monkeypatch):
    monkeypatch.setattr(ports, "is_free", lambda host, port: True)
    *single, http, grpc = Ports.free(salt=8000)
    assert len({*single, *http, *grpc}) == len(single) + 2 * REPLICA_PORTS
