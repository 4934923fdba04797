"""Files → hourly performance: `python -m training.etl import FILE [--source NAME]`.

Good rows go in, bad rows go to `FILE.rejects.csv` with their line and the reason. Keys repeated within a file
are summed; a later import under the same source replaces that source's value of a key, so the same file again
changes nothing. A run that was cut off is known as such, and repaired by running it again.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import datetime as dt
import hashlib
import json
import os
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from sqlalchemy import Table, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from db import BadSetting, Database, State, database_settings
from db.brands import MOST_MICROS, new_brand
from db.migrate import CannotMigrate, upgrade
from db.performance import PRECEDENCE, hash_parts
from db.tables import brands, imports, performance_hourly
from training.features import ID_COLUMNS

CANONICAL = ("ts", *ID_COLUMNS, "placement_score", "impressions", "clicks", "conversions", "cost", "revenue")
COUNTS = ("impressions", "clicks", "conversions")
MICROS = 1_000_000
CHUNK_LINES = 50_000
TRANSACTION_ROWS = 2_000
"""SQLite has one writer: the ledger must get its turn between two of ours."""
BLOCK_BYTES = 1 << 20
HEADER_BYTES = 1 << 16
ID = re.compile(r"[A-Za-z0-9._:\-]{1,64}\Z")
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)
SOURCE = re.compile(r"[\x21-\x7e]{1,128}\Z")
FIRST_YEAR, LAST_YEAR = 1970, 2199
KEY = ("hour", *ID_COLUMNS, "placement_score")
VALUES = ("impressions", "clicks", "conversions", "cost_micros", "revenue_micros", "pending_revenue_micros")

Say = Callable[[str], None]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class Unreadable(Exception):
    """Nothing of the file can be used. The text says why, in a line."""


@dataclass(frozen=True, slots=True)
class Reject:
    line: int  # of the file, the header is 1
    reason: str
    content: str


@dataclass(slots=True)
class Read:
    """What a file holds."""

    frame: pd.DataFrame  # KEY (hour: seconds since 1970) + VALUES; keys may repeat until `summed`
    rows: int
    rejects: list[Reject]
    daily: bool
    sha256: str
    cut_off: str | None = None  # why the file ends early
    header: list[str] = field(default_factory=list)
    kept: list[list[str]] = field(default_factory=list)  # with `keep`: the frame's rows as they stand in the file


@dataclass(frozen=True, slots=True)
class Imported:
    source: str
    rows: int  # good rows of the file
    keys: int  # after repeated keys were summed
    rejected: int
    brands: int  # that were new
    seconds: float
    rejects_file: Path | None = None


class Source(NamedTuple):
    """What the memory knows of one import."""

    sha256: str  # of the file that was last imported under the name; empty until all of it is stored
    simulated: bool

    @property
    def complete(self) -> bool:
        return bool(self.sha256)


@dataclass(slots=True)
class _Parser:
    """Turns lines into columns, a chunk at a time, and remembers what it refused."""

    header: list[str]
    keep: bool = False
    kept: list[list[str]] = field(default_factory=list)  # good rows as they stand in the file, if they are to be kept
    rejects: list[Reject] = field(default_factory=list)
    frames: list[pd.DataFrame] = field(default_factory=list)
    rows: int = 0
    _times: dict[str, int | None] = field(default_factory=dict)
    _ids: dict[str, str | None] = field(default_factory=dict)

    def take(self, first_line: int, lines: list[str]) -> None:
        """Rows as text."""
        width = len(self.header)
        numbers: list[int] = []
        kept: list[str] = []
        for number, line in enumerate(lines, start=first_line):
            if not line.strip():
                continue
            if '"' in line and line.count('"') % 2:
                self.rejects.append(Reject(number, "a quote is not closed", line))
                continue
            numbers.append(number)
            kept.append(line)
        good: list[list[str]] = []
        good_numbers: list[int] = []
        good_lines: list[str] = []
        for number, line, row in zip(numbers, kept, csv.reader(kept), strict=True):
            if len(row) == width:
                good.append(row)
                good_numbers.append(number)
                good_lines.append(line)
            else:
                self.rejects.append(Reject(number, f"{len(row)} fields instead of {width}", line))
        if good:
            columns = dict(zip(self.header, map(list, zip(*good, strict=True)), strict=True))
            self.take_columns(good_numbers, columns, good_lines)

    def take_columns(self, numbers: Sequence[int], columns: dict[str, list[str]], lines: Sequence[str]) -> None:
        """Fields as text, column by column."""
        n = len(numbers)
        reasons: list[str | None] = [None] * n

        def refuse(bad: Bools, reason: Callable[[int], str]) -> None:
            for row in np.flatnonzero(bad).tolist():
                if reasons[row] is None:
                    reasons[row] = reason(row)

        seconds = np.fromiter((-1 if (at := self._time(value)) is None else at for value in columns["ts"]), np.int64, n)
        refuse(seconds < 0, lambda row: f"ts {_short(columns['ts'][row])} is not an RFC 3339 time with its zone")
        ids: dict[str, npt.NDArray[Any]] = {}
        for name in ID_COLUMNS:
            default = "unknown" if name in ("device_type", "creative_type") else None
            values = [self._id(value, default) for value in columns[name]]
            ids[name] = np.array(values, dtype=object)
            refuse(
                np.fromiter((value is None for value in values), np.bool_, n),
                lambda row, name=name: (
                    f"{name} {_short(columns[name][row])} is not an id (1–64 of A-Z a-z 0-9 . _ : -)"
                ),  # type: ignore[misc]
            )
        numeric: dict[str, Floats] = {}
        for name in ("placement_score", *COUNTS, "cost", "revenue"):
            numeric[name], broken = _numbers(columns[name])
            refuse(broken, lambda row, name=name: f"{name} {_short(columns[name][row])} is not a number")  # type: ignore[misc]
        for name in COUNTS:
            counts = numeric[name] = np.nan_to_num(numeric[name])
            bad = (counts < 0) | (counts != np.floor(counts)) | (counts > MOST_MICROS)
            refuse(bad, lambda row, name=name: f"{name} {_short(columns[name][row])} is not a whole number ≥ 0")  # type: ignore[misc]
        refuse(np.isnan(numeric["revenue"]), lambda _row: "revenue is empty")
        with np.errstate(invalid="ignore"):
            refuse(numeric["cost"] < 0, lambda row: f"cost {_short(columns['cost'][row])} is below zero")
            for name in ("cost", "revenue"):
                beyond = np.abs(numeric[name]) * MICROS > MOST_MICROS
                refuse(beyond, lambda row, name=name: f"{name} {_short(columns[name][row])} is beyond 2^53 micros")  # type: ignore[misc]

        good = np.fromiter((reason is None for reason in reasons), np.bool_, n)
        if self.keep:
            rows = list(zip(*(columns[name] for name in self.header), strict=True))
            self.kept += [list(rows[row]) for row in np.flatnonzero(good).tolist()]
        for row in np.flatnonzero(~good).tolist():
            self.rejects.append(Reject(numbers[row], str(reasons[row]), lines[row]))
        zero = np.zeros(n)
        frame = pd.DataFrame(
            {
                "hour": seconds,
                **ids,
                "placement_score": numeric["placement_score"] + 0.0,
                **{name: numeric[name] for name in COUNTS},
                "cost_micros": np.round(numeric["cost"] * MICROS),
                "revenue_micros": np.round(numeric["revenue"] * MICROS),
                "pending_revenue_micros": zero,
            }
        )
        self.rows += int(good.sum())
        self.frames.append(frame[good])

    def _time(self, value: str) -> int | None:
        if value not in self._times:
            if len(self._times) > 1_000_000:
                self._times.clear()
            self._times[value] = _seconds(value)
        return self._times[value]

    def _id(self, value: str, default: str | None) -> str | None:
        if not value:
            return default
        if value not in self._ids:
            self._ids[value] = value if ID.match(value) else None
        return self._ids[value]


def _seconds(value: str) -> int | None:
    if not TIMESTAMP.match(value):
        return None
    # Python knows no more than six decimals.
    trimmed = re.sub(r"(\.\d{6})\d+", r"\1", value.upper().replace(" ", "T"))
    try:
        at = dt.datetime.fromisoformat(trimmed).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None
    return int(at.timestamp()) if FIRST_YEAR <= at.year <= LAST_YEAR else None


def _numbers(values: Sequence[str]) -> tuple[Floats, Bools]:
    """(n,) floats, NaN for empty; (n,) what is no finite number. Parsed as Python does: a bid's score must match."""
    n = len(values)
    broken = np.zeros(n, np.bool_)
    try:
        numbers = np.fromiter((float(value) if value else np.nan for value in values), np.float64, n)
    except ValueError:
        numbers = np.full(n, np.nan)
        for row, value in enumerate(values):
            try:
                numbers[row] = float(value) if value else np.nan
            except ValueError:
                broken[row] = True
    odd = np.fromiter(("_" in value for value in values), np.bool_, n)
    empty = np.fromiter((not value for value in values), np.bool_, n)
    broken |= odd | (~np.isfinite(numbers) & ~empty)
    numbers[broken] = np.nan
    return numbers, broken


