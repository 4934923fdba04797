"""Files → hourly performance: `paceline import FILE`. Events: see `reconcile.py`.

Good rows go in, bad rows go to `FILE.rejects.csv` with their line and the reason. Keys repeated within a file
are summed; a later import under the same source replaces that source's value of a key, so the same file again
changes nothing. A run that was cut off is known as such, and repaired by running it again.
"""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import hashlib
import os
import re
import time
from collections.abc import Sequence
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
from db.state import State
from db.tables import brands, imports, performance_hourly
from training.columns import ID_COLUMNS
from training.etl.csv_reader import Unreadable, read_file, summed
from training.etl.row_parser import COUNTS, MICROS, VALUES, Reject, short
from training.progress import Say

TRANSACTION_ROWS = 2_000
"""SQLite has one writer: the ledger must get its turn between two of ours."""
HASHED_TOGETHER = 50_000
SOURCE = re.compile(r"[\x21-\x7e]{1,128}\Z")


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import has done."""

    source: str
    rows: int  # good rows of the file
    keys: int  # after repeated keys were summed
    rejected: int
    brands: int  # that were new
    seconds: float
    rejects_file: Path | None = None


class Source(NamedTuple):
    """What the database knows of one import."""

    sha256: str  # of the file that was last imported under the name; empty until all of it is stored
    simulated: bool

    @property
    def complete(self) -> bool:
        """Whether its last import came to its end."""
        return bool(self.sha256)


def default_source(path: Path) -> str:
    """The file's name without folders: the same name again replaces, another name adds."""
    return re.sub(r"[^\x21-\x7e]", "_", path.name)[-128:]


async def import_file(
    database: Database, path: Path, source: str | None = None, *, state: State | None = None, say: Say = print
) -> Imported:
    """Load a file; see the module's words.

    Args:
        state: where rejects go when they cannot be written beside the file.

    Raises:
        Unreadable: nothing of it can be used, or the source's name cannot.
    """
    started = time.monotonic()
    say(f"reading {path}")
    read = await asyncio.to_thread(read_file, path, say)
    name = source or default_source(path)
    if not SOURCE.match(name):
        raise Unreadable(f"source {short(name)}: use 1–128 printable characters without spaces")
    rejects_file = await asyncio.to_thread(_write_rejects, path, read.rejects, state)
    if read.cut_off:
        say(f"warning: {path}: {read.cut_off}; what could be read is kept")
    if not read.rows:
        why = f"see {rejects_file}" if rejects_file else read.rejects[0].reason
        raise Unreadable(f"{path} has no usable row, {len(read.rejects):,} rejected; {why}")
    known = (await known_sources(database)).get(name)
    if known is not None and known.simulated:
        raise Unreadable(f"source {name!r} is the simulated market's; give another: --source NAME")
    await _record(database, name, simulated=False)
    keys, new = await _store(database, read.frame, name, daily=read.daily, say=say)
    await _record(database, name, read.sha256, read.rows, len(read.rejects), simulated=False)
    return Imported(name, read.rows, keys, len(read.rejects), new, time.monotonic() - started, rejects_file)


async def import_frame(
    database: Database, frame: pd.DataFrame, source: str, *, simulated: bool = False, say: Say = print
) -> Imported:
    """Load rows that are known to be good (the simulated market): canonical columns, `ts` as datetime64 in UTC,
    and optionally `pending_revenue`."""
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
    """Every source of which an import was begun."""
    async with database.read() as connection:
        rows = await connection.execute(select(imports.c.source, imports.c.sha256, imports.c.simulated))
        return {row.source: Source(row.sha256, bool(row.simulated)) for row in rows}


async def is_imported(database: Database, path: Path, source: str | None = None) -> bool:
    """Whether this very file is what was last imported under its source, to its end."""
    known = (await known_sources(database)).get(source or default_source(path))
    return known is not None and known.sha256 == await asyncio.to_thread(_file_sha256, path)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _store(database: Database, frame: pd.DataFrame, source: str, *, daily: bool, say: Say) -> tuple[int, int]:
    """Upsert the summed rows in short transactions. Returns (keys, new brands)."""
    if frame.empty:
        return 0, 0
    sums = await asyncio.to_thread(summed, frame, daily)
    hashes = await asyncio.to_thread(_key_hashes, sums, source, daily)
    order = np.argsort(hashes)  # writers that meet take locks in one order
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
    """Insert; of a row with the same primary key `update` is replaced: all that its key does not decide, or nothing."""
    names = ", ".join(columns)
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(columns))
        primary = ", ".join(column.name for column in table.primary_key)
        then = ", ".join(f"{name} = excluded.{name}" for name in update)
        conflict = f"ON CONFLICT ({primary}) DO " + (f"UPDATE SET {then}" if update else "NOTHING")
        await connection.exec_driver_sql(f"INSERT INTO {table.name} ({names}) VALUES ({marks}) {conflict}", rows)
        return
    # One statement for all rows: the driver sends a statement a row where it does not know the ending by heart.
    # REPLACE, for every MySQL 8 and 9 knows it: `AS new ON DUPLICATE KEY` is not in 8.0.18, `VALUES()` on its way out.
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
    """Every brand that an import meets can bid at once. Returns how many are new."""
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
    """Before the first row, as begun; after the last, as complete."""
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    columns = ("source", "sha256", "rows", "rejected", "simulated", "imported_at")
    quoted = tuple(f"`{name}`" if not database.is_sqlite and name == "rows" else name for name in columns)

    async def write(connection: AsyncConnection) -> None:
        await _upsert(connection, imports, quoted, [(source, sha256, rows, rejected, simulated, now)], quoted[1:])

    await database.transact(write)


def _write_rejects(path: Path, rejects: list[Reject], state: State | None) -> Path | None:
    """Beside the file, or in the state folder where that cannot be written."""
    beside = path.with_name(path.name + ".rejects.csv")
    if not rejects:
        if _may_unlink(beside):  # of an earlier import of a file that has been mended since
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
