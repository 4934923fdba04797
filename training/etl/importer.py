"""Imports performance files into the database: `paceline import FILE`.

Good rows are stored; bad rows are written to `FILE.rejects.csv` with their line and the reason. Keys repeated within a
file are summed; a later import under the same source replaces that source's value of a key, so importing the same file
again changes nothing. An interrupted import is marked as incomplete, and completed by running it again.
"""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from sqlalchemy import Table, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from db.brands import new_brand
from db.performance import PRECEDENCE, hash_parts
from db.session import Database
from db.settings import history_from
from db.state import State
from db.tables import brands, imports, performance_hourly
from db.times import Bounds
from training.columns import ID_COLUMNS
from training.etl.csv_reader import Unreadable, read_file, summed
from training.etl.row_parser import COUNTS, MICROS, VALUES, Reject, short
from training.progress import Say

TRANSACTION_ROWS = 2_000
"""Rows of one transaction: SQLite has one writer, and the ledger must get its turn between two of ours."""
HASHED_TOGETHER = 50_000
SOURCE = re.compile(r"[\x21-\x7e]{1,128}\Z")


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import has done."""

    source: str
    rows: int  # good rows of the file
    keys: int  # after repeated keys were summed
    rejected: int
    brands: int  # that were created
    seconds: float
    rejects_file: Path | None = None  # None: nothing was rejected, or the file could not be written


class Source(NamedTuple):
    """What the database knows of one import."""

    sha256: str  # of the file that was last imported under this source; empty until all of it is stored
    simulated: bool  # whether it is the simulated market

    @property
    def complete(self) -> bool:
        """Whether its last import was completed."""
        return bool(self.sha256)


def default_source(path: Path) -> str:
    """The file's name without folders, so that a file of the same name replaces, and one of another name adds."""
    return re.sub(r"[^\x21-\x7e]", "_", path.name)[-128:]


async def import_file(
    database: Database,
    path: Path,
    source: str | None = None,
    *,
    state: State | None = None,
    say: Say = print,
    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
) -> Imported:
    """Import a file, as the module's docstring says.

    Args:
        source: the name under which a later import replaces this one; None: the file's name.
        state: the folder for rejects that cannot be written beside the file.
        clock: rows of later times are rejected, as those before PACELINE_HISTORY_FROM.

    Raises:
        Unreadable: the file has no usable row, or the source's name is not allowed.
        SQLAlchemyError, OSError: the database failed; run it again to complete the import.
    """
    started = time.monotonic()
    say(f"reading {path}")
    bounds = Bounds.at(clock(), history_from())
    read = await asyncio.to_thread(read_file, path, say, bounds=bounds)
    name = source or default_source(path)
    if not SOURCE.match(name):
        raise Unreadable(f"--source {short(name)} is not allowed: use 1–128 printable ASCII characters without spaces")
    rejects_file = await asyncio.to_thread(_write_rejects, path, read.rejects, state)
    if read.cut_off:
        say(f"warning: {path.name} ends early, {read.cut_off}: the {read.rows:,} rows before it are imported")
    if not read.rows:
        why = f"see {rejects_file}" if rejects_file else f"the first one: {read.rejects[0].reason}"
        raise Unreadable(f"{path} has no usable row, {len(read.rejects):,} rejected; {why}")
    known = (await known_sources(database)).get(name)
    if known is not None and known.simulated:
        raise Unreadable(f"the source {name!r} is that of the simulated market; choose another name: --source NAME")
    await _record(database, name, simulated=False)
    keys, new = await _store(database, read.frame, name, daily=read.daily, say=say)
    await _record(database, name, read.sha256, read.rows, len(read.rejects), simulated=False)
    return Imported(name, read.rows, keys, len(read.rejects), new, time.monotonic() - started, rejects_file)


