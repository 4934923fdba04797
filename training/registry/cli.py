"""Which model and which λ were live: `python -m training.registry --at 2026-11-24T14:03:07Z [--brand B]`."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import sys
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from db.environment import BadSetting
from db.errors import in_a_line
from db.session import Database
from db.settings import database_settings
from training.registry.activations import AsOf, as_of


def moment(text: str) -> dt.datetime:
    """
    Raises:
        ValueError: not a time with its zone.

    >>> moment("2026-11-24T14:03:07Z").isoformat()
    '2026-11-24T14:03:07+00:00'
    """
    found = dt.datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("a time needs its zone, as in 2026-11-24T14:03:07Z")
    return found.astimezone(dt.UTC)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.registry", description="Which model and λ were live.")
    parser.add_argument("--at", type=moment, help="a time with its zone, as 2026-11-24T14:03:07Z; default: now")
    parser.add_argument("--brand", help="only this brand's λ")
    chosen = parser.parse_args(arguments)
    try:
        then = asyncio.run(_asked(chosen.at or dt.datetime.now(dt.UTC), chosen.brand))
    except BadSetting as error:
        print(error, file=sys.stderr)
        return 1
    except (SQLAlchemyError, OSError) as error:
        print(f"the registry cannot be read: {in_a_line(error)}", file=sys.stderr)
        return 1
    print(json.dumps(then.as_json(), default=dt.datetime.isoformat, indent=1))
    return 0


async def _asked(at: dt.datetime, brand_id: str | None) -> AsOf:
    database = Database(database_settings())
    try:
        return await as_of(database, at, brand_id)
    finally:
        await database.close()
