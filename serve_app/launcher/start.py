"""One run of everything, from the settings to the stop."""

from __future__ import annotations

import contextlib
import os
import uuid

from db.state import State
from serve_app.launcher import environment, processes, terminal
from serve_app.launcher.errors import CannotRun
from serve_app.launcher.ports import is_free
from serve_app.launcher.signals import ignore_stop_signals
from serve_app.launcher.state_folder import check_room, end_leftovers, locked
from serve_app.launcher.system import System
from serve_app.settings import load, with_state


def start(application: str) -> None:
    """Start, serve until told to stop, and stop everything that was started.

    Args:
        application: module:builder, as Serve's `import_path`.

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
                f"port {port} of {host} is taken; stop what listens there, or give another: --port {port + 1}"
            )
        check_room(state)
        state.logs.mkdir(exist_ok=True)
        name = uuid.uuid4().hex
        os.environ.update(environment.keys(state, settings) | {processes.MARK: name})
        settings = with_state(load(), state)
        terminal.say(f"state {state.root}")
        try:
            System(settings, state, name, data, nightly, stack, application).serve()
        finally:
            ignore_stop_signals()  # what was started is now stopped, by the stack