async def import_frame(
    database: Database, frame: pd.DataFrame, source: str, *, simulated: bool = False, say: Say = print
) -> Imported:
    """Import rows that are known to be good, such as the simulated market.

    Args:
        frame: the canonical columns, `ts` as datetime64 in UTC, money in currency units; optionally `pending_revenue`.
        source: the name under which a later import replaces this one.
    """
    started = time.monotonic()
    hours = pd.to_datetime(frame["ts"], utc=True).dt.tz_localize(None).astype("datetime64[s]").astype(np.int64)
    pending = frame["pending_revenue"] if "pending_revenue" in frame else pd.Series(0.0, index=frame.index)
    ready = pd.DataFrame(
        {
            "hour": hours,
            **{name: frame[name] for name in (*ID_COLUMNS, "placement_score", *COUNTS)},
            "cost_micros": (frame["cost"].astype(np.float64) * MICROS).round(),
            "revenue_micros": (frame["revenue"].astype(np.float64) * MICROS).round(),
            "pending_revenue_micros": (pending.astype(np.float64) * MICROS).round(),
        }
    )
    daily = bool((hours % 86_400 == 0).all())
    digest = hashlib.sha256(pd.util.hash_pandas_object(ready, index=False).to_numpy().tobytes()).hexdigest()
    await _record(database, source, simulated=simulated)
    keys, new = await _store(database, ready, source, daily=daily, say=say)
    await _record(database, source, digest, len(frame), 0, simulated=simulated)
    return Imported(source, len(frame), keys, 0, new, time.monotonic() - started)


async def known_sources(database: Database) -> dict[str, Source]:
    """Every source of which an import was started, by name."""
    async with database.read() as connection:
        rows = await connection.execute(select(imports.c.source, imports.c.sha256, imports.c.simulated))
        return {row.source: Source(row.sha256, bool(row.simulated)) for row in rows}


async def is_imported(database: Database, path: Path, source: str | None = None) -> bool:
    """Whether the last completed import under this source was exactly this file."""
    known = (await known_sources(database)).get(source or default_source(path))
    return known is not None and known.sha256 == await asyncio.to_thread(_file_sha256, path)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _store(database: Database, frame: pd.DataFrame, source: str, *, daily: bool, say: Say) -> tuple[int, int]:
    """Write the summed rows in short transactions; returns (keys, new brands)."""
    if frame.empty:
        return 0, 0
    sums = await asyncio.to_thread(summed, frame, daily)
    hashes = await asyncio.to_thread(_key_hashes, sums, source, daily)
    order = np.argsort(hashes)  # all writers take row locks in the same order, so that they cannot deadlock
    new = await _create_brands(database, sorted(frame["brand_id"].unique().tolist()))
    said_s = time.monotonic()
    for start in range(0, len(order), TRANSACTION_ROWS):
        some = order[start : start + TRANSACTION_ROWS]
        part = _database_rows(sums.iloc[some], hashes[some], source, daily)

        async def write(connection: AsyncConnection, part: list[tuple[Any, ...]] = part) -> None:
            await _upsert(connection, performance_hourly, PERFORMANCE_COLUMNS, part, VALUES)

        await database.transact(write)
        if time.monotonic() - said_s > 1.0:
            said_s = time.monotonic()
            say(f"  {start + len(part):,} of {len(order):,} rows stored")
    return len(order), new


PERFORMANCE_COLUMNS = (
    "key_hash",
    "kind",
    "precedence",
    "source",
    "period",
    "hour",
    "day",
    *ID_COLUMNS,
    "placement_score",
    *VALUES,
)


def _key_hashes(frame: pd.DataFrame, source: str, daily: bool) -> npt.NDArray[np.bytes_]:
    """(n,) `db.performance.key_hash` of every row, 64 bytes each."""
    period = "day" if daily else "hour"
    hashes = np.empty(len(frame), "S64")
    for start in range(0, len(frame), HASHED_TOGETHER):
        part = frame.iloc[start : start + HASHED_TOGETHER]
        hours = [f"{hour}" for hour in part["hour"].to_numpy(np.int64).astype("datetime64[s]").astype("datetime64[h]")]
        scores = ["" if np.isnan(score) else repr(score) for score in _floats(part["placement_score"])]
        places = (part[name].tolist() for name in ID_COLUMNS)
        hashes[start : start + HASHED_TOGETHER] = [
            hash_parts("import", source, period, *key).encode() for key in zip(hours, *places, scores, strict=True)
        ]
    return hashes