def _short(value: str) -> str:
    return repr(value if len(value) <= 40 else value[:37] + "…")


def read_file(path: Path, say: Say = print, *, keep: bool = False) -> Read:
    """Parse and check a CSV, CSV.gz or Parquet file in the canonical format.

    Raises:
        Unreadable: it cannot be opened, is empty, or is something else.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise Unreadable(f"cannot read {path}: {error.strerror or error}") from None
    if not head:
        raise Unreadable(f"{path} is empty")
    if head == b"PAR1":
        parser, digest, cut_off = _read_parquet(path, keep)
    else:
        parser, digest, cut_off = _read_csv(path, head.startswith(b"\x1f\x8b"), say, keep)
    frames = [frame for frame in parser.frames if len(frame)]
    if frames:
        frame = pd.concat(frames, ignore_index=True)
    elif parser.frames:
        frame = parser.frames[0]
    else:
        if not parser.rejects and cut_off is None:
            raise Unreadable(f"{path} has a header and no rows")
        frame = pd.DataFrame(columns=[*KEY, *VALUES])
    daily = bool((frame["hour"].astype(np.int64) % 86_400 == 0).all())
    return Read(
        frame,
        parser.rows,
        sorted(parser.rejects, key=lambda reject: reject.line),
        daily,
        digest,
        cut_off,
        parser.header,
        parser.kept,
    )


def _read_csv(path: Path, compressed: bool, say: Say, keep: bool) -> tuple[_Parser, str, str | None]:
    digest = hashlib.sha256()
    stream = _Stream(path, compressed, digest)
    parser: _Parser | None = None
    line_number, tail = 1, b""
    pending: list[str] = []
    first_pending = 2

    def flush() -> None:
        nonlocal pending, first_pending
        if parser is not None and pending:
            parser.take(first_pending, pending)
            if line_number > 4 * CHUNK_LINES:
                say(f"  {line_number - 1:,} lines read, {len(parser.rejects):,} rejected")
        first_pending, pending = line_number, []

    for block in stream:
        lines = (tail + block).split(b"\n")
        tail = lines.pop()
        if parser is None:
            if lines:
                parser = _Parser(_header(path, lines.pop(0)), keep)
                line_number = first_pending = 2
            elif len(tail) > HEADER_BYTES:
                raise Unreadable(f"{path} is not a CSV: its first line does not end")
        for line in lines:
            pending.append(line.decode("utf-8", "replace").rstrip("\r"))
            line_number += 1
            if len(pending) >= CHUNK_LINES:
                flush()
    if parser is None:
        if stream.broken:
            raise Unreadable(f"{path} cannot be unpacked: {stream.broken}")
        if not tail:
            raise Unreadable(f"{path} is empty")
        parser = _Parser(_header(path, tail), keep)
        tail = b""
    if tail and stream.broken is None:
        pending.append(tail.decode("utf-8", "replace").rstrip("\r"))
        line_number += 1
    flush()
    if stream.broken is not None:
        cut = tail.decode("utf-8", "replace")
        parser.rejects.append(Reject(line_number, f"the file ends early here: {stream.broken}", cut))
    return parser, digest.hexdigest(), stream.broken


class _Stream:
    """A file's blocks, unpacked. A broken archive gives what can be read, then says so in `broken`."""

    def __init__(self, path: Path, compressed: bool, digest: Any) -> None:
        self._path, self._compressed, self._digest = path, compressed, digest
        self.broken: str | None = None

    def __iter__(self) -> Iterator[bytes]:
        unpacker = zlib.decompressobj(wbits=31)
        try:
            with self._path.open("rb") as file:
                while raw := file.read(BLOCK_BYTES):
                    self._digest.update(raw)
                    if not self._compressed:
                        yield raw
                        continue
                    while raw:
                        yield unpacker.decompress(raw, BLOCK_BYTES)
                        raw = unpacker.unconsumed_tail
                        if unpacker.eof:
                            raw = unpacker.unused_data
                            if raw.strip(b"\0"):
                                unpacker = zlib.decompressobj(wbits=31)
                            else:
                                break
            if self._compressed and not unpacker.eof:
                self.broken = "the archive is cut off"
        except zlib.error:
            self.broken = "the archive is damaged"
        except OSError as error:
            self.broken = str(error.strerror or error)


