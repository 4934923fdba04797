"""One run of everything, from the settings to the stop."""

from __future__ import annotations

import contextlib
import os
import uuid

from db.state import State
from serve_app.launcher import environment, machine, processes, state_folder, terminal
from serve_app.launcher.ports import require_free
from serve_app.launcher.signals import ignore_stop_signals
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
    state_folder.make(state)
    machine.raise_open_files()
    with state_folder.locked(state), contextlib.ExitStack() as stack:
        state.close_to_others()
        state_folder.end_leftovers(state)
        require_free(settings.http.host, settings.http.port)
        state_folder.check(state, settings)
        state_folder.make_scratch(state)
        stack.callback(state_folder.remove_empty_scratch, state)
        machine.warn_of_little_memory()
        state.logs.mkdir(exist_ok=True)
        name = uuid.uuid4().hex
        os.environ.update(environment.keys(state, settings) | {processes.MARK: name})
        settings = with_state(load(), state)
        terminal.say(f"state {state.root}")
        try:
            System(settings, state, name, data, nightly, stack, application).serve()
        finally:
            ignore_stop_signals()  # what was started is now stopped, by the stack
