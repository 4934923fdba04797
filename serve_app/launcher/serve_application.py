"""Serve on the cluster: its controller and HAProxy started, the application deployed, and waited for."""

from __future__ import annotations

from pathlib import Path

from db.errors import in_a_line
from serve_app.launcher.errors import CannotRun
from serve_app.launcher.ray_client import CallFailed, RayClient
from serve_app.launcher.terminal import say
from serve_app.launcher.waiting import until
from serve_app.settings import HttpSettings

READY_S = 180.0


def start(client: RayClient, http: HttpSettings, logs: Path) -> None:
    """Serve, behind HAProxy. Raises: CannotRun, it did not start."""
    say("starting Serve behind HAProxy")
    try:
        client.call("start_serve", http.host, http.port, what="Serve's controller and HAProxy")
    except CallFailed as error:
        raise CannotRun(f"Serve did not start: {error}; see {logs}") from None


def deploy(client: RayClient, application: str, logs: Path) -> None:
    """
    Args:
        application: module:builder, imported by the client.
        logs: where Ray writes, for who has to look.

    Raises:
        CannotRun: it did not start.
    """
    say("deploying Ingress, Predictor and ledger")
    try:
        client.call("deploy", application, what="Serve to start the replicas")
    except CallFailed as error:
        raise CannotRun(f"the application did not start: {error}; see {logs}") from None


def wait_ready(url: str, logs: Path) -> None:
    """Until /readyz says 200. Raises: CannotRun, it took too long; says what was answered last."""
    import httpx

    last = "no answer yet"

    def is_ready() -> bool:
        nonlocal last
        try:
            answer = httpx.get(f"{url}/readyz", timeout=5.0)
            last = answer.text
            return answer.status_code == 200
        except httpx.HTTPError as error:
            last = in_a_line(error)
            return False

    if not until(is_ready, lambda: f"{url}/readyz to answer 200; now it says: {last}", READY_S):
        raise CannotRun(f"{url}/readyz did not answer 200 within {READY_S:g} s; it said last: {last}; see {logs}")


def url_of(http: HttpSettings) -> str:
    """Where a program on this machine finds it."""
    shown = "127.0.0.1" if http.host in ("0.0.0.0", "::", "localhost") else http.host
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{http.port}"
