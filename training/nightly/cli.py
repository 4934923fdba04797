"""`python -m training.nightly`, `paceline night`: etl → features → fit → gate → λ → publish → swap → verify."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from db.command_line import Command, StateFolder, commands, date, explained, run, say
from training.progress import Progress

LIVE, FAILED, STAYED, ANOTHER, UNVERIFIED = range(5)
"""Exit codes; 128 + the signal's number when stopped by one."""

HELP = """Train a new model on past performance, and make it live if it is better.

Reads the history, fits the trees, compares the new version (the challenger) with the live one (the champion), fits each
brand's λ, publishes the version, makes it live and looks whether it is live everywhere. A running system does it every
day at 02:00 UTC. A night that was stopped is continued by the next run. The last line is a summary in JSON.

Examples:
  paceline night
  paceline night --date 2026-01-31
  paceline night --state /srv/paceline --json

Exit codes:
  0    the new version is live, and verified
  1    the night failed, or a wrong option; what is finished is kept, and the next run continues there
  2    the champion stays: the challenger lost at the gate, and the summary says why
  3    another night is running on this state folder
  4    the new version is live, but not found everywhere as it was published; the summary says where
  130  stopped by SIGINT, 143 by SIGTERM: as after 1
"""

app = commands()


class _Night(Command):
    usage_code = FAILED  # a mistyped option is a night that failed, not a champion that stays


@app.command("night", cls=_Night, help=HELP)
def night(
    before: Annotated[
        dt.date | None,
        typer.Option(
            "--date", parser=date, metavar="YYYY-MM-DD", help="Learn from the days before it.  [default: all days]"
        ),
    ] = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Fit in this process; otherwise on a Ray cluster.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Do every step anew, whatever an earlier run has left.")
    ] = False,
    state: StateFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print nothing but the summary line.")] = False,
) -> None:
    from db.state import State
    from training.nightly.errors import AnotherNight

    progress = Progress((lambda _line: None) if as_json else say)
    _stop_at_signals(State.here(), progress)
    try:
        from training.nightly.start import start

        summary = start(before, in_process, restart, progress)
    except AnotherNight as error:
        raise typer.Exit(_failed(ANOTHER, str(error), progress)) from None
    except Exception as error:
        raise typer.Exit(_failed(FAILED, explained(error), progress)) from None
    say(json.dumps(summary._asdict() | {"outcome": summary.outcome}, default=str))
    raise typer.Exit({"live": LIVE, "stayed": STAYED, "unverified": UNVERIFIED}[summary.outcome])


def _failed(code: int, why: str, progress: Progress) -> int:
    print(why, file=sys.stderr)
    outcome = "failed" if code == FAILED else "another night"
    summary = {"outcome": outcome, "error": why, "step": progress.now}
    say(json.dumps(summary | {"warnings": progress.warnings, "seconds": progress.seconds}))
    return code


def _stop_at_signals(state: Any, progress: Progress) -> None:
    """End at once, as if killed, which loses nothing; otherwise a fit in a thread would be waited for."""

    def stop(number: int, _frame: Any) -> NoReturn:
        words = f"stopped by {signal.Signals(number).name} in step {progress.now or 'etl'}: what is finished is kept"
        os.write(2, f"{words} in {state.night}, and the next run continues there\n".encode())
        os._exit(128 + number)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def main(arguments: Sequence[str] | None = None) -> int:
    return run(app, "python -m training.nightly", arguments)