def _database_rows(
    frame: pd.DataFrame, hashes: npt.NDArray[np.bytes_], source: str, daily: bool
) -> list[tuple[Any, ...]]:
    """Rows in the order of PERFORMANCE_COLUMNS."""
    hours = frame["hour"].to_numpy(np.int64).astype("datetime64[s]").astype("datetime64[h]")
    stamp = {hour: (f"{str(hour).replace('T', ' ')}:00:00.000000", str(hour)[:10]) for hour in np.unique(hours)}
    head = ("import", PRECEDENCE["import"], source, "day" if daily else "hour")
    ids = [frame[name].tolist() for name in ID_COLUMNS]
    scores = [None if np.isnan(score) else score for score in _floats(frame["placement_score"])]
    costs = [None if np.isnan(cost) else int(cost) for cost in _floats(frame["cost_micros"])]
    values = [costs if name == "cost_micros" else frame[name].astype(np.int64).tolist() for name in VALUES]
    columns = zip(*ids, scores, *values, strict=True)
    return [(key.decode(), *head, *stamp[hour], *rest) for key, hour, rest in zip(hashes, hours, columns, strict=True)]


def _floats(column: pd.Series) -> list[float]:
    return column.astype(np.float64).tolist()


async def _upsert(
    connection: AsyncConnection,
    table: Table,
    columns: Sequence[str],
    rows: list[tuple[Any, ...]],
    update: Sequence[str],
) -> None:
    """Insert rows; where the primary key exists, replace the columns `update`: all that are not in the key, or none."""
    names = ", ".join(columns)
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(columns))
        primary = ", ".join(column.name for column in table.primary_key)
        then = ", ".join(f"{name} = excluded.{name}" for name in update)
        conflict = f"ON CONFLICT ({primary}) DO " + (f"UPDATE SET {then}" if update else "NOTHING")
        await connection.exec_driver_sql(f"INSERT INTO {table.name} ({names}) VALUES ({marks}) {conflict}", rows)
        return
    # One statement for many rows, because the driver's executemany would send one per row for such statements.
    # REPLACE, because all of MySQL 8 and 9 has it: 8.0.18 lacks `AS new ON DUPLICATE KEY`, `VALUES()` is deprecated.
    marks = "(" + ", ".join(["%s"] * len(columns)) + ")"
    verb = "REPLACE" if update else "INSERT"
    then = "" if update else f" ON DUPLICATE KEY UPDATE {columns[0]} = {table.name}.{columns[0]}"
    for start in range(0, len(rows), 500):
        part = rows[start : start + 500]
        await connection.exec_driver_sql(
            f"{verb} INTO {table.name} ({names}) VALUES {', '.join([marks] * len(part))}{then}",
            tuple(value for row in part for value in row),
        )


async def _create_brands(database: Database, brand_ids: list[str]) -> int:
    """Create the brands that do not exist, so that they can bid at once; returns how many."""
    async with database.read() as connection:
        known = {row[0] for row in await connection.execute(text("SELECT brand_id FROM brands"))}
    missing = [brand_id for brand_id in brand_ids if brand_id not in known]
    if not missing:
        return 0
    settings = new_brand().model_dump()
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    columns = ("brand_id", *settings, "created_at", "updated_at")
    rows = [(brand_id, *settings.values(), now, now) for brand_id in missing]

    async def write(connection: AsyncConnection) -> None:
        await _upsert(connection, brands, columns, rows, ())

    await database.transact(write)
    return len(missing)


async def _record(
    database: Database, source: str, sha256: str = "", rows: int = 0, rejected: int = 0, *, simulated: bool
) -> None:
    """Record an import: before the first row as started (empty sha256), after the last one as completed."""
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    columns = ("source", "sha256", "rows", "rejected", "simulated", "imported_at")
    quoted = tuple(f"`{name}`" if not database.is_sqlite and name == "rows" else name for name in columns)

    async def write(connection: AsyncConnection) -> None:
        await _upsert(connection, imports, quoted, [(source, sha256, rows, rejected, simulated, now)], quoted[1:])

    await database.transact(write)


def _write_rejects(path: Path, rejects: list[Reject], state: State | None) -> Path | None:
    """Write the rejects beside the file or, if that fails, into the state folder; returns where, None if nowhere."""
    beside = path.with_name(path.name + ".rejects.csv")
    if not rejects:
        if _may_unlink(beside):  # left by an earlier import, since when the file was corrected
            beside.unlink()
        return None
    places = [beside] + ([state.root / "rejects" / beside.name] if state else [])
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(("line", "reason", "content"))
                writer.writerows((reject.line, reject.reason, reject.content) for reject in rejects)
        except OSError:
            continue
        return place
    return None


def _may_unlink(path: Path) -> bool:
    return path.exists() and os.access(path.parent, os.W_OK)
