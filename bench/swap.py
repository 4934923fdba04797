"""`python -m bench swap`: a new model version every few seconds at half load, and what requests notice."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from bench import cost, load
from bench.judged import Bodies, Judge, Load, Shot, activate, at_once, paced, publish_variants
from bench.nodes import Cluster
from bench.system import COMPOSITION, DATA, System, paceline
from bench.tables import Figure, table
from bench.turns import say

SWAPS, EVERY_S = 20, 5.0
ROLLBACKS = 4
"""How many of the swaps, at the end, go back to a version that was live before."""

FULL_S, WARM_UP_S, BEFORE_S = 4, 3.0, 15.0
AFTER_S = 1.0
"""For so long after the last replica has swapped, a request counts as sent during the swap."""

FULL_CONNECTIONS, CONNECTIONS = 16, 32
COMPOSITIONS = {
    "local": {COMPOSITION: "local", "PACELINE_SERVE_INGRESS_REPLICAS": "2"},
    "pool": {COMPOSITION: "pool", "PACELINE_SERVE_PREDICTOR_REPLICAS": "2"},
}
NAMES = {"local": "2 ingress", "pool": "1 ingress + 2 predictors"}
LIVE_WITHIN_S = 2.0
FIGURES = {
    "failed": Figure("requests that failed", 0, 0),
    "mixed": Figure("answers of mixed versions", 0, 0),
    "live": Figure("from the activation's request to its version in every answer, the slowest swap", 1.0, 2.0, " s"),
    "answered": Figure("until the activation is answered, a rollback, the slowest", 1.0, 2.0, " s"),
    "p99": Figure("p99 during swaps ÷ before", 1.5, 2.0),
}


class Swap(NamedTuple):
    """One activation. Times are of `time.monotonic`."""

    version: str
    asked: float
    answered: float
    is_rollback: bool


class Found(NamedTuple):
    composition: str
    full_per_s: float
    full_by: str
    per_s: float
    swaps: list[Swap]
    shots: list[Shot]
    began: float  # the spell before the first swap
    deaths: int  # replicas that are no longer there, or new

    def live_at(self, number: int) -> float:
        """When the last answer of an older version arrived; from then on every replica answers by the new one."""
        swap = self.swaps[number]
        end = self.swaps[number + 1].asked if number + 1 < len(self.swaps) else float("inf")
        old = [shot.done for shot in self.shots if swap.asked <= shot.done < end and shot.version != swap.version]
        return max(old, default=swap.asked)

    @property
    def figures(self) -> dict[str, float]:
        live = [self.live_at(number) - swap.asked for number, swap in enumerate(self.swaps)]
        back = [swap.answered - swap.asked for swap in self.swaps if swap.is_rollback]
        return {
            "failed": sum(shot.version is None for shot in self.shots),
            "mixed": sum(shot.is_mixed for shot in self.shots),
            "live": max(live),
            "answered": max(back, default=float("nan")),
            "p99": self.during.p99_ms / self.before.p99_ms,
        }

    @property
    def before(self) -> Latency:
        return Latency.of([shot for shot in self.shots if self.began <= shot.due < self.swaps[0].asked])

    @property
    def during(self) -> Latency:
        return Latency.of(list(itertools.chain.from_iterable(map(self.around, range(len(self.swaps))))))

    def around(self, number: int) -> list[Shot]:
        """Requests that were due from the activation's request until a second after the last replica swapped."""
        end = max(self.live_at(number), self.swaps[number].answered) + AFTER_S
        return [shot for shot in self.shots if self.swaps[number].asked <= shot.due < end]


class Latency(NamedTuple):
    requests: int
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, shots: Sequence[Shot]) -> Latency:
        p50, p99 = np.percentile([shot.took_s * 1000 for shot in shots], [50, 99])
        return cls(len(shots), float(p50), float(p99))


def main(argv: Sequence[str]) -> str | None:
    """Model swaps under half load: failures, mixed answers, time until live, latency meanwhile."""
    parser = argparse.ArgumentParser(prog="python -m bench swap", description=main.__doc__)
    parser.add_argument("--swaps", type=int, default=SWAPS, help=f"of each composition (default {SWAPS})")
    parser.add_argument("--every", type=float, default=EVERY_S, help=f"seconds (default {EVERY_S:g})")
    parser.add_argument("--only", choices=COMPOSITIONS, help="one composition")
    parser.add_argument("--load", type=float, default=0.5, help="share of the full load (default 0.5)")
    asked = parser.parse_args(argv)
    if not DATA.exists():
        say(f"cannot run: {DATA} is not there")
        return None
    found = []
    with tempfile.TemporaryDirectory(prefix="paceline-bench-") as folder:
        for composition, settings in COMPOSITIONS.items():
            if asked.only in (None, composition):
                say(f"starting Paceline ({composition}), {NAMES[composition]} …")
                with paceline(f"swap {composition}", Path(folder) / composition, settings) as system:
                    found.append(measured(composition, system, asked.swaps, asked.every, asked.load))
    return _report(found, asked.every)


