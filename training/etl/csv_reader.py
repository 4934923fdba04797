"""Performance files: CSV, CSV.gz and Parquet in the canonical format, read and checked row by row.

Good rows become a frame, bad rows are kept with their line and the reason. What is broken is told, never guessed.
"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from db.fields import ID_PATTERN, MOST_MICROS
from training.columns import ID_COLUMNS
from training.progress import Say

CANONICAL = ("ts", *ID_COLUMNS, "placement_score", "impressions", "clicks", "conversions", "cost", "revenue")
COUNTS = ("impressions", "clicks", "conversions")
MICROS = 1_000_000
CHUNK_LINES = 50_000
BLOCK_BYTES = 1 << 20
HEADER_BYTES = 1 << 16
ID = re.compile(rf"{ID_PATTERN}\Z")
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)
FIRST_YEAR, LAST_YEAR = 1970, 2199
KEY = ("hour", *ID_COLUMNS, "placement_score")
VALUES = ("impressions", "clicks", "conversions", "cost_micros", "revenue_micros", "pending_revenue_micros")

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
        if (rows := _plain_rows(lines, width)) is not None:
            columns = dict(zip(self.header, map(list, zip(*rows, strict=True)), strict=True))
            self.take_columns(range(first_line, first_line + len(lines)), columns, lines)
            return
        good: list[list[str]] = []
        good_numbers: list[int] = []
        good_lines: list[str] = []
        for number, line in enumerate(lines, start=first_line):
            if not line.strip():
                continue
            if '"' in line and line.count('"') % 2:
                self.rejects.append(Reject(number, "a quote is not closed", line))
                continue
            try:
                (row,) = csv.reader([line])
            except csv.Error as error:
                self.rejects.append(Reject(number, str(error).split(" - ")[0], line))
                continue
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
        refuse(seconds < 0, lambda row: f"ts {short(columns['ts'][row])} is not an RFC 3339 time with its zone")
        ids: dict[str, npt.NDArray[Any]] = {}
        for name in ID_COLUMNS:
            default = "unknown" if name in ("device_type", "creative_type") else None
            values = [self._id(value, default) for value in columns[name]]
            ids[name] = np.array(values, dtype=object)
            refuse(
                np.fromiter((value is None for value in values), np.bool_, n),
                lambda row, name=name: f"{name} {short(columns[name][row])} is not an id (1–64 of A-Z a-z 0-9 . _ : -)",  # type: ignore[misc]
            )
        numeric: dict[str, Floats] = {}
        for name in ("placement_score", *COUNTS, "cost", "revenue"):
            numeric[name], broken = _numbers(columns[name])
            refuse(broken, lambda row, name=name: f"{name} {short(columns[name][row])} is not a number")  # type: ignore[misc]
        for name in COUNTS:
            counts = numeric[name] = np.nan_to_num(numeric[name])
            bad = (counts < 0) | (counts != np.floor(counts)) | (counts > MOST_MICROS)
            refuse(bad, lambda row, name=name: f"{name} {short(columns[name][row])} is not a whole number ≥ 0")  # type: ignore[misc]
        refuse(np.isnan(numeric["revenue"]), lambda _row: "revenue is empty")
        with np.errstate(invalid="ignore"):
            refuse(numeric["cost"] < 0, lambda row: f"cost {short(columns['cost'][row])} is below zero")
            for name in ("cost", "revenue"):
                beyond = np.abs(numeric[name]) * MICROS > MOST_MICROS
                refuse(beyond, lambda row, name=name: f"{name} {short(columns[name][row])} is beyond 2^53 micros")  # type: ignore[misc]

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


def _plain_rows(lines: Sequence[str], width: int) -> list[list[str]] | None:
    """The fields of each line; None unless all of them have `width` fields and no quote, as nearly always."""
    if '"' in "".join(lines):
        return None
    try:
        rows = list(csv.reader(lines))
    except csv.Error:
        return None
    return rows if len(rows) == len(lines) and all(len(row) == width for row in rows) else None


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
    if "_" in "".join(values):  # Python's floats may have them
        broken |= np.fromiter(("_" in value for value in values), np.bool_, n)
    for row in np.flatnonzero(~np.isfinite(numbers)).tolist():
        broken[row] |= bool(values[row])  # "nan" and "inf"; an empty one is not known
    numbers[broken] = np.nan
    return numbers, broken


def short(value: str) -> str:
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
        whole, end, rest = (tail + block).rpartition(b"\n")
        tail = rest
        if not end:
            if parser is None and len(tail) > HEADER_BYTES:
                raise Unreadable(f"{path} is not a CSV: its first line does not end")
            continue
        if parser is None:
            head, more, whole = whole.partition(b"\n")
            parser = _Parser(_header(path, head), keep)
            line_number = first_pending = 2
            if not more:
                continue
        lines = whole.decode("utf-8", "replace").split("\n")
        pending += [line.rstrip("\r") for line in lines]
        line_number += len(lines)
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
