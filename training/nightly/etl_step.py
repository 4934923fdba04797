"""Step 1, etl: counts the events since the last run, and reads the history before the date."""

from __future__ import annotations

import datetime as dt

import pandas as pd
import pyarrow
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from db.tables import imports
from training.etl.data_quality import oddities
from training.etl.reader import day_of
from training.etl.reconcile import gather, read
from training.nightly.errors import NothingToLearn
from training.nightly.night import Night


async def read_history(night: Night) -> pd.DataFrame:
    """The history before the run's date; each oddity in it is a warning.

    Raises:
        NothingToLearn: there is no history before the date.
    """
    with night.progress.step("etl") as done:
        frame, news = await _read(night)
        newest = day_of(int(frame["day"].max()))
        done(f"{news}; {len(frame):,} rows of {frame['day'].nunique()} days through {newest}")
    async with night.database.read() as connection:
        rejected = await _rejected(connection)
    for line in [*oddities(frame), *rejected]:
        night.progress.warn(line)
    pyarrow.default_memory_pool().release_unused()  # the memory that the files were read into
    return frame


async def _read(night: Night) -> tuple[pd.DataFrame, str]:
    """(the history before the date, a line on what is new in it)."""
    gathered = await gather(night.database, night.state, night.progress.relay)
    if gathered.newest is None:
        raise NothingToLearn("the database holds no history yet; import some: paceline import FILE")
    # A day that has not begun anywhere is a mistake of old, when such rows were still taken.
    newest = min(gathered.newest, dt.datetime.now(dt.UTC).date())
    through = newest if night.date is None else night.date - dt.timedelta(days=1)
    frame = await read(night.database, night.state, through)
    if frame.empty:
        raise NothingToLearn(
            f"the database holds no history before {through + dt.timedelta(days=1)}; choose a later --date"
        )
    return frame, f"{gathered.events:,} new events, {gathered.refreshed} days rewritten"


async def _rejected(connection: AsyncConnection) -> list[str]:
    """A line for each import that has rejected rows."""
    asked = select(imports.c.source, imports.c.rejected).where(imports.c.rejected > 0).order_by(imports.c.source)
    found = (await connection.execute(asked)).all()
    return [f"{row.rejected} rows of the import {row.source} were rejected: see its .rejects.csv" for row in found]
