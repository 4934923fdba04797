"""Parses rows of text into columns; a row with a field that is not valid is rejected with the reason.

Nothing is guessed or corrected.
"""

from __future__ import annotations

import csv
import datetime as dt
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from db.fields import ID_PATTERN, MOST_MICROS
from db.times import IN_THE_FUTURE, TOO_OLD, Bounds, parse_time
from training.arrays import Flags, Floats, Integers
from training.columns import ID_COLUMNS

CANONICAL = ("ts", *ID_COLUMNS, "placement_score", "impressions", "clicks", "conversions", "cost", "revenue")
COUNTS = ("impressions", "clicks", "conversions")
MICROS = 1_000_000
ID = re.compile(rf"{ID_PATTERN}\Z")
FIRST_YEAR, LAST_YEAR = 1970, 2199
KEY = ("hour", *ID_COLUMNS, "placement_score")
VALUES = ("impressions", "clicks", "conversions", "cost_micros", "revenue_micros", "pending_revenue_micros")


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that cannot be used."""

    line: int  # of the file; the header is line 1
    reason: str
    content: str


@dataclass(slots=True)
class Parser:
    """Turns lines into columns, a chunk at a time, and collects rejected rows."""

    header: list[str]
    keep: bool = False
    bounds: Bounds | None = None
    """Of `ts`; None: any time will do."""
    kept: list[list[str]] = field(default_factory=list)  # with `keep`: the fields of good rows, as in the file
    rejects: list[Reject] = field(default_factory=list)
    frames: list[pd.DataFrame] = field(default_factory=list)
    rows: int = 0
    _times: dict[str, int | None] = field(default_factory=dict)
    _ids: dict[str, str | None] = field(default_factory=dict)

    def take(self, first_line: int, lines: list[str]) -> None:
        """Parse lines of CSV, of which the first has number `first_line`."""
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
        """Parse fields as text, column by column.

        Args:
            numbers, lines: each row's line number in the file, and its text.
        """
        refused = _Refused(len(numbers))
        seconds = self._seconds_of(columns["ts"], refused)
        ids = self._ids_of(columns, refused)
        numeric = _numbers_of(columns, refused)
        good = refused.nowhere()
        if self.keep:
            rows = list(zip(*(columns[name] for name in self.header), strict=True))
            self.kept += [list(rows[row]) for row in np.flatnonzero(good).tolist()]
        for row in np.flatnonzero(~good).tolist():
            self.rejects.append(Reject(numbers[row], str(refused.reasons[row]), lines[row]))
        frame = pd.DataFrame(
            {
                "hour": seconds,
                **ids,
                "placement_score": numeric["placement_score"] + 0.0,
                **{name: numeric[name] for name in COUNTS},
                "cost_micros": np.round(numeric["cost"] * MICROS),
                "revenue_micros": np.round(numeric["revenue"] * MICROS),
                "pending_revenue_micros": np.zeros(len(numbers)),
            }
        )
        self.rows += int(good.sum())
        self.frames.append(frame[good])

    def _seconds_of(self, values: Sequence[str], refused: _Refused) -> Integers:
        """(n,) seconds since 1970; −1 for refused rows."""
        times = (-1 if (at := self._time(value)) is None else at for value in values)
        seconds = np.fromiter(times, np.int64, len(values))
        refused.add(seconds < 0, lambda row: f"ts {short(values[row])} is not an RFC 3339 time with its zone")
        if (bounds := self.bounds) is not None:
            for code, out in (
                (IN_THE_FUTURE, seconds > bounds.latest.timestamp()),
                (TOO_OLD, seconds < bounds.earliest.timestamp()),
            ):
                refused.add_field(out, "ts", {"ts": list(values)}, f"{bounds.reason(code)} ({code})")
        return seconds

    def _ids_of(self, columns: dict[str, list[str]], refused: _Refused) -> dict[str, npt.NDArray[Any]]:
        """By ID_COLUMNS: (n,) ids, None for refused rows."""
        ids: dict[str, npt.NDArray[Any]] = {}
        for name in ID_COLUMNS:
            default = "unknown" if name in ("device_type", "creative_type") else None
            values = [self._id(value, default) for value in columns[name]]
            ids[name] = np.array(values, dtype=object)
            missing = np.fromiter((value is None for value in values), np.bool_, len(values))
            refused.add_field(missing, name, columns, "is not an id (1–64 of A-Z a-z 0-9 . _ : -, not . or ..)")
        return ids

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


class _Refused:
    """Why rows of a chunk are refused; each row has its first reason."""

    def __init__(self, rows: int) -> None:
        self.reasons: list[str | None] = [None] * rows

    def add(self, bad: Flags, reason: Callable[[int], str]) -> None:
        """Refuse rows.

        Args:
            bad: (n,) the rows to refuse, each for `reason(row)`.
        """
        for row in np.flatnonzero(bad).tolist():
            if self.reasons[row] is None:
                self.reasons[row] = reason(row)

    def add_field(self, bad: Flags, name: str, columns: dict[str, list[str]], words: str) -> None:
        """Refuse rows for one field, whose value is shown."""
        self.add(bad, lambda row: f"{name} {short(columns[name][row])} {words}")

    def nowhere(self) -> Flags:
        """(n,) the rows that are not refused."""
        return np.fromiter((reason is None for reason in self.reasons), np.bool_, len(self.reasons))


def _numbers_of(columns: dict[str, list[str]], refused: _Refused) -> dict[str, Floats]:
    """(n,) each numeric column; empty fields are NaN, in counts 0."""
    numeric: dict[str, Floats] = {}
    for name in ("placement_score", *COUNTS, "cost", "revenue"):
        numeric[name], broken = _numbers(columns[name])
        refused.add_field(broken, name, columns, "is not a number")
    for name in COUNTS:
        counts = numeric[name] = np.nan_to_num(numeric[name])
        bad = (counts < 0) | (counts != np.floor(counts)) | (counts > MOST_MICROS)
        refused.add_field(bad, name, columns, "is not a whole number ≥ 0")
    refused.add(np.isnan(numeric["revenue"]), lambda _row: "revenue is empty")
    with np.errstate(invalid="ignore"):
        refused.add_field(numeric["cost"] < 0, "cost", columns, "is below zero")
        for name in ("cost", "revenue"):
            refused.add_field(np.abs(numeric[name]) * MICROS > MOST_MICROS, name, columns, "is beyond 2^53 micros")
    return numeric


def _plain_rows(lines: Sequence[str], width: int) -> list[list[str]] | None:
    """The fields of each line; None unless all lines have `width` fields and no quotes, as nearly always."""
    if '"' in "".join(lines):
        return None
    try:
        rows = list(csv.reader(lines))
    except csv.Error:
        return None
    return rows if len(rows) == len(lines) and all(len(row) == width for row in rows) else None


def _seconds(value: str) -> int | None:
    parsed = parse_time(value[:10] + value[10:11].replace(" ", "T") + value[11:])
    try:
        at = None if parsed is None else parsed.astimezone(dt.UTC)
    except OverflowError:
        return None
    return None if at is None or not FIRST_YEAR <= at.year <= LAST_YEAR else int(at.timestamp())


def _numbers(values: Sequence[str]) -> tuple[Floats, Flags]:
    """((n,) floats, NaN for empty fields; (n,) fields that are not finite numbers). Parsed by Python's `float`, so that
    placement scores are equal to those of bids."""
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
    if "_" in "".join(values):  # which `float` allows
        broken |= np.fromiter(("_" in value for value in values), np.bool_, n)
    for row in np.flatnonzero(~np.isfinite(numbers)).tolist():
        broken[row] |= bool(values[row])  # "nan" and "inf"; empty fields are allowed
    numbers[broken] = np.nan
    return numbers, broken


def short(value: str) -> str:
    """The value for a message, quoted and shortened to 40 characters."""
    return repr(value if len(value) <= 40 else value[:37] + "…")
