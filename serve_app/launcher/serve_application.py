"""Serve on the cluster: HAProxy and its controller started, the application deployed, and waited for."""

from __future__ import annotations

import importlib
import logging
import time
import warnings
from pathlib import Path

from db.errors import in_a_line
from serve_app.launcher.errors import CannotRun
from serve_app.launcher.terminal import say
from serve_app.settings import HttpSettings

READY_S = 180.0


def start(http: HttpSettings) -> None:
    """Serve, behind HAProxy. Ray must be connected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray import serve
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    say("starting Serve behind HAProxy")
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": http.host, "port": http.port},
        logging_config={"enable_access_log": False},
    )


def deploy(application: str, logs: Path) -> None:
    """
    Args:
        application: module:builder, imported here.
        logs: where Ray writes, for who has to look.

    Raises:
        CannotRun: it did not start.
    """
    from ray import serve

    module, _, builder = application.partition(":")
    build = getattr(importlib.import_module(module), builder)
    say("deploying Ingress, Predictor and ledger")
    try:
        serve.run(build({}), name="paceline", route_prefix="/", blocking=False)
    except RuntimeError as error:
        raise CannotRun(f"the application did not start: {in_a_line(error)}; see {logs}") from None


def wait_ready(url: str) -> None:
    """Until /readyz says 200. Raises: CannotRun, it took too long; says what was answered last."""
    import httpx

    until = time.monotonic() + READY_S
    last = "no answer"
    while time.monotonic() < until:
        try:
            answer = httpx.get(f"{url}/readyz", timeout=5.0)
            if answer.status_code == 200:
                return
            last = answer.text
        except httpx.HTTPError as error:
            last = str(error)
        time.sleep(0.1)
    raise CannotRun(f"not ready after {READY_S:g} s: {last}")


def url_of(http: HttpSettings) -> str:
    """Where a program on this machine finds it."""
    shown = "127.0.0.1" if http.host in ("0.0.0.0", "::", "localhost") else http.host
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{http.port}"
