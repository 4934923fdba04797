"""History and model are made beside the cluster's start: they need one core, it the other."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path

from db.command_line import told, writing
from db.errors import in_a_line
from db.state import State
from serve_app.launcher.errors import CannotRun, keep_traceback
from serve_app.launcher.terminal import say
from serve_app.settings import Settings


class Preparation:
    """`bootstrap.prepare` in a thread."""

    def __init__(self, settings: Settings, state: State, data: Path | None) -> None:
        self._settings, self._state, self._data = settings, state, data
        self._done: Future[None] = Future()

    def start(self) -> None:
        """Begin. A daemon, so that Ctrl-C need not wait for it: an import that is cut off is repaired by the next."""
        threading.Thread(target=self._run, daemon=True).start()

    def has_ended(self) -> bool:
        """Raises: CannotRun, it has failed."""
        if not self._done.done():
            return False
        self._done.result()
        return True

    def _run(self) -> None:
        try:
            from serve_app.launcher.bootstrap import prepare

            with writing(self._state.root):
                prepare(self._settings, self._state, self._data, say)
            self._done.set_result(None)
        except BaseException as error:
            keep_traceback(self._state, error)
            line = told(error) if isinstance(error, Exception) else None
            self._done.set_exception(CannotRun(line or f"{in_a_line(error)}; see {self._state.logs}/start.log"))
