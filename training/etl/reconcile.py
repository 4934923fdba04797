"""Checks the performance rows against the events, and writes the history's files: `paceline gather`.

What is new since the last run decides which days are processed: events above a watermark (and the days that late events
affect), imports that were completed since, days with more or fewer rows than before. The events of those days are
counted again and compared with the rows that the ledger wrote; a difference is repaired, with a warning. Then each of
those days is written to its file. The watermark is stored only when all of this is done: the next run finishes a killed
one, and a run that finds nothing new writes nothing.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import pandas as pd
from filelock import AsyncFileLock, Timeout
from sqlalchemy import Connection, func, select

from db import tables as t
from db.rows import CHUNK, chunks
from db.schema import confirm_revision
from db.session import Database
from db.state import State
from training.etl.parquet_store import Manifest, Partition, Partitions, frame_of, table_of
from training.etl.reader import Rows, day_of_rows, read_day, read_history, read_rows
from training.etl.recount import Difference, Recount, recount, repair
from training.etl.watermark import BrandDays, Watermark, all_days, touched
from training.progress import Say

PATIENCE_S = 3600.0
"""How long MySQL may take for one query, which may read millions of events."""

EVENTS_TOGETHER = 200_000
"""Most events of the brands that are counted at a time, since they are held in memory."""

SHOWN = 20
"""Differences that get a warning each."""

AHEAD = 2
"""Days that are requested from MySQL while one is counted here. Not with SQLite, which works in this process anyway."""

_P, _I = t.performance_hourly.c, t.imports.c


class Gathered(NamedTuple):
    """What a run has done, and what the history has now."""

    events: int  # new since the last run; with `everything`, all
    brand_days: int  # (brand, day) pairs that were counted again
    counted_rows: int  # rows that their events add up to
    repaired: int  # rows that differed; there should be none
    unfounded: int  # (brand, day) pairs with rows but no event; left as they are
    refreshed: int  # days whose file was written
    vanished: int  # days that have no rows any more
    days: int  # with rows
    rows: int  # of the history, those that count
    newest: dt.date | None  # the last day with rows
    seconds: float


@dataclass(slots=True)
class _Plan:
    """What a run has to process, as of one moment."""

    watermark: Watermark
    sources: dict[str, str]  # completed imports, as in the manifest
    stored: dict[dt.date, int]  # rows by day
    touched: BrandDays  # what must be counted again
    refresh: set[dt.date]  # days whose file must be written
    known: Mapping[dt.date, Partition] = field(default_factory=dict)  # files that stay, if they are intact

    @property
    def events(self) -> int:
        return sum(sum(brands.values()) for brands in self.touched.values())


async def gather(
    database: Database, state: State, say: Say = print, *, everything: bool = False, patience_s: float = PATIENCE_S
) -> Gathered:
    """Bring the performance rows up to date with the events, and `STATE/history` up to date with the rows.

    Called once a night before `read`; waits for another run on the same state folder. Events may arrive meanwhile: what
    is too late for this run is new to the next.

    Args:
        database: at this program's migration.
        state: its `history` folder holds the files.
        say: shows progress, a line at a time, and every repair (`warning: …`).
        everything: count all events again and write all days.
        patience_s: how long MySQL may take for one query.

    Raises:
        CannotMigrate: the database is at the migration of another release.
        SQLAlchemyError, OSError: the database or the folder failed; run it again to finish.
    """
    async with _alone(state, say):
        return await _Run(database, Partitions(state), say, patience_s).run(everything)


async def read(database: Database, state: State, through: dt.date) -> pd.DataFrame:
    """The history through day `through` as of the last `gather`, read from the files: the frame of `read_history`.

    A day whose file is missing or damaged is read from the database; before the first `gather`, every day is.

    Returns:
        The columns that `reader.py` lists: ids as shared objects, the others int64 or float64.
    """
    files = Partitions(state)
    manifest = await asyncio.to_thread(files.manifest)
    if manifest is None or manifest.database != identity(database):
        return await read_history(database, through)
    tables = []
    for day, part in sorted(manifest.days.items()):
        if day > through:
            break
        table = await asyncio.to_thread(files.read, day, part)
        if table is None:
            table = table_of(await database.run_read(partial(read_day, day=day)))
        tables.append(table)
    return await asyncio.to_thread(frame_of, tables)


def identity(database: Database) -> str:
    """A hash of the database's URL without its password, to notice that the files were made from another database."""
    address = database.engine.url.render_as_string(hide_password=True)
    return hashlib.sha256(address.encode()).hexdigest()