def _header(path: Path, line: bytes) -> list[str]:
    try:
        first = line.decode("utf-8-sig").rstrip("\r")
    except UnicodeDecodeError:
        raise Unreadable(f"{path} is not a CSV in UTF-8") from None
    if "\0" in first:
        raise Unreadable(f"{path} is not a CSV")
    names = [name.strip() for name in next(csv.reader([first]), [])]
    _check_header(path, names)
    return names


def _check_header(path: Path, names: list[str]) -> None:
    missing = [name for name in CANONICAL if name not in names]
    if missing:
        raise Unreadable(f"{path} has a wrong header: {', '.join(missing)} missing; expected {','.join(CANONICAL)}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Unreadable(f"{path} has a wrong header: {', '.join(twice)} twice")


def _read_parquet(path: Path, keep: bool) -> tuple[_Parser, str, str | None]:
    import pyarrow
    import pyarrow.parquet

    digest = hashlib.sha256()
    with path.open("rb") as raw:
        while block := raw.read(BLOCK_BYTES):
            digest.update(block)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            _check_header(path, names)
            parser = _Parser(list(CANONICAL), keep)
            line = 2
            for batch in file.iter_batches(batch_size=CHUNK_LINES, columns=list(CANONICAL)):
                columns = {name: [_as_text(value) for value in batch.column(name).to_pylist()] for name in CANONICAL}
                lines = [",".join(row) for row in zip(*columns.values(), strict=True)]
                parser.take_columns(range(line, line + len(lines)), columns, lines)
                line += len(lines)
    except (pyarrow.ArrowException, OSError) as error:
        raise Unreadable(f"{path} is not a Parquet file that can be read: {str(error).splitlines()[0]}") from None
    return parser, digest.hexdigest(), None


def _as_text(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, dt.datetime):
        return (value if value.tzinfo else value.replace(tzinfo=dt.UTC)).isoformat()
    return str(value)


def summed(frame: pd.DataFrame, daily: bool) -> pd.DataFrame:
    """One row a key. A cost is known where any of the key's rows knew it.

    A sum beyond 2^53 micros is cut there: no row of its own is wrong, and no JSON reader could keep it.
    """
    period_s = 86_400 if daily else 3_600
    keyed = frame.assign(hour=frame["hour"].astype(np.int64) // period_s * period_s)
    grouped = keyed.groupby(list(KEY), dropna=False, sort=False)[list(VALUES)]
    sums = grouped.sum(min_count=1)  # NaN only where nothing was known
    return sums.clip(-MOST_MICROS, MOST_MICROS).reset_index()


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
        raise Unreadable(f"source {_short(name)}: use 1–128 printable characters without spaces")
    rejects_file = await asyncio.to_thread(_write_rejects, path, read.rejects, state)
    if read.cut_off:
        say(f"  {path.name}: {read.cut_off}; what could be read is kept")
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
    rows = await asyncio.to_thread(_database_rows, summed(frame, daily), source, daily, database.is_sqlite)
    new = await _create_brands(database, sorted(frame["brand_id"].unique().tolist()))
    said = time.monotonic()
    for start in range(0, len(rows), TRANSACTION_ROWS):
        part = rows[start : start + TRANSACTION_ROWS]

        async def write(connection: AsyncConnection, part: list[tuple[Any, ...]] = part) -> None:
            await _upsert(connection, performance_hourly, PERFORMANCE_COLUMNS, part, VALUES)

        await database.transact(write)
        if time.monotonic() - said > 1.0:
            said = time.monotonic()
            say(f"  {start + len(part):,} of {len(rows):,} rows stored")
    return len(rows), new


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


def _database_rows(frame: pd.DataFrame, source: str, daily: bool, is_sqlite: bool) -> list[tuple[Any, ...]]:
    """Rows in the order of PERFORMANCE_COLUMNS, sorted by key: writers that meet take locks in one order."""
    period = "day" if daily else "hour"
    hours = pd.to_datetime(frame["hour"].to_numpy(np.int64), unit="s")
    distinct = {hour: hour for hour in hours.unique()}
    stamp = {hour: (f"{hour:%Y-%m-%d %H}:00:00.000000", f"{hour:%Y-%m-%d}", f"{hour:%Y-%m-%dT%H}") for hour in distinct}
    stamps = [stamp[hour] for hour in hours]
    ids = [frame[name].tolist() for name in ID_COLUMNS]
    scores = [None if np.isnan(score) else score for score in frame["placement_score"].astype(np.float64).tolist()]
    values = [frame[name].astype(np.float64).tolist() for name in VALUES]
    rows = []
    for (hour, day, key_hour), *place, score, impressions, clicks, conversions, cost, revenue, pending in zip(
        stamps, *ids, scores, *values, strict=True
    ):
        key = hash_parts("import", source, period, key_hour, *place, "" if score is None else repr(score))
        money = (None if np.isnan(cost) else int(cost), int(revenue), int(pending))
        head = (key, "import", PRECEDENCE["import"], source, period, hour, day)
        rows.append((*head, *place, score, int(impressions), int(clicks), int(conversions), *money))
    rows.sort()
    return rows


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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.etl", description="Files → hourly performance.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("import", help="load a performance CSV, CSV.gz or Parquet file")
    command.add_argument("file", type=Path)
    command.add_argument("--source", help="what a later import replaces (default: the file's name)")
    command.add_argument("--json", action="store_true", help="end with one line of JSON")
    chosen = parser.parse_args(arguments)
    try:
        settings = database_settings()
        State.here().root.mkdir(parents=True, exist_ok=True)
        assert settings.url is not None
        upgrade(settings.url)
        done = asyncio.run(_import(Database(settings), chosen.file, chosen.source))
    except (BadSetting, CannotMigrate, Unreadable) as error:
        print(error, file=sys.stderr)
        return 1
    except (SQLAlchemyError, OSError) as error:
        print(f"import failed: {str(getattr(error, 'orig', None) or error).splitlines()[0]}", file=sys.stderr)
        return 1
    where = f" → {done.rejects_file}" if done.rejects_file else ""
    print(
        f"imported {done.rows:,} rows as {done.keys:,} keys under source {done.source!r}, {done.brands} new brands, "
        f"{done.rejected:,} rejected{where}, {done.seconds:.1f} s"
    )
    if chosen.json:
        summary = {name: getattr(done, name) for name in ("source", "rows", "keys", "rejected", "brands", "seconds")}
        print(json.dumps(summary | {"rejects_file": str(done.rejects_file) if done.rejects_file else None}))
    return 0


async def _import(database: Database, path: Path, source: str | None) -> Imported:
    try:
        return await import_file(database, path, source, state=State.here())
    finally:
        await database.close()


if __name__ == "__main__":
    sys.exit(main())
