"""`python -m training.registry`, `paceline registry`: which model and which λ were live at a time."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from db.command_line import Command, Json, StateFolder, commands, run

if TYPE_CHECKING:
    from training.registry.activations import AsOf

app = commands()


def moment(text: str) -> dt.datetime:
    """
    Raises:
        typer.BadParameter: not a time with its zone.

    >>> moment("2026-11-24T14:03:07Z").isoformat()
    '2026-11-24T14:03:07+00:00'
    """
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        found = dt.datetime.min
    if found.tzinfo is None:
        raise typer.BadParameter(f"{text!r} is not a time with its zone, such as 2026-11-24T14:03:07Z")
    return found.astimezone(dt.UTC)


@app.command("registry", cls=Command)
def registry(
    at: Annotated[
        dt.datetime | None,
        typer.Option(parser=moment, metavar="TIME", help="A time with its zone.  [default: now]"),
    ] = None,
    brand: Annotated[
        str | None, typer.Option(metavar="ID", help="Show this brand's λ alone.  [default: all brands]")
    ] = None,
    state: StateFolder = None,
    as_json: Json = False,
) -> None:
    """Show which model version was live at a time, and each brand's λ.

    λ (lambda) is the price that a brand puts on one unit of cost, in units of revenue; bids are ranked by it. Prints a
    JSON document; with --json, in one line.

    Examples:
      paceline registry
      paceline registry --at 2026-11-24T14:03:07Z --brand brand-atlas

    Exit codes:
      0  printed
      1  the database cannot be read
      2  a wrong option
    """
    then = asyncio.run(_asked(at or dt.datetime.now(dt.UTC), brand))
    print(json.dumps(then.as_json(), default=dt.datetime.isoformat, indent=None if as_json else 1))


async def _asked(at: dt.datetime, brand_id: str | None) -> AsOf:
    from db.schema import existing_database
    from db.settings import database_settings
    from training.registry.activations import as_of

    async with existing_database(database_settings()) as database:
        return await as_of(database, at, brand_id)


def main(arguments: Sequence[str] | None = None) -> int:
    return run(app, "python -m training.registry", arguments)