class _Run:
    def __init__(self, database: Database, files: Partitions, say: Say, patience_s: float) -> None:
        self._database, self._files, self._say, self._patience_s = database, files, say, patience_s
        self._identity = identity(database)
        self._counted_rows = self._brand_days = self._shown = 0
        self._differences = self._unfounded = self._done = 0
        self._said_s = time.monotonic()

    async def run(self, everything: bool) -> Gathered:
        began = time.monotonic()
        known = await asyncio.to_thread(self._files.manifest)
        plan = await self._database.run_snapshot(
            partial(self._plan, known=known, everything=everything), self._patience_s
        )
        plan.refresh |= await asyncio.to_thread(self._broken, plan)
        days = sorted(plan.refresh)
        if days:
            self._say(f"{plan.events:,} new events, {len(days):,} days to check and write")
        parts = {day: part for day, part in plan.known.items() if day in plan.stored}
        ahead = 0 if self._database.is_sqlite else AHEAD
        async with aclosing(_ahead(days, ahead, partial(self._look, plan=plan))) as looks:
            async for day, found in looks:
                rows = await self._repaired(day, found)
                parts.pop(day, None)
                if len(rows["hour"]):
                    parts[day] = await asyncio.to_thread(self._write, day, rows)
                self._done += 1
                self._progress(f"{day}: {self._done:,} of {len(days):,} days")
        if self._differences > self._shown:
            more = self._differences - self._shown
            self._say(f"warning: {more:,} more rows differed from their events and were repaired")
        if self._unfounded:
            self._say(
                f"warning: for {self._unfounded:,} (brand, day) pairs there are rows but no event (deleted?); "
                "the rows stay as they are"
            )
        manifest = Manifest(self._identity, plan.watermark, plan.sources, parts)
        if manifest != known:
            await asyncio.to_thread(self._files.vouch, manifest)
            await asyncio.to_thread(self._files.sweep, parts)
        return Gathered(
            events=plan.events,
            brand_days=self._brand_days,
            counted_rows=self._counted_rows,
            repaired=self._differences,
            unfounded=self._unfounded,
            refreshed=len(plan.refresh & parts.keys()),
            vanished=len(plan.known.keys() - parts.keys()),
            days=len(parts),
            rows=sum(part.rows for part in parts.values()),
            newest=max(parts, default=None),
            seconds=round(time.monotonic() - began, 3),
        )

    def _plan(self, connection: Connection, known: Manifest | None, everything: bool) -> _Plan:
        confirm_revision(connection)
        watermark = Watermark.of(connection)
        sources = {
            row.source: f"{row.sha256} {row.rows} {row.imported_at.isoformat()}"
            for row in connection.execute(select(t.imports))
            if row.sha256  # an incomplete import may change without notice, so it counts as new each time
        }
        unfinished = set(connection.execute(select(_I.source).where(_I.sha256 == "")).scalars())
        by_day = connection.execute(select(_P.day, func.count()).group_by(_P.day))
        stored: dict[dt.date, int] = dict(by_day.all())
        is_ours = known is not None and known.database == self._identity and known.watermark.seq <= watermark.seq
        if known is None or everything or not is_ours or not known.watermark.is_of(connection):
            bear_on = all_days(connection)
            return _Plan(watermark, sources, stored, bear_on, {*stored, *bear_on})
        bear_on = touched(connection, known.watermark, watermark)
        changed = {source for source, content in sources.items() if known.sources.get(source) != content} | unfinished
        refresh = set(bear_on)
        if known.sources.keys() - sources.keys() - unfinished:  # deleted imports: which days they had is not known
            refresh |= set(stored)
        refresh |= {day for day, number in stored.items() if day not in known.days or known.days[day].stored != number}
        for some in chunks(sorted(changed)):
            query = select(_P.day).where(_P.kind == "import", _P.source.in_(some)).distinct()
            refresh |= set(connection.execute(query).scalars())
        return _Plan(watermark, sources, stored, bear_on, refresh, known.days)

    def _broken(self, plan: _Plan) -> set[dt.date]:
        """Days whose file should stay, but is missing or damaged."""
        staying = [day for day in plan.known if day in plan.stored and day not in plan.refresh]
        return {day for day in staying if not self._files.is_whole(day, plan.known[day])}

    async def _look(self, day: dt.date, plan: _Plan) -> Recount:
        """A day's rows, and how they differ from the events of the brands that must be counted again."""
        batches = list(_batches(plan.touched.get(day, {})))
        return await self._database.run_snapshot(partial(recount, day=day, batches=batches), self._patience_s)

    async def _repaired(self, day: dt.date, found: Recount) -> Rows:
        """The day's rows, after repairing those that differ."""
        self._brand_days += found.brands
        self._counted_rows += found.rows
        self._unfounded += found.unfounded
        if not found.differences:
            return found.stored
        wrong = sorted({one.key.place.brand_id for one in found.differences})
        for some in chunks(wrong):
            for one in await self._database.run_write(partial(repair, day=day, brand_ids=some)):
                self._tell(one)
        return await self._database.run_snapshot(partial(read_rows, day=day), self._patience_s)

    def _write(self, day: dt.date, rows: Rows) -> Partition:
        return self._files.write(day, day_of_rows(rows, day))

    def _tell(self, difference: Difference) -> None:
        self._differences += 1
        if self._shown < SHOWN:
            self._shown += 1
            self._say(f"warning: a performance row differed from its events and was repaired: {difference}")

    def _progress(self, line: str) -> None:
        if time.monotonic() - self._said_s > 1.0:
            self._said_s = time.monotonic()
            self._say(f"  {line}")


