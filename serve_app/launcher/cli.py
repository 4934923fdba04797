"""`python -m serve_app.run`, `make run`, `paceline run`: everything on this machine, up to a line `ready`."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from db import command_line
from db.command_line import Command, StateFolder, commands
from db.errors import UserError, file_error

APPLICATION = "serve_app.app:build"
HELP = """Start all of Paceline on this machine, and serve requests until it is stopped.

The first start makes what is not there: a state folder, an SQLite database, a history (made up, unless --data names a
file), a first model. Then it prints a line that begins with `ready` and has the address and a token. Ctrl-C or SIGTERM
stops all of it. Each option is the same as a variable for `make run`: DATA, PORT, STATE, NIGHTLY; docs/settings.md has
all others.

Examples:
  paceline run
  paceline run --data performance.csv.gz --port 9000 --state /srv/paceline
  make run PORT=9000 STATE=/srv/paceline NIGHTLY=off

Exit codes:
  0  it ran, and was told to stop
  1  it could not run, and the error says why; nothing is left running
  2  a wrong option
"""

app = commands()


@app.command("run", cls=Command, help=HELP)
def run_(
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Past performance to learn from.  [default: $DATA, else a made-up market]"),
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", min=1, max=65535, help="Port of HTTP.  [default: $PORT, else 8000]")
    ] = None,
    state: StateFolder = None,
    nightly: Annotated[
        bool | None,
        typer.Option(
            "--nightly/--no-nightly",
            show_default=False,
            help="Train a new model every day at 02:00 UTC.  [default: $NIGHTLY, else on]",
        ),
    ] = None,
    application: Annotated[str, typer.Option(hidden=True)] = APPLICATION,
) -> None:
    from serve_app.launcher.signals import Stop, heed_stop_signals

    heed_stop_signals()
    from serve_app.launcher import terminal
    from serve_app.launcher.waiting import result_of

    given = {"DATA": data, "PORT": port, "NIGHTLY": None if nightly is None else ("on" if nightly else "off")}
    os.environ.update({name: str(value) for name, value in given.items() if value is not None})
    try:
        result_of(lambda: importlib.import_module("serve_app.launcher.start"), "imports").start(application)
    except Stop:
        terminal.leave(0)
    except (UserError, OSError) as error:
        terminal.refuse(file_error(error) if isinstance(error, OSError) else str(error))
        terminal.leave(1)


def main(arguments: Sequence[str] | None = None, application: str = APPLICATION) -> int:
    """The program.

    Args:
        application: module:builder, as Serve's `import_path`. Imported once Ray's environment is set.

    Returns:
        The exit code, as its help says.
    """
    if application != APPLICATION:
        arguments = [*(arguments or ()), "--application", application]
    return command_line.run(app, "python -m serve_app.run", arguments)
