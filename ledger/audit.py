"""`python -m ledger.audit`, `paceline audit`: checks that the books balance, by `invariants.py`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence

import typer

from db.command_line import Command, Json, StateFolder, commands, run

app = commands()


class _Audit(Command):
    failure_code = 2


@app.command("audit", cls=_Audit)
def audit(state: StateFolder = None, as_json: Json = False) -> None:
    """Check that every cent of every budget is accounted for.

    Adds up all budgets, leases, reservations and events anew, by SQL from the tables alone, and compares the sums with
    what the ledger keeps. It only reads, also while Paceline runs, and names the brand and row of what does not agree.

    Examples:
      paceline audit
      paceline audit --state /srv/paceline
      paceline audit --json

    Exit codes:
      0  everything agrees
      1  something does not, and the first line says what
      2  the database cannot be read, or a wrong option
    """
    from ledger.invariants import CHECKS

    problems = asyncio.run(_problems())
    if as_json:
        found = {"holds": not problems, "invariants": len(CHECKS), "problems": problems}
        print(json.dumps(found | ({"error": problems[0]} if problems else {})))
    elif not problems:
        print(f"{len(CHECKS)} invariants hold")
    for place, problem in enumerate(problems):
        print(f"also {problem}" if place else problem, file=sys.stderr)
    raise typer.Exit(1 if problems else 0)


async def _problems() -> list[str]:
    from db.schema import existing_database
    from db.settings import database_settings
    from ledger.invariants import audit

    async with existing_database(database_settings()) as database:
        return await audit(database)


def main(arguments: Sequence[str] | None = None) -> int:
    return run(app, "python -m ledger.audit", arguments)


if __name__ == "__main__":
    sys.exit(main())
