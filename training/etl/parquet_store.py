"""Stores the history as files, `STATE/history/2020-04-01.parquet` per day, and a `manifest.json` with their hashes.

A file appears by rename, and counts only if the manifest names its sha256; the manifest is written last. So files that
a killed run has left, that are damaged, or that were made from another database or by another release, are made again.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from db.files import atomic_write
from db.state import State
from training.columns import ID_COLUMNS
from training.etl.reader import COLUMNS, Day, frame
from training.etl.watermark import Watermark

FORMAT = 1
"""Version of the files' format; if a manifest has another one, everything is made again."""

SCHEMA = pyarrow.schema(
    [
        ("day", pyarrow.int64()),
        ("hour", pyarrow.int64()),
        *((name, pyarrow.dictionary(pyarrow.int32(), pyarrow.string())) for name in ID_COLUMNS),
        *((name, pyarrow.float64()) for name in COLUMNS[7:]),
    ]
)
SUFFIX = ".parquet"


class Partition(NamedTuple):
    """A day's file."""

    stored: int  # rows of the day in the database, including those that another kind overrides
    rows: int  # in the file
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files, and what they were made from."""

    database: str  # see `reconcile.identity`
    watermark: Watermark  # events up to it are in the files
    sources: Mapping[str, str] = field(default_factory=dict)  # completed imports: source → hash, rows and time
    days: Mapping[dt.date, Partition] = field(default_factory=dict)


class Partitions:
    """The folder of the files. Write only while the state folder's history lock is held."""

    def __init__(self, state: State) -> None:
        self.folder = state.root / "history"
        self._manifest = self.folder / "manifest.json"

    def manifest(self) -> Manifest | None:
        """The manifest; None if there is none that this program can read, so that all files are made again."""
        try:
            document = json.loads(self._manifest.read_bytes())
            if document["format"] != FORMAT:
                return None
            seq, content_hash, gaps = document["watermark"]
            return Manifest(
                str(document["database"]),
                Watermark(int(seq), str(content_hash), tuple((int(first), int(last)) for first, last in gaps)),
                {str(source): str(known) for source, known in document["sources"].items()},
                {
                    dt.date.fromisoformat(day): Partition(int(stored), int(rows), str(sha256))
                    for day, (stored, rows, sha256) in document["days"].items()
                },
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def vouch(self, manifest: Manifest) -> None:
        """Write the manifest, after all files that it names."""
        document = {
            "format": FORMAT,
            "database": manifest.database,
            "watermark": manifest.watermark,
            "sources": manifest.sources,
            "days": {day.isoformat(): part for day, part in sorted(manifest.days.items())},
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write(self._manifest, json.dumps(document, indent=0), durable=True)

    def write(self, day: dt.date, read: Day) -> Partition:
        """Write the day's file, replacing an earlier one; returns its entry for the manifest."""
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(table_of(read), buffer, compression="zstd")
        content = buffer.getbuffer()
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write(self._path(day), content)
        return Partition(read.stored, read.rows, hashlib.sha256(content).hexdigest())

    def is_whole(self, day: dt.date, part: Partition) -> bool:
        """Whether the day's file is the one that the manifest names."""
        return self._content(day, part) is not None

    def read(self, day: dt.date, part: Partition) -> pyarrow.Table | None:
        """The day's rows as columns of SCHEMA; None if the file is not the one that the manifest names."""
        content = self._content(day, part)
        if content is None:
            return None
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(content), read_dictionary=list(ID_COLUMNS))
        return table.cast(SCHEMA)

    def sweep(self, days: Iterable[dt.date]) -> None:
        """Delete all files but those of these days: days that have no rows any more, and what killed runs have left."""
        kept = {self._path(day).name for day in days} | {self._manifest.name}
        for path in self.folder.glob("*"):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _path(self, day: dt.date) -> Path:
        return self.folder / f"{day.isoformat()}{SUFFIX}"

    def _content(self, day: dt.date, part: Partition) -> bytes | None:
        try:
            content = self._path(day).read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == part.sha256 else None


def table_of(read: Day) -> pyarrow.Table:
    """A day's rows as columns of SCHEMA."""
    arrays = []
    for kind in SCHEMA:
        values = pyarrow.array(read.columns[kind.name], from_pandas=True)
        arrays.append(values.dictionary_encode() if kind.name in ID_COLUMNS else values)
    return pyarrow.Table.from_arrays(arrays, names=SCHEMA.names).cast(SCHEMA)


def frame_of(tables: list[pyarrow.Table]) -> pd.DataFrame:
    """Tables of SCHEMA, one after another, as a frame like that of `reader.read_history`; ids are shared objects."""
    table = pyarrow.concat_tables(tables or [SCHEMA.empty_table()]).unify_dictionaries()
    columns: dict[str, Any] = {}
    for name in COLUMNS:
        chunked = table.column(name)
        if name in ID_COLUMNS:
            columns[name] = _words(chunked)
        else:
            columns[name] = chunked.to_numpy()
    return frame(columns)


def _words(chunked: Any) -> Any:
    if not chunked.num_chunks:
        return np.empty(0, object)
    words = np.array(chunked.chunk(0).dictionary.to_pylist(), dtype=object)
    return words[np.concatenate([chunk.indices.to_numpy() for chunk in chunked.chunks])]
