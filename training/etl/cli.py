"""`python -m training.etl`, `paceline import` and `paceline gather`: files and events become daily history."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from db.command_line import Command, Json, StateFolder, commands, progress, run

if TYPE_CHECKING:
    from training.etl.importer import Imported
    from training.etl.reconcile import Gathered
    from training.progress import Say

HELP = """Load files of past performance, and count new events into the history.

Examples:
  paceline import performance.csv
  paceline gather
"""

IMPORT_HELP = """Load a file of past performance, from which the model learns.

Reads CSV, CSV.gz or Parquet with the columns ts, brand_id, partner_id, slot_id, device_type, creative_type,
placement_score, impressions, clicks, conversions, cost, revenue: one row an hour or a day, money in units of currency.
Good rows are stored. Rows that cannot be used, such as of times ahead of now or before PACELINE_HISTORY_FROM, are
written to FILE.rejects.csv with the reason. The same file again changes nothing; a file of the same source replaces the
rows that both have. Paceline may run meanwhile.

Examples:
  paceline import performance.csv
  paceline import 2026-01.csv.gz --source shop-2026
  paceline import performance.parquet --state /srv/paceline --json

Exit codes:
  0  stored; rows that were rejected are counted
  1  nothing was stored, and the error says why
  2  a wrong option
"""
GATHER_HELP = """Bring the history that the model learns from up to date with new events.

It is the first step of every night, done by itself: hourly rows are compared with the events that they count, repaired
where they differ, and written to the state folder as one Parquet file a day. Paceline may run meanwhile.

Examples:
  paceline gather
  paceline gather --all
  paceline gather --state /srv/paceline --json

Exit codes:
  0  the history is up to date
  1  it could not be brought up to date; the next run goes on from there
  2  a wrong option
"""


app = commands(HELP)


@app.command("import", cls=Command, help=IMPORT_HELP)
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, CSV.gz or Parquet.", show_default=False)],
    source: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What a later import under the same name replaces.  [default: file's name]"),
    ] = None,
    state: StateFolder = None,
    as_json: Json = False,
) -> None:
    from training.etl.csv_reader import first_bytes

    with progress(quiet=as_json) as say:
        first_bytes(file)  # a name that is none makes no database
        _migrate()
        done = asyncio.run(_import(file, source, say))
    summary = {name: getattr(done, name) for name in ("source", "rows", "keys", "rejected", "brands", "seconds")}
    if as_json:
        print(json.dumps(summary | {"rejects_file": str(done.rejects_file) if done.rejects_file else None}))
        return
    where = f" → {done.rejects_file}" if done.rejects_file else ""
    print(
        f"imported {done.rows:,} rows as {done.keys:,} keys under source {done.source!r}, {done.brands} new brands, "
        f"{done.rejected:,} rejected{where}, {done.seconds:.1f} s"
    )


@app.command("gather", cls=Command, help=GATHER_HELP)
def gather_(
    everything: Annotated[bool, typer.Option("--all", help="Count all events anew and write all days.")] = False,
    state: StateFolder = None,
    as_json: Json = False,
) -> None:
    with progress(quiet=as_json) as say:
        _migrate(only_existing=True)
        done = asyncio.run(_gather(everything, say))
    if as_json:
        print(json.dumps(done._asdict() | {"newest": done.newest.isoformat() if done.newest else None}))
        return
    print(
        f"gathered {done.events:,} new events on {done.brand_days:,} brands' days, {done.repaired:,} rows repaired; "
        f"{done.refreshed:,} of {done.days:,} days written, {done.vanished:,} gone, {done.rows:,} rows, "
        f"{done.seconds:.1f} s"
    )


def _migrate(*, only_existing: bool = False) -> None:
    """The database is made or migrated first: history may be there before the first start.

    Raises:
        BadSetting, CannotMigrate: it cannot be used.
        UserError: there is none, and none is to be made.
    """
    from db.schema import require_file, upgrade
    from db.settings import database_settings
    from db.state import State

    settings = database_settings()
    if only_existing:
        require_file(settings)
    State.here().make()
    assert settings.url is not None
    upgrade(settings.url)


async def _import(path: Path, source: str | None, say: Say) -> Imported:
    from db.session import Database
    from db.settings import database_settings
    from db.state import State
    from training.etl.importer import import_file

    database = Database(database_settings())
    try:
        return await import_file(database, path, source, state=State.here(), say=say)
    finally:
        await database.close()


async def _gather(everything: bool, say: Say) -> Gathered:
    from db.session import Database
    from db.settings import database_settings
    from db.state import State
    from training.etl.reconcile import gather

    database = Database(database_settings())
    try:
        return await gather(database, State.here(), say, everything=everything)
    finally:
        await database.close()


def main(arguments: Sequence[str] | None = None) -> int:
    return run(app, "python -m training.etl", arguments)
