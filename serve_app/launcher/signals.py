"""What stops a running system: Ctrl-C, SIGTERM, a terminal that closes, a make that was interrupted.

Only the standard library is imported, so that signals are heeded before anything that takes long to import.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from serve_app.launcher.terminal import say

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOOK_S = 0.25


class Stop(BaseException):
    """A stop signal has come."""


_received: list[signal.Signals] = []
_stopping = threading.Event()


def heed_stop_signals() -> None:
    """From now on a stop signal is taken note of, one that only make has received, too.

    SIGINT is heeded as well where a script's `&` had it ignored; SIGHUP is not after `nohup`.
    """
    if signal.getsignal(signal.SIGTERM) == _take_note:
        return
    for number in STOP_SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _take_note)
    threading.Thread(target=heed_make, daemon=True).start()


def _take_note(number: int, _frame: object) -> None:
    """Raises nothing: it may interrupt code that would lose an exception, as an import, or Python at a fork."""
    if not _received:
        _received.append(signal.Signals(number))
        say(f"stopping ({_received[0].name})")


def raise_if_stopped() -> None:
    """Raises: Stop, if a signal has come and nothing is being stopped yet."""
    if _received and not _stopping.is_set():
        raise Stop


def ignore_stop_signals() -> None:
    """While everything is being stopped: one more signal changes nothing."""
    _stopping.set()


def heed_make() -> None:
    """GNU make waits for its child without handing SIGINT on: Ctrl-C reaches both, a lone `kill -INT` only make.

    make takes its handler off when the signal has come: that can be seen from here. A make that never had one was
    started with SIGINT ignored, as a script's `make run &` is: the signal leaves no trace in it.
    """
    parent = Path(f"/proc/{os.getppid()}")
    try:
        if (parent / "comm").read_text().strip() not in ("make", "gmake"):
            return
    except OSError:  # no parent here: a container's first process
        return
    had_one = _catches_sigint(parent)
    if had_one is False:
        say(f"make was started with SIGINT ignored, as a script's `make run &` is; stop it with: kill {os.getpid()}")
    while True:
        time.sleep(LOOK_S)
        has_one = _catches_sigint(parent)
        if has_one is None or (had_one and not has_one):  # None: make has gone, so do we
            os.kill(os.getpid(), signal.SIGINT)
            return


def _catches_sigint(process: Path) -> bool | None:
    """Whether a process of /proc has a handler for SIGINT; None: it has gone."""
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return None
    said = dict(line.split(maxsplit=1) for line in lines if line.startswith(("State:", "SigCgt:")))
    if said["State:"].startswith("Z"):
        return None
    return bool(int(said["SigCgt:"], 16) & 1 << (signal.SIGINT - 1))
