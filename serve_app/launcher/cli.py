"""`make run`: everything on this machine, from an empty folder to a line that begins with `ready`."""

from __future__ import annotations

import argparse
import contextlib
import os
import uuid
from collections.abc import Sequence

from db.environment import BadSetting
from db.errors import CannotMigrate
from db.state import State
from serve_app.launcher import environment, processes, terminal
from serve_app.launcher.errors import CannotRun
from serve_app.launcher.ports import is_free
from serve_app.launcher.signals import Stop, heed_stop_signals
from serve_app.launcher.state_folder import check_room, end_leftovers, locked
from serve_app.launcher.system import System
from serve_app.settings import load, with_state

APPLICATION = "serve_app.app:build"


def main(argv: Sequence[str] | None = None, application: str = APPLICATION) -> int:
    """The program.

    Args:
        application: module:builder, as Serve's `import_path`. Imported once Ray's environment is set.

    Returns:
        0: it ran, and was told to stop; 1: it could not run, and has said why.
    """
    parser = argparse.ArgumentParser(
        prog="make run",
        description="Start all of Paceline on this machine. Settings come from the environment: "
        "DATA, PORT, STATE, NIGHTLY and every PACELINE_ variable of docs/settings.md.",
    )
    parser.parse_args(argv)
    heed_stop_signals()
    try:
        run(application)
    except Stop:
        return 0
    except (CannotRun, BadSetting, CannotMigrate) as error:
        terminal.refuse(str(error))
        return 1
    except OSError as error:
        terminal.refuse(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        return 1
    return 0


def run(application: str = APPLICATION) -> None:
    """Start, serve until told to stop, and stop everything that was started.

    Raises:
        CannotRun, BadSetting, CannotMigrate: with nothing left running.
    """
    state = State.here()
    data, nightly = environment.options()
    os.environ.update(environment.with_long_names(state))
    settings = load()
    host, port = settings.http.host, settings.http.port
    state.root.mkdir(parents=True, exist_ok=True)
    with locked(state), contextlib.ExitStack() as stack:
        end_leftovers(state)
        if not is_free(host, port):
            raise CannotRun(
                f"port {port} of {host} is taken; stop what listens there, or give another: make run PORT={port + 1}"
            )
        check_room(state)
        state.logs.mkdir(exist_ok=True)
        name = uuid.uuid4().hex
        os.environ.update(environment.keys(state, settings) | {processes.MARK: name})
        settings = with_state(load(), state)
        terminal.say(f"state {state.root}")
        System(settings, state, name, data, nightly, stack, application).serve()
