"""Reads performance files (CSV, CSV.gz, Parquet) in the canonical format, and checks every row.

Good rows become a frame; bad rows are collected with their line number and the reason (`row_parser.py`).
"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from db.errors import UserError, file_error
from db.fields import MOST_MICROS
from db.times import Bounds
from training.etl.row_parser import CANONICAL, KEY, VALUES, Parser, Reject
from training.progress import Say

CHUNK_LINES = 50_000
BLOCK_BYTES = 1 << 20
HEADER_BYTES = 1 << 16


class Unreadable(UserError):
    """The file cannot be used at all. The text says why, in one line."""


@dataclass(slots=True)
class Read:
    """What a file holds."""

    frame: pd.DataFrame  # KEY (hour: seconds since 1970) + VALUES; keys may repeat until `summed`
    rows: int  # good ones
    rejects: list[Reject]
    daily: bool  # whether all times are at midnight UTC
    sha256: str  # of the file
    cut_off: str | None = None  # why the file ends early; None: it does not
    header: list[str] = field(default_factory=list)
    kept: list[list[str]] = field(default_factory=list)  # with `keep`: the fields of the frame's rows, as in the file


def first_bytes(path: Path) -> bytes:
    """The first four bytes, which tell the format.

    Raises:
        Unreadable: it cannot be opened, is empty, or is an archive.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise Unreadable(f"cannot read {file_error(error)}") from None
    if not head:
        raise Unreadable(f"{path} is empty")
    if head == b"PK\x03\x04":
        raise Unreadable(f"{path} is a ZIP archive or an Excel file: unpack it, or save it as CSV")
    return head


def read_file(path: Path, say: Say = print, *, keep: bool = False, bounds: Bounds | None = None) -> Read:
    """Parse and check a CSV, CSV.gz or Parquet file in the canonical format.

    Args:
        say: told how many lines are read.
        keep: also keep good rows' fields as text.
        bounds: rows of other times are rejected; None: none is.

    Raises:
        Unreadable: it cannot be opened, is empty, or is in another format.
    """
    head = first_bytes(path)
    if head == b"PAR1":
        parser, digest, cut_off = _read_parquet(path, keep, bounds)
    else:
        parser, digest, cut_off = _read_csv(path, head.startswith(b"\x1f\x8b"), say, keep, bounds)
    frames = [frame for frame in parser.frames if len(frame)]
    if frames:
        frame = pd.concat(frames, ignore_index=True)
    elif parser.frames:
        frame = parser.frames[0]
    else:
        if not parser.rejects and cut_off is None:
            raise Unreadable(f"{path} has a header, but no rows")
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


def _read_csv(
    path: Path, compressed: bool, say: Say, keep: bool, bounds: Bounds | None
) -> tuple[Parser, str, str | None]:
    digest = hashlib.sha256()
    stream = _Stream(path, compressed, digest)
    parser: Parser | None = None
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
                raise Unreadable(f"{path} is not a CSV: its first line is longer than {HEADER_BYTES:,} bytes")
            continue
        if parser is None:
            head, more, whole = whole.partition(b"\n")
            parser = Parser(_header(path, head), keep, bounds)
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
            raise Unreadable(f"{path} cannot be unpacked (gzip): {stream.broken}")
        if not tail:
            raise Unreadable(f"{path} is empty")
        parser = Parser(_header(path, tail), keep, bounds)
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
    """A file's blocks, unpacked. A damaged archive gives what can be read; `broken` then says what is wrong."""

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
                self.broken = "the archive is incomplete"
        except zlib.error:
            self.broken = "the archive is damaged"
        except OSError as error:
            self.broken = str(error.strerror or error)


def _header(path: Path, line: bytes) -> list[str]:
    try:
        first = line.decode("utf-8-sig").rstrip("\r")
    except UnicodeDecodeError:
        raise Unreadable(f"{path} is not text in UTF-8: save it as CSV in this encoding") from None
    if "\0" in first:
        raise Unreadable(f"{path} is not a CSV: its first line has binary data")
    if "\r" in first:
        raise Unreadable(f"{path} is not a CSV: its lines end as on old Macs (CR alone); save it with LF or CRLF")
    for sign, name in ((";", "semicolons"), ("\t", "tabs")):
        if first.count(sign) >= len(CANONICAL) - 1 > first.count(","):
            raise Unreadable(f"{path} has {name} between its fields: save it with commas, and with points in numbers")
    try:
        names = [name.strip() for name in next(csv.reader([first]), [])]
    except csv.Error as error:
        raise Unreadable(f"{path} is not a CSV: its first line cannot be read, {error}") from None
    _check_header(path, names)
    return names


def _check_header(path: Path, names: list[str]) -> None:
    missing = [name for name in CANONICAL if name not in names]
    if missing:
        expected = ",".join(CANONICAL)
        what = "no header" if len(missing) == len(CANONICAL) else f"a wrong header: {', '.join(missing)} missing"
        raise Unreadable(f"{path} has {what}; its first line must be {expected}, in any order")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Unreadable(f"{path} has a wrong header: it has {', '.join(twice)} twice")


def _read_parquet(path: Path, keep: bool, bounds: Bounds | None) -> tuple[Parser, str, str | None]:
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
            parser = Parser(list(CANONICAL), keep, bounds)
            line = 2
            for batch in file.iter_batches(batch_size=CHUNK_LINES, columns=list(CANONICAL)):
                columns = {name: [_as_text(value) for value in batch.column(name).to_pylist()] for name in CANONICAL}
                lines = [",".join(row) for row in zip(*columns.values(), strict=True)]
                parser.take_columns(range(line, line + len(lines)), columns, lines)
                line += len(lines)
    except (pyarrow.ArrowException, OSError) as error:
        raise Unreadable(f"{path} is a damaged or unsupported Parquet file: {str(error).splitlines()[0]}") from None
    return parser, digest.hexdigest(), None


def _as_text(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, dt.datetime):
        return (value if value.tzinfo else value.replace(tzinfo=dt.UTC)).isoformat()
    return str(value)


def summed(frame: pd.DataFrame, daily: bool) -> pd.DataFrame:
    """One row per key: the rows of a key are summed. The cost is known if that of any row is.

    A sum beyond 2^53 micros is limited to that, since JSON readers cannot represent more exactly.
    """
    period_s = 86_400 if daily else 3_600
    keyed = frame.assign(hour=frame["hour"].astype(np.int64) // period_s * period_s)
    grouped = keyed.groupby(list(KEY), dropna=False, sort=False)[list(VALUES)]
    sums = grouped.sum(min_count=1)  # NaN only if all rows are NaN
    return sums.clip(-MOST_MICROS, MOST_MICROS).reset_index()
