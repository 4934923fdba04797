"""What keeps `make run` from running."""

from __future__ import annotations

import contextlib
import traceback

from db.errors import UserError
from db.state import State


class CannotRun(UserError):
    """One line for the person who typed `make run`."""


def keep_traceback(state: State, error: BaseException) -> None:
    """The whole story, in logs/start.log, for who wants to know; the terminal gets a line."""
    with contextlib.suppress(OSError):  # a full disk may be what it tells of
        (state.logs / "start.log").write_text("".join(traceback.format_exception(error)))
