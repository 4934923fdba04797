"""Systems that run side by side listen on different ports."""

import errno
import os
import socket

import pytest

from serve_app.launcher import ports
from serve_app.launcher.errors import CannotRun
from serve_app.launcher.ports import REPLICA_PORTS, Ports, free_ports, is_free, require_free


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


def test_a_taken_port_is_told_with_who_has_it():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CannotRun, match=rf"port {port} of 127.0.0.1 is taken by process {os.getpid()} \(.*PORT="):
            require_free("127.0.0.1", port)
    require_free("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.77", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_not_called_a_taken_port(host):
    with pytest.raises(CannotRun, match=f"this machine has no address {host}; check PACELINE_HTTP_HOST"):
        require_free(host, 8000)


def test_a_port_for_root_is_called_that(monkeypatch):
    def refuse(host: str, port: int) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(ports, "_listen", refuse)
    with pytest.raises(CannotRun, match="may not listen on port 80: those below 1024 are root's; give another: PORT="):
        require_free("127.0.0.1", 80)
