"""The process of a start that talks to Ray, and the supervisor's side of it.

It is a process of its own because Ray aborts its clients when its head process dies, because a signal that arrives in a
call of Ray's comes out as some other error, and because only the end of a process breaks such a call off. It takes one
call a line on stdin and answers each with a line on stdout.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import math
import os
import select
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from db.errors import in_a_line
from serve_app.launcher import processes
from serve_app.launcher.waiting import until

LEASES_S, DRAINING_S = 3.0, 0.2


class CallFailed(Exception):
    """A call failed, or did not end; the text says why."""


class RayClient:
    """The supervisor's side.

    Args:
        application: module:builder, as Serve's `import_path`.
        log: gets what Ray and Serve say in the process, and the traceback of a call that fails.
    """

    def __init__(self, application: str, log: Path) -> None:
        self._is_asked = False
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import main; main()", application],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                bufsize=0,
                preexec_fn=processes.die_with_parent,
            )

    @property
    def is_idle(self) -> bool:
        """Whether it can take a call."""
        return not self._is_asked and self._process.poll() is None

    def call(self, name: str, *arguments: object, what: str, within_s: float = math.inf) -> None:
        """Call one of the functions below, in the process, and wait until it is done.

        Args:
            what: is waited for, as `until` says it.

        Raises:
            CallFailed
        """
        assert self._process.stdin and self._process.stdout
        answers = select.poll()
        answers.register(self._process.stdout, select.POLLIN)
        self._is_asked = True
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")
        if not until(lambda: answers.poll(0), lambda: what, within_s):
            raise CallFailed(f"waited {within_s:.0f} s for {what}")
        answer = self._process.stdout.readline()
        if not answer:
            raise CallFailed(f"the process that calls Ray ended with code {self._process.wait()}")
        self._is_asked = False
        if error := json.loads(answer):
            raise CallFailed(error)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def connect(address: str) -> None:
    import ray  # not before: Ray reads its environment on import

    ray.init(address=address, namespace="paceline", log_to_driver=False, logging_level=logging.ERROR)


def start_serve(host: str, port: int) -> None:
    from ray import serve
    from ray.exceptions import RayActorError

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    options: dict[str, Any] = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": host, "port": port},
        "logging_config": {"enable_access_log": False},
    }
    try:
        serve.start(**options)
    except (TimeoutError, RayActorError):  # Serve gives HAProxy 60 s; a proxy that starts too slowly is started anew
        serve.start(**options)  # finds the controller of before


def deploy(application: str) -> None:
    from ray import serve

    serve.run(_builder(application)({}), name="paceline", route_prefix="/", blocking=False)


def end_sessions() -> None:
    from ledger.runtime.deployment import end_sessions

    end_sessions(LEASES_S, DRAINING_S)


def _builder(application: str) -> Callable[[dict[str, object]], Any]:
    module, _, builder = application.partition(":")
    build: Callable[[dict[str, object]], Any] = getattr(importlib.import_module(module), builder)
    return build


CALLS: dict[str, Callable[..., None]] = {call.__name__: call for call in (connect, start_serve, deploy, end_sessions)}


def main() -> None:
    """Answer calls until stdin ends. An answer is null, or what went wrong."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    warnings.simplefilter("ignore")
    with contextlib.suppress(Exception):  # while Ray starts; what fails here fails again in its call, and is told
        importlib.import_module("ray.serve")
        _builder(sys.argv[1])
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        answer = None
        try:
            CALLS[name](*arguments)
        except Exception as error:
            traceback.print_exc()
            answer = in_a_line(error)
        print(json.dumps(answer), file=answers, flush=True)
