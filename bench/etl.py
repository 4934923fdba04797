"""`python -m bench etl`: time and memory of the night's ETL and of an import, by number of rows. Without Ray."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import itertools
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sqlalchemy import Connection, insert

from bench import tables
from db import tables as t
from db.brands import BrandSettings
from db.performance import PRECEDENCE, key_hash
from db.rows import chunks, insert_columns
from db.schema import upgrade
from db.session import Database
from db.settings import DatabaseSettings
from db.state import State
from tests.servers.mysql import MySqlServer
from training.columns import ID_COLUMNS
from training.etl.row_parser import CANONICAL, VALUES

FIRST = dt.datetime(2024, 5, 1, tzinfo=dt.UTC)
DAYS = 30
BRANDS, PARTNERS, SLOTS = 50, 40, 10
PLACES = 1_000
"""Number of placements; the n-th gets rows in proportion to 1 ÷ √n."""

LATE_EVENTS = 10_000
INSERTED_TOGETHER = 20_000
TYPES = ("impression", "click", "conversion", "conversion_update")
STATUSES = {"conversion": "pending", "conversion_update": "approved"}
SHARES = (0.90, 0.06, 0.03, 0.01)
PLACE = (*ID_COLUMNS, "placement_score")
IMPORT, GATHER = "import of a CSV", "gather, all new"
GOAL_S = 60.0
BUFFER_POOL = "512M"
"""MySQL's buffer pool: its default is 128M, but a dedicated server gets most of the machine's memory."""


def main(argv: Sequence[str]) -> str | None:
    """Events → checked hourly rows → files, and CSV → hourly rows: seconds and memory by the number of rows."""
    parser = argparse.ArgumentParser(prog="python -m bench etl", description=main.__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 3_000_000])
    parser.add_argument("--on", choices=("sqlite", "mysql"), nargs="+", default=["sqlite", "mysql"])
    asked = parser.parse_args(argv)
    found: dict[tuple[str, int], dict[str, Run]] = {}
    for kind in asked.on:
        for rows in sorted(asked.rows):
            found[kind, rows] = {}
            for name, run in _measured(kind == "mysql", rows):
                found[kind, rows][name] = run
                print(f"{kind}, {rows / 1e6:g} M: {name}: {run}", flush=True)
    names = next(iter(found.values()))
    table = [[f"{kind}, {rows / 1e6:g} M", *map(str, runs.values())] for (kind, rows), runs in found.items()]
    return "\n".join([tables.table(["", *names], table), "", *_slopes(found), "", WORDS])


WORDS = (
    f"Goal: 1 M within {GOAL_S:g} s. Each run is a process of its own: elapsed seconds, CPU-seconds of the process "
    f"(not of MySQL, whose buffer pool has {BUFFER_POOL}), and its peak resident size, libraries included. Events are "
    f"90 % impressions, 6 % clicks, 3 % conversions and 1 % updates over {DAYS} days and {PLACES:,} placements; late "
    "ones are conversions of any of these days. Every row of the CSV has its own key."
)


class Run(NamedTuple):
    seconds: float
    cpu_s: float
    peak_mib: int

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.cpu_s:.1f} CPU-s, {self.peak_mib} MiB"


def _slopes(found: Mapping[tuple[str, int], Mapping[str, Run]]) -> Iterator[str]:
    """How the seconds grow from one size to the next, as an exponent of the rows."""
    for ((kind, small), before), ((other, large), after) in itertools.pairwise(found.items()):
        if kind == other:
            ratio = math.log(large / small)
            grown = {name: math.log(after[name].seconds / before[name].seconds) / ratio for name in (IMPORT, GATHER)}
            said = ", ".join(f"{name}: ∝ rows^{exponent:.2f}" for name, exponent in grown.items())
            yield f"- {kind}, {small / 1e6:g} M → {large / 1e6:g} M: {said}"


@contextmanager
def _empty_database(is_mysql: bool) -> Iterator[tuple[str, Path]]:
    """A database at the newest migration, and a folder for files beside it."""
    with tempfile.TemporaryDirectory(prefix="paceline-bench-") as folder:
        if is_mysql:
            with MySqlServer(BUFFER_POOL) as server:
                url = server.create_database()
                upgrade(url)
                yield url, Path(folder)
        else:
            url = f"sqlite+aiosqlite:///{Path(folder) / 'etl.sqlite'}"
            upgrade(url)
            yield url, Path(folder)


def _measured(is_mysql: bool, rows: int) -> Iterator[tuple[str, Run]]:
    with _empty_database(is_mysql) as (url, folder):
        path = folder / "performance.csv"
        write_csv(path, rows)
        yield IMPORT, _in_process(import_all, url, path)
    with _empty_database(is_mysql) as (url, folder):
        write_events(url, rows)
        yield GATHER, _in_process(gather_all, url, folder)
        yield "gather again", _in_process(gather_all, url, folder)
        write_events(url, LATE_EVENTS, first_id=rows, late=True)
        yield f"gather {LATE_EVENTS:,} late events", _in_process(gather_all, url, folder)
        yield "read the files", _in_process(read_files, url, folder)
        yield "read the database instead", _in_process(read_database, url, folder)


def _in_process(do: Callable[..., Any], *given: Any) -> Run:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_timed, (do, given))


def _timed(do: Callable[..., Any], given: Sequence[Any]) -> Run:
    import training.etl.reconcile  # noqa: F401  (what the libraries take to load is no row's time)

    began, began_cpu = time.perf_counter(), time.process_time()
    do(*given)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    # Not ru_maxrss: that is at least what the parent had when it started us.
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return Run(seconds, cpu_s, int(peak.split()[1]) // 1024)


def _with_database(url: str, work: Callable[[Database], Any]) -> Any:
    async def run() -> Any:
        database = Database(DatabaseSettings(url=url, timeout_s=3600))
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


def quiet(_line: str) -> None:
    pass


def import_all(url: str, path: Path) -> None:
    from training.etl.importer import import_file

    done = _with_database(url, lambda database: import_file(database, path, say=quiet))
    assert not done.rejected


def gather_all(url: str, folder: Path) -> None:
    from training.etl.reconcile import gather

    warnings: list[str] = []
    done = _with_database(url, lambda database: gather(database, State(folder), warnings.append))
    assert done.repaired == 0 and done.unfounded == 0, warnings


def read_files(url: str, folder: Path) -> None:
    from training.etl.reconcile import read

    assert len(_with_database(url, lambda database: read(database, State(folder), dt.date.max)))


def read_database(url: str, folder: Path) -> None:
    from training.etl.reader import read_history

    assert len(_with_database(url, lambda database: read_history(database, dt.date.max)))


# What there is to gather


def places(random: np.random.Generator, number: int) -> tuple[pd.DataFrame, Any]:
    """(PLACES placements; which of them each of `number` rows has)."""
    partner = random.integers(0, PARTNERS, PLACES)
    slot = random.integers(0, SLOTS, PLACES)
    score = np.round(random.uniform(0, 1, PLACES), 2)
    every = pd.DataFrame(
        {
            "brand_id": [f"brand-{n}" for n in random.integers(0, BRANDS, PLACES)],
            "partner_id": [f"partner-{n}" for n in partner],
            "slot_id": [f"partner-{p}:slot-{s}" for p, s in zip(partner, slot, strict=True)],
            "device_type": random.choice(["mobile", "desktop"], PLACES),
            "creative_type": random.choice(["160x600", "300x250", "728x90"], PLACES),
            "placement_score": np.where(random.uniform(0, 1, PLACES) < 0.1, np.nan, score),
        }
    ).drop_duplicates(ignore_index=True)
    weights = 1 / np.sqrt(np.arange(1, len(every) + 1))
    return every, random.choice(len(every), number, p=weights / weights.sum())


def write_csv(path: Path, rows: int) -> None:
    """Write a CSV with so many keys, by the hour."""
    random = np.random.default_rng(1)
    every, _ = places(random, 0)
    hours, where = np.divmod(np.arange(rows), len(every))
    impressions = random.integers(50, 5000, rows)
    stamps = np.array([f"{FIRST + dt.timedelta(hours=hour):%Y-%m-%dT%H:%M:%SZ}" for hour in range(hours.max() + 1)])
    frame = every.iloc[where].assign(
        ts=stamps[hours],
        impressions=impressions,
        clicks=random.binomial(impressions, 0.01),
        conversions=random.integers(0, 3, rows),
        cost=np.round(impressions * 0.0013, 6),
        revenue=np.round(impressions * random.lognormal(0, 0.5, rows) * 0.0017, 6),
    )
    frame[list(CANONICAL)].to_csv(path, index=False)


def write_events(url: str, number: int, first_id: int = 0, late: bool = False) -> None:
    """Write events, and the rows that the ledger would have made of them.

    Args:
        late: further conversions, of any day, added to what is there.
    """
    frame = events(number, first_id, late)
    _with_database(url, lambda database: _write(database, frame, late))


def events(number: int, first_id: int, late: bool) -> pd.DataFrame:
    random = np.random.default_rng(2 + first_id)
    every, where = places(random, number)
    types = np.full(number, 2) if late else random.choice(len(TYPES), number, p=SHARES)
    at_s = random.integers(0, DAYS * 86_400, number)
    if not late:
        at_s.sort()
    # An update restates a conversion that is there, each one once; without any left it is a click.
    conversions, updates = np.flatnonzero(types == 2), np.flatnonzero(types == 3)
    types[updates[len(conversions) :]] = 1
    updates = updates[: len(conversions)]
    restated = conversions[: len(updates)]
    where[updates] = where[restated]
    conversion = np.full(number, -1)
    conversion[conversions], conversion[updates] = conversions, restated
    at_s[updates] = np.maximum(at_s[updates], at_s[restated] + 1)
    frame: pd.DataFrame = every.iloc[where].reset_index(drop=True)
    frame["number"] = np.arange(first_id, first_id + number)
    frame["type"] = np.array(TYPES, object)[types]
    frame["at_s"] = at_s
    frame["conversion"] = conversion + first_id
    frame["cost_micros"] = np.where(types == 0, random.integers(500, 2000, number), 0)
    frame["revenue_micros"] = np.where(types >= 2, random.integers(10**5, 10**7, number), 0)
    return frame


async def _write(database: Database, frame: pd.DataFrame, add: bool) -> None:
    if not add:
        settings = BrandSettings().model_dump() | {"created_at": FIRST, "updated_at": FIRST}
        brands = [{**settings, "brand_id": f"brand-{n}"} for n in range(BRANDS)]
        async with database.write() as connection:
            await connection.execute(insert(t.brands), brands)
    for start in range(0, len(frame), INSERTED_TOGETHER):
        columns = _event_columns(frame.iloc[start : start + INSERTED_TOGETHER])
        await database.run_write(partial(insert_columns, table_=t.events, columns=columns))
    rows = _rows(frame)
    for start in range(0, len(rows["hour"]), INSERTED_TOGETHER):
        part = {name: column[start : start + INSERTED_TOGETHER] for name, column in rows.items()}
        await database.run_write(partial(_put, rows=part, add=add))


def _event_columns(frame: pd.DataFrame) -> dict[str, Sequence[Any]]:
    n = len(frame)
    at = [FIRST + dt.timedelta(seconds=int(second)) for second in frame["at_s"]]
    is_conversion = frame["type"].str.startswith("conversion")
    columns: dict[str, Sequence[Any]] = {
        name: frame[name].tolist() for name in ("brand_id", "partner_id", "slot_id", "device_type", "creative_type")
    }
    return columns | {
        "event_id": [f"event-{number}" for number in frame["number"]],
        "content_hash": [f"{number:064x}" for number in frame["number"]],
        "type": frame["type"].tolist(),
        "occurred_at": at,
        "received_at": at,
        "day": [one.date() for one in at],
        "placement_score": [None if np.isnan(score) else score for score in frame["placement_score"]],
        "conversion_id": [
            f"conversion-{number}" if here else None
            for number, here in zip(frame["conversion"], is_conversion, strict=True)
        ],
        "status": [STATUSES.get(type_) for type_ in frame["type"]],
        "impressions": (frame["type"] == "impression").astype(int).tolist(),
        "clicks": (frame["type"] == "click").astype(int).tolist(),
        "conversions": (frame["type"] == "conversion").astype(int).tolist(),
        "cost_micros": frame["cost_micros"].tolist(),
        "revenue_micros": frame["revenue_micros"].tolist(),
        **{name: [None] * n for name in ("portfolio_id", "reservation_id", "click_id", "period")},
    }


def _rows(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """What the events add up to by the hour, as columns of `performance_hourly`; computed independently of the ETL."""
    updates = frame[frame["type"] == "conversion_update"].set_index("conversion")["revenue_micros"]
    shown = frame[frame["type"] != "conversion_update"].copy()
    is_conversion = shown["type"] == "conversion"
    approved = shown["conversion"].where(is_conversion).map(updates)
    shown["hour"] = shown["at_s"] // 3600
    shown["impressions"] = (shown["type"] == "impression").astype(np.int64)
    shown["clicks"] = (shown["type"] == "click").astype(np.int64)
    shown["conversions"] = is_conversion.astype(np.int64)
    shown["pending_revenue_micros"] = shown["revenue_micros"].where(is_conversion & approved.isna(), 0)
    shown["revenue_micros"] = approved.fillna(0).astype(np.int64)
    sums = shown.groupby(["hour", *PLACE], dropna=False)[list(VALUES)].sum().reset_index()
    columns: dict[str, list[Any]] = {name: sums[name].tolist() for name in (*PLACE, *VALUES)}
    columns["placement_score"] = [None if np.isnan(score) else score for score in columns["placement_score"]]
    columns["hour"] = [FIRST + dt.timedelta(hours=int(hour)) for hour in sums["hour"]]
    columns["day"] = [hour.date() for hour in columns["hour"]]
    keys = zip(columns["hour"], *(columns[name] for name in PLACE), strict=True)
    columns["key_hash"] = [key_hash("event", "", "hour", *key) for key in keys]
    constant = {"kind": "event", "precedence": PRECEDENCE["event"], "source": "", "period": "hour"}
    return columns | {name: [value] * len(sums) for name, value in constant.items()}


def _put(connection: Connection, rows: dict[str, list[Any]], add: bool) -> None:
    """Insert rows; `add`: add them to rows with the same keys."""
    p = t.performance_hourly
    for hashes in chunks(rows["key_hash"]) if add else ():
        position = {hash_: number for number, hash_ in enumerate(rows["key_hash"])}
        for row in connection.execute(p.select().where(p.c.key_hash.in_(hashes))).mappings().all():
            for name in VALUES:
                rows[name][position[row["key_hash"]]] += row[name]
        connection.execute(p.delete().where(p.c.key_hash.in_(hashes)))
    insert_columns(connection, p, rows)


if __name__ == "__main__":
    print(main(sys.argv[1:]))