def measured(composition: str, system: System, swaps: int, every_s: float, share: float) -> Found:
    assert system.state is not None
    rollbacks = min(ROLLBACKS, swaps // 2)
    versions = publish_variants(system.state, swaps - rollbacks)
    judge = Judge(Bodies())
    for model in versions:
        judge.learn(model)
    names = [model.version for model in versions]
    order = [*names[1:], *(names[-2 - back % 2] for back in range(rollbacks))]
    before = _replicas(system)
    full_by, full_per_s = full_load(system, judge.bodies)
    say(f"  full load by {full_by}: {full_per_s:.0f} requests/s; {share:.0%} of it from now on")
    found = asyncio.run(_swapping(system, judge, order, rollbacks, full_per_s * share, every_s))
    result = Found(composition, full_per_s, full_by, full_per_s * share, *found, len(before ^ _replicas(system)))
    say(f"  {_words(result)}")
    return result


def full_load(system: System, bodies: Bodies) -> tuple[str, float]:
    """(what measured it, requests per second)."""
    if load.missing() is None:
        load.send(system.url, system.token, load.Load(FULL_CONNECTIONS), 2)
        return "wrk", load.send(system.url, system.token, load.Load(FULL_CONNECTIONS), FULL_S).requests_per_s

    async def saturate(seconds: float) -> float:
        sent = Load(system.url, system.token, bodies, None)
        began = time.monotonic()
        await sent.send(at_once(seconds), FULL_CONNECTIONS)
        return sum(shot.version is not None for shot in sent.shots) / (time.monotonic() - began)

    asyncio.run(saturate(2.0))
    return "the paced load's own client, for want of wrk", asyncio.run(saturate(FULL_S))


async def _swapping(
    system: System, judge: Judge, order: Sequence[str], rollbacks: int, per_s: float, every_s: float
) -> tuple[list[Swap], list[Shot], float]:
    sent = Load(system.url, system.token, judge.bodies, judge)
    is_over = asyncio.Event()
    loading = asyncio.create_task(sent.send(paced(time.monotonic(), per_s, is_over.is_set), CONNECTIONS))
    await asyncio.sleep(WARM_UP_S)
    began = time.monotonic()
    await asyncio.sleep(BEFORE_S)
    swaps: list[Swap] = []
    first = time.monotonic()
    for number, version in enumerate(order):
        await asyncio.sleep(max(first + number * every_s - time.monotonic(), 0.0))
        asked = time.monotonic()
        status = await activate(system.url, system.token, version)
        if status != 200:
            raise RuntimeError(f"this run does not count, activating {version} was answered with status {status}")
        swaps.append(Swap(version, asked, time.monotonic(), number >= len(order) - rollbacks))
    await asyncio.sleep(every_s)
    is_over.set()
    await loading
    return swaps, sent.shots, began


def _replicas(system: System) -> set[int]:
    """Process ids of Ingress and Predictor."""
    assert system.state is not None
    return {replica.pid for replica in Cluster(system.state).replicas()}


def _words(found: Found) -> str:
    figures = found.figures
    return (
        f"{len(found.swaps)} swaps, {len(found.shots)} requests: {figures['failed']:.0f} failed, "
        f"{figures['mixed']:.0f} mixed, live after {figures['live']:.2f} s at most, p99 {found.before.p99_ms:.1f} → "
        f"{found.during.p99_ms:.1f} ms"
    )


def _report(found: Sequence[Found], every_s: float) -> str:
    parts = [
        f"{cost.cpu_model()}. A version is activated by HTTP every {every_s:g} s: new ones, then rollbacks to "
        "versions that were live. Requests of 50 bids are due at an even pace, and their latency counts from when "
        "they were due. Every number of every answer is compared with the files of the version that the answer "
        f"names; versions differ for every placement. Before: {BEFORE_S:g} s without a swap, in the same run. During: "
        f"from the activation's request until {AFTER_S:g} s after the last answer of an older version. Load, system "
        "and child processes share the machine's cores."
    ]
    for one in found:
        rows = [figure.row(one.figures[name]) for name, figure in FIGURES.items()]
        parts.append(f"### {one.composition}: {NAMES[one.composition]}")
        parts.append(table(["figure", "goal", "not over", "measured", "verdict"], rows))
    parts.append(table(["", *(one.composition for one in found)], _details(found)))
    return "\n\n".join(parts)


def _details(found: Sequence[Found]) -> list[list[str]]:
    columns = [_detail(one) for one in found]
    return [[name, *(column[name] for column in columns)] for name in columns[0]]


def _detail(found: Found) -> Mapping[str, str]:
    live = [found.live_at(number) - swap.asked for number, swap in enumerate(found.swaps)]
    new = [number for number, swap in enumerate(found.swaps) if not swap.is_rollback]
    back = [number for number, swap in enumerate(found.swaps) if swap.is_rollback]
    answered = [swap.answered - swap.asked for swap in found.swaps]
    each = [Latency.of(found.around(number)).p99_ms for number in range(len(found.swaps))]
    before, during = found.before, found.during
    return {
        f"full load, requests/s (by {found.full_by})": f"{found.full_per_s:.0f}",
        "load, requests/s": f"{found.per_s:.0f}",
        "swaps, of these rollbacks": f"{len(found.swaps)}, {len(back)}",
        "requests": f"{len(found.shots):,}",
        "replicas that died": str(found.deaths),
        f"swaps live everywhere within {LIVE_WITHIN_S:g} s": f"{sum(one <= LIVE_WITHIN_S for one in live)}",
        "new version: activation answered, median (max)": _seconds([answered[number] for number in new]),
        "new version: live everywhere, median (max)": _seconds([live[number] for number in new]),
        "rollback: activation answered, median (max)": _seconds([answered[number] for number in back]),
        "rollback: live everywhere, median (max)": _seconds([live[number] for number in back]),
        "p50, p99 before": f"{before.p50_ms:.1f}, {before.p99_ms:.1f} ms",
        "p50, p99 during swaps": f"{during.p50_ms:.1f}, {during.p99_ms:.1f} ms ({during.requests:,} requests)",
        "p99 around one swap, median (max)": f"{median(each):.1f} ({max(each):.1f}) ms",
    }


def _seconds(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({max(values):.2f}) s" if values else "–"
