"""`python -m bench learning`: a night on Ray Train by number of rows, compared with a bare `lgb.train`."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from bench import tables
from db.schema import upgrade
from db.settings import DatabaseSettings

ROOT = Path(__file__).resolve().parent.parent
DAYS = 100
BRANDS, PARTNERS, SLOTS = 100, 50, 10
LAST_DAY = np.datetime64("2026-01-31")
SOURCE = "bench"
SAMPLE_S = 1.0
GOAL_TIMES, GOAL_S, GOAL_MATRICES = 2.0, 60.0, 3.0
WITHIN = 0.01
"""Share of the deviance by which fits with one worker and with two may differ."""


class Bare(NamedTuple):
    matrix_bytes: int
    seconds: float
    cpu_s: float


class Night(NamedTuple):
    seconds: float
    steps: dict[str, float]
    deviance: float
    idle_mib: float  # of the driver, once its libraries are loaded
    driver_mib: float  # most that the night's own process held
    worker_mib: float  # most that a Ray Train worker held
    together_mib: float  # most that all processes of the night held, what they share counted once


def main(argv: Sequence[str]) -> str | None:
    """A night's seconds and memory by the number of rows; one worker against two."""
    parser = argparse.ArgumentParser(prog="python -m bench learning", description=main.__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 3_000_000])
    parser.add_argument("--workers-rows", type=int, default=300_000, help="of the night on 1 and 2 workers")
    asked = parser.parse_args(argv)
    found: dict[int, tuple[Bare, Night]] = {}
    for rows in sorted(asked.rows):
        with tempfile.TemporaryDirectory(prefix="pl-bench-") as folder:
            write_rows(Path(folder), rows)
            found[rows] = (bare(Path(folder)), night(Path(folder)))
            print(f"{rows:,} rows: {found[rows]}", flush=True)
    with tempfile.TemporaryDirectory(prefix="pl-bench-") as folder:
        write_rows(Path(folder), asked.workers_rows)
        one, two = (night(Path(folder), workers=workers).deviance for workers in (1, 2))
    lines = [_row(rows, *result) for rows, result in found.items()]
    return "\n".join(
        [
            tables.table(HEAD, lines),
            "",
            *_slopes(found),
            f"- {asked.workers_rows:,} rows, deviance on the newest day: {one:.5g} with one worker, {two:.5g} on two: "
            f"{abs(two / one - 1):.2%} apart (goal: within {WITHIN:.0%})",
            "",
            WORDS,
        ]
    )


HEAD = [
    "rows",
    "matrix",
    "bare lgb.train",
    "night",
    "most allowed",
    "of it: etl, features, fit, gate, rest",
    "driver above idle ÷ matrix",
    "all processes",
]
WORDS = (
    f"Goal at 1 M: night ≤ {GOAL_TIMES:g} × bare + {GOAL_S:g} s, peak ≤ {GOAL_MATRICES:g} × the matrix. The night is "
    "`python -m training.nightly` in a new state folder: it reads all days for the first time, starts and stops Ray, "
    "fits twice (with and without the newest day), and runs gate, λ, publish and verify. Bare is one fit of the same "
    f"trees on the ready matrix, with one thread as in a worker. {DAYS} days, {BRANDS} brands, {PARTNERS} partners of "
    f"{SLOTS} slots, SQLite."
)


def _row(rows: int, without: Bare, whole: Night) -> list[str]:
    mib = without.matrix_bytes / 2**20
    named = [whole.steps.get(step, 0.0) for step in ("etl", "features", "fit", "gate")]
    steps = [f"{seconds:.1f}" for seconds in (*named, whole.seconds - sum(named))]
    return [
        f"{rows:,}",
        f"{mib:.0f} MiB",
        f"{without.seconds:.1f} s",
        f"{whole.seconds:.1f} s",
        f"{GOAL_TIMES * without.seconds + GOAL_S:.1f} s",
        " + ".join(steps),
        f"{(whole.driver_mib - whole.idle_mib) / mib:.2f} ({whole.driver_mib:.0f} of {whole.idle_mib:.0f} MiB)",
        f"{whole.together_mib:.0f} MiB, worker {whole.worker_mib:.0f}",
    ]


def _slopes(found: dict[int, tuple[Bare, Night]]) -> list[str]:
    said = []
    for (small, (_, before)), (large, (_, after)) in itertools.pairwise(found.items()):
        ratio = math.log(large / small)
        seconds = math.log(after.seconds / before.seconds) / ratio
        memory = math.log(after.together_mib / before.together_mib) / ratio
        added = (after.seconds - before.seconds) / (large - small) * 1e6
        said.append(
            f"- {small / 1e6:g} M → {large / 1e6:g} M: seconds ∝ rows^{seconds:.2f} ({added:.1f} s more a million), "
            f"memory ∝ rows^{memory:.2f}"
        )
    return said