async def _ahead(
    days: Sequence[dt.date], ahead: int, look: Callable[[dt.date], Awaitable[Recount]]
) -> AsyncGenerator[tuple[dt.date, Recount]]:
    """(day, recount) in order of the days; the next ones are requested while one is worked on."""
    running: deque[tuple[dt.date, asyncio.Future[Recount]]] = deque()
    try:
        for day in days:
            running.append((day, asyncio.ensure_future(look(day))))
            if len(running) > ahead:
                first, found = running[0]
                yield first, await found
                running.popleft()
        for day, found in running:
            yield day, await found
    finally:
        for _, found in running:
            found.cancel()
        await asyncio.gather(*(found for _, found in running), return_exceptions=True)


def _batches(brands: Mapping[str, int]) -> Iterator[list[str]]:
    """Batches of brands that have at most EVENTS_TOGETHER events together, or are a single brand."""
    batch: list[str] = []
    events = 0
    for brand_id in sorted(brands):
        if batch and (events + brands[brand_id] > EVENTS_TOGETHER or len(batch) == CHUNK):
            yield batch
            batch, events = [], 0
        batch.append(brand_id)
        events += brands[brand_id]
    if batch:
        yield batch


@asynccontextmanager
async def _alone(state: State, say: Say) -> AsyncIterator[None]:
    """Hold the state folder's history lock, so that one run works at a time; it is released when its process ends."""
    await asyncio.to_thread(state.make)
    lock = AsyncFileLock(state.root / "history.lock")
    try:
        await lock.acquire(blocking=False)
    except Timeout:
        say(f"another run is writing {state.root}/history; waiting until it is over")
        await lock.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        await lock.release()
