"""Step 1, etl: the events since the last night are counted, and the history before the date is read."""

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
    """The history before the night's date; what is odd about it is a warning each.

    Raises:
        NothingToLearn: there is none.
    """
    with night.progress.step("etl") as done:
        frame, news = await _read(night)
        newest = day_of(int(frame["day"].max()))
        done(f"{news}; {len(frame):,} rows of {frame['day'].nunique()} days through {newest}")
    async with night.database.read() as connection:
        rejected = await _rejected(connection)
    for line in [*oddities(frame), *rejected]:
        night.progress.warn(line)
    pyarrow.default_memory_pool().release_unused()  # what the files' columns were read into
    return frame


async def _read(night: Night) -> tuple[pd.DataFrame, str]:
    """(the history before the date, what was new in it)."""
    gathered = await gather(night.database, night.state, night.progress.relay)
    if gathered.newest is None:
        raise NothingToLearn("the database holds no performance yet; import some: python -m training.etl import FILE")
    through = gathered.newest if night.date is None else night.date - dt.timedelta(days=1)
    frame = await read(night.database, night.state, through)
    if frame.empty:
        raise NothingToLearn(f"the database holds no performance before {through + dt.timedelta(days=1)}")
    return frame, f"{gathered.events:,} new events, {gathered.refreshed} days brought up to date"


async def _rejected(connection: AsyncConnection) -> list[str]:
    """A line for each import that has put rows aside."""
    asked = select(imports.c.source, imports.c.rejected).where(imports.c.rejected > 0).order_by(imports.c.source)
    found = (await connection.execute(asked)).all()
    return [f"{row.rejected} rows of the import {row.source} cannot be used: see its .rejects.csv" for row in found]
