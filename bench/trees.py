"""`python -m bench trees`: time per row of the compiled trees and of LightGBM, in turns; and the time to compile."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.arrays import Singles
from training.etl.csv_reader import read_file
from training.etl.reader import from_import
from training.fitting.dataset import TrainingSet
from training.fitting.engines import fit_before
from training.settings import ModelSettings
from training.trees.compiled import CompiledTrees
from training.trees.engines import Reference, Trees

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data" / "online_ads.csv.gz"
BATCHES = (1, 10, 50, 200, 800)
START = """
import time
began = time.perf_counter()
from training.trees.kernel import compiled
compiled()
print(time.perf_counter() - began)
"""


def main(argv: Sequence[str]) -> str | None:
    """Microseconds per row, compiled and by LightGBM."""
    parser = argparse.ArgumentParser(prog="python -m bench trees", description=main.__doc__)
    parser.add_argument("--trees", type=int, default=300, help="(default 300)")
    parser.add_argument("--leaves", type=int, default=63, help="(default 63)")
    parser.add_argument("--rounds", type=int, default=60, help="turns of each (default 60)")
    arguments = parser.parse_args(argv)
    if not DATA.exists():
        print(f"cannot run: {DATA} is not there", file=sys.stderr)
        return None
    with tempfile.TemporaryDirectory(prefix="paceline-bench-") as cache:
        first_s, again_s = (seconds_to_start(Path(cache)) for _ in range(2))
    rows, reference = fitted(ModelSettings(trees=arguments.trees, leaves=arguments.leaves, min_rows_in_leaf=20))
    text = reference.text
    CompiledTrees(text)  # numba's import and the kernel are counted apart
    began = time.perf_counter()
    compiled = CompiledTrees(text)
    made_s = time.perf_counter() - began
    expected = reference.predict(rows)
    worst = float(np.max(np.abs(compiled.predict(rows) / expected - 1)))
    lines = ["| rows a call | compiled, µs a row | LightGBM, µs a row | ÷ |", "|---|---|---|---|"]
    for n in BATCHES:
        ours, theirs = in_turns((compiled, reference), rows, n, arguments.rounds)
        lines.append(f"| {n} | {ours:.2f} | {theirs:.1f} | {theirs / ours:.0f} |")
    return "\n".join(
        [
            f"{arguments.trees} trees of {arguments.leaves} leaves, {len(rows):,} distinct rows of real history, one "
            f"thread, medians of {arguments.rounds} turns; worst relative difference {worst:.1e}.",
            "",
            *lines,
            "",
            f"- kernel ready in a new process, numba's import included: {first_s:.1f} s compiled for the first time, "
            f"{again_s:.1f} s from the cache",
            f"- a model's text to the kernel's tables: {made_s:.2f} s",
        ]
    )


def fitted(settings: ModelSettings) -> tuple[Singles, Reference]:
    """(distinct rows of features in random order, the trees), both as a night makes them."""
    read = read_file(DATA, lambda _line: None)
    data = TrainingSet.of(from_import(read.frame, daily=read.daily), settings.pending_share)
    rows = np.unique(data.matrix, axis=0)
    return np.random.default_rng(0).permutation(rows), fit_before(data, int(data.days.max()) + 1, settings)


def in_turns(forms: Sequence[Trees], rows: Singles, n: int, rounds: int) -> list[float]:
    """Median microseconds per row of each form; every turn uses other rows."""
    took: list[list[float]] = [[] for _ in forms]
    for turn in range(rounds):
        first = turn * n % (len(rows) - n + 1)
        for seconds, form in zip(took, forms, strict=True):
            began = time.perf_counter()
            form.predict(rows[first : first + n])
            seconds.append(time.perf_counter() - began)
    return [statistics.median(seconds) / n * 1e6 for seconds in took]


def seconds_to_start(cache: Path) -> float:
    """Seconds until the kernel can be called in a new process."""
    found = subprocess.run(
        [sys.executable, "-c", START],
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(found.stdout)