def write_rows(folder: Path, rows: int, seed: int = 0) -> None:
    """Make a database with daily rows, written directly into SQLite, since imports are measured elsewhere."""
    url = f"sqlite+aiosqlite:///{folder / 'paceline.sqlite'}"
    upgrade(str(DatabaseSettings(url=url).url))
    dice = np.random.default_rng(seed)
    places = rows // DAYS
    brand = dice.integers(0, BRANDS, places)
    partner = dice.integers(0, PARTNERS, places)
    rate = np.exp(
        dice.normal(0, 0.5, BRANDS)[brand] + dice.normal(0, 0.4, PARTNERS)[partner] + dice.normal(0, 0.4, places)
    )
    volume = np.exp(dice.normal(7, 1.2, places))
    ids = list(
        zip(
            (f"brand-{one}" for one in brand),
            (f"partner-{one}" for one in partner),
            (f"slot-{one}" for one in dice.integers(0, SLOTS, places)),
            (("desktop", "mobile", "tablet")[one] for one in dice.integers(0, 3, places)),
            (f"place-{one}" for one in range(places)),  # tells every place from the others
            (float(one) for one in np.round(dice.beta(4, 2.5, places), 2)),
            strict=True,
        )
    )
    with sqlite3.connect(folder / "paceline.sqlite") as connection:
        for age in range(DAYS):
            day = str(LAST_DAY - (DAYS - 1 - age))
            impressions = dice.poisson(volume) + 1
            clicks = dice.binomial(impressions, 0.01)
            cost = impressions * 800
            revenue = (impressions * 1000 * rate * np.exp(dice.normal(0, 0.3, places))).astype(np.int64)
            columns = (impressions.tolist(), clicks.tolist(), (clicks // 10).tolist(), cost.tolist(), revenue.tolist())
            values = zip(range(age * places, (age + 1) * places), ids, *columns, strict=True)
            connection.executemany(
                INSERT,
                ((f"{row:064x}", f"{day} 00:00:00.000000", day, *place, *numbers) for row, place, *numbers in values),
            )
        connection.execute(
            "INSERT INTO imports (source, sha256, rows, rejected, simulated, imported_at) VALUES (?, ?, ?, 0, 0, ?)",
            (SOURCE, "0" * 64, places * DAYS, "2026-02-01 00:00:00.000000"),
        )


INSERT = (
    "INSERT INTO performance_hourly (key_hash, kind, precedence, source, period, hour, day, brand_id, partner_id,"
    " slot_id, device_type, creative_type, placement_score, impressions, clicks, conversions, cost_micros,"
    " revenue_micros, pending_revenue_micros)"
    f" VALUES (?, 'import', 2, '{SOURCE}', 'day', ?, ?, {', '.join('?' * 11)}, 0)"
)


def bare(folder: Path) -> Bare:
    """Prepare the matrix and fit once on it, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_bare, (folder,))


def _bare(folder: Path) -> Bare:
    import asyncio
    import datetime as dt

    from db.session import Database
    from training.etl.reader import read_history
    from training.fitting.dataset import TrainingSet
    from training.fitting.engines import fit
    from training.settings import ModelSettings

    async def read() -> Any:
        database = Database(DatabaseSettings(url=f"sqlite+aiosqlite:///{folder / 'paceline.sqlite'}"))
        try:
            return await read_history(database, dt.date(2100, 1, 1))
        finally:
            await database.close()

    settings = ModelSettings()
    data = TrainingSet.of(asyncio.run(read()), settings.pending_share)
    examples = data.examples(int(data.days.max()) + 1, settings)
    began, began_cpu = time.perf_counter(), time.process_time()
    fit(examples, settings, threads=1)
    return Bare(data.matrix.nbytes, time.perf_counter() - began, time.process_time() - began_cpu)


def night(folder: Path, workers: int = 1) -> Night:
    """Run a whole night in a new state folder, measured from outside."""
    with tempfile.TemporaryDirectory(prefix="pl-state-") as state:
        environ = os.environ | {
            "PACELINE_STATE": state,
            "PACELINE_DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'paceline.sqlite'}",
            "PACELINE_MODEL_WORKERS": str(workers),
        }
        began = time.perf_counter()
        running = subprocess.Popen(
            [sys.executable, "-m", "training.nightly", "--json", "--restart"],
            env=environ,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        watch = Watch(running.pid)
        watch.start()
        said, _ = running.communicate()
        seconds = time.perf_counter() - began
        watch.stop()
    summary = json.loads(said.strip().splitlines()[-1])
    if running.returncode != 0:
        raise RuntimeError(f"the night ended with exit code {running.returncode}; its summary: {summary}")
    deviance = float(summary["metrics"]["challenger"]["deviance"])
    return Night(seconds, summary["seconds"], deviance, idle_mib(), watch.driver, watch.worker, watch.together)


def idle_mib() -> float:
    """Memory of a night's process before it has read a row, in MiB."""
    load = (
        "import training.nightly.pipeline, training.fitting.ray_fit, ray.train, lightgbm, numba, pyarrow.parquet;"
        "import pathlib;"
    )
    show = "print(next(line for line in pathlib.Path('/proc/self/status').read_text().splitlines() if 'VmHWM' in line))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", load + show], cwd=ROOT, capture_output=True, text=True)
    return int(done.stdout.split()[1]) / 1024


class Watch(threading.Thread):
    """Memory of a process and its descendants, in MiB (PSS: shared memory is counted once)."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._over = pid, threading.Event()
        self.driver = self.worker = self.together = 0.0

    def stop(self) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            with contextlib.suppress(psutil.NoSuchProcess):
                root = psutil.Process(self._pid)
                sizes = {process: _pss(process) for process in [root, *root.children(recursive=True)]}
                self.driver = max(self.driver, sizes[root])
                fits = [size for process, size in sizes.items() if _is_worker(process)]
                self.worker = max(self.worker, *fits, 0.0)
                self.together = max(self.together, sum(sizes.values()))


def _pss(process: psutil.Process) -> float:
    try:
        return process.memory_full_info().pss / 2**20
    except psutil.Error:
        return 0.0


def _is_worker(process: psutil.Process) -> bool:
    try:
        return any("RayTrainWorker" in word for word in process.cmdline())
    except psutil.Error:
        return False
