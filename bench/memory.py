"""`python -m bench memory`: memory of each process over many requests, which should stay flat."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import cost
from bench.load import BIDS, Load, refused
from bench.system import COMPOSITION, DATA, paceline
from bench.tables import MEMORY_SMALL_MIB, table
from bench.turns import WARM_UP_S, say, turn

MARKS = 10
SETTLED = 1
"""Growth is measured from this mark on (0: idle), because by then every bounded cache should be full."""

Look = Mapping[cost.Process, float]


def main(argv: Sequence[str]) -> str | None:
    """USS of every process of Paceline while it answers many requests."""
    parser = argparse.ArgumentParser(prog="python -m bench memory", description=main.__doc__)
    parser.add_argument("--requests", type=int, default=500_000, help="(default 500,000)")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--predictor", choices=("local", "pool"), default="local", help="composition (default local)")
    parser.add_argument("--fresh", action="store_true", help="no tuple is ever met twice")
    asked = parser.parse_args(argv)
    if refused([DATA]):
        return None
    load, every = Load(asked.connections, is_fresh=asked.fresh), asked.requests // MARKS
    looks: dict[int, Look] = {}
    with tempfile.TemporaryDirectory(prefix="paceline-bench-") as folder:
        name = f"Paceline ({asked.predictor})"
        say(f"starting {name} …")
        with paceline(name, Path(folder) / "paceline", {COMPOSITION: asked.predictor}) as system:
            looks[0] = cost.uss_mib(system.processes())
            seen = turn(system, load, WARM_UP_S).seen
            answered, rate = seen.requests, seen.requests_per_s
            for mark in range(1, MARKS + 1):
                while answered < mark * every:
                    seen = turn(system, load, max(1, round((mark * every - answered) / rate))).seen
                    answered, rate = answered + seen.requests, seen.requests_per_s
                looks[answered] = cost.uss_mib(system.processes())
                say(f"  {answered:,} requests: {sum(looks[answered].values()):.0f} MiB, {rate:.0f} requests/s")
    return _report(name, load, looks)


def _report(name: str, load: Load, looks: Mapping[int, Look]) -> str:
    last, settled = list(looks)[-1], list(looks)[min(SETTLED, len(looks) - 1)]
    every = sorted({one for look in looks.values() for one in look}, key=lambda one: -_most(one, looks))
    large = [one for one in every if _most(one, looks) >= MEMORY_SMALL_MIB]
    small = [one for one in every if one not in large]
    rows = [_row(one.title, [[look[one]] if one in look else [] for look in looks.values()], looks) for one in large]
    rest = [[look[one] for one in small if one in look] for look in looks.values()]
    rows.append(_row(f"{len(small)} others, each below {MEMORY_SMALL_MIB:g} MiB", rest, looks))
    rows.append(_row("**all**", [list(look.values()) for look in looks.values()], looks))
    head = ["USS, MiB", *(f"{answered // 1000}k" if answered else "idle" for answered in looks)]
    return (
        f"{name}, {cost.cpu_model()}: {last:,} requests of {BIDS} bids, {load}; columns are requests answered so far, "
        f"growth is counted from {settled // 1000}k requests on.\n\n{table([*head, 'growth'], rows)}"
    )


def _most(process: cost.Process, looks: Mapping[int, Look]) -> float:
    return max(look.get(process, 0.0) for look in looks.values())


def _row(title: str, values: Sequence[Sequence[float]], looks: Mapping[int, Look]) -> list[str]:
    sums = [sum(one) if one else None for one in values]
    first, last = sums[min(SETTLED, len(looks) - 1)], sums[-1]
    growth = "–" if first is None or last is None else f"{last - first:+.0f}"
    return [title, *("–" if one is None else f"{one:.0f}" for one in sums), growth]
