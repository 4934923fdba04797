"""Files and events become daily history: `python -m training.etl import FILE [--source NAME]`, `… gather`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from db.environment import BadSetting
from db.errors import CannotMigrate, in_a_line
from db.schema import upgrade
from db.session import Database
from db.settings import DatabaseSettings, database_settings
from db.state import State
from training.etl.csv_reader import Unreadable
from training.etl.importer import import_file


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.etl", description="Files and events → hourly performance."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("import", help="load a performance CSV, CSV.gz or Parquet file")
    command.add_argument("file", type=Path)
    command.add_argument("--source", help="what a later import replaces (default: the file's name)")
    command.add_argument("--json", action="store_true", help="end with one line of JSON")
    command = commands.add_parser("gather", help="check new events' rows, and write the history's files in STATE")
    command.add_argument("--all", action="store_true", help="count all events anew and write all days")
    command.add_argument("--json", action="store_true", help="end with one line of JSON")
    chosen = parser.parse_args(arguments)
    try:
        settings, state = database_settings(), State.here()
        state.root.mkdir(parents=True, exist_ok=True)
        assert settings.url is not None
        upgrade(settings.url)
        if chosen.command == "import":
            summary = asyncio.run(_import(settings, state, chosen.file, chosen.source))
        else:
            summary = asyncio.run(_gather(settings, state, chosen.all))
    except (BadSetting, CannotMigrate, Unreadable) as error:
        print(error, file=sys.stderr)
        return 1
    except (SQLAlchemyError, OSError) as error:
        print(f"{chosen.command} failed: {in_a_line(error)}", file=sys.stderr)
        return 1
    if chosen.json:
        print(json.dumps(summary))
    return 0


async def _import(settings: DatabaseSettings, state: State, path: Path, source: str | None) -> dict[str, Any]:
    database = Database(settings)
    try:
        done = await import_file(database, path, source, state=state)
    finally:
        await database.close()
    where = f" → {done.rejects_file}" if done.rejects_file else ""
    print(
        f"imported {done.rows:,} rows as {done.keys:,} keys under source {done.source!r}, {done.brands} new brands, "
        f"{done.rejected:,} rejected{where}, {done.seconds:.1f} s"
    )
    summary = {name: getattr(done, name) for name in ("source", "rows", "keys", "rejected", "brands", "seconds")}
    return summary | {"rejects_file": str(done.rejects_file) if done.rejects_file else None}


async def _gather(settings: DatabaseSettings, state: State, everything: bool) -> dict[str, Any]:
    from training.etl.reconcile import gather  # the ledger's rules and Parquet: an import needs neither

    database = Database(settings)
    try:
        done = await gather(database, state, everything=everything)
    finally:
        await database.close()
    print(
        f"gathered {done.events:,} new events on {done.brand_days:,} brands' days, {done.repaired:,} rows repaired; "
        f"{done.refreshed:,} of {done.days:,} days written, {done.vanished:,} gone, {done.rows:,} rows, "
        f"{done.seconds:.1f} s"
    )
    return done._asdict() | {"newest": done.newest.isoformat() if done.newest else None}
