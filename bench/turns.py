"""Puts systems under the same load in turns, round by round, and computes medians."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import median
from typing import NamedTuple

from bench import cost
from bench.load import Load, Seen, send
from bench.system import RECORDED_LEAST, System

WARM_UP_S = 3


class Turn(NamedTuple):
    """What one system did under one load."""

    seen: Seen
    recorded: int | None  # requests whose win is on record; None: nothing records any
    cpu_s: dict[str, float]  # by role, until the records had followed

    @property
    def recorded_share(self) -> float | None:
        return None if self.recorded is None else self.recorded / max(self.seen.accepted, 1)


class Medians(NamedTuple):
    """Over the turns of one system under one load."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_s: dict[str, float]  # a request, by role
    cpu_s_in_all: float  # a request: the median of sums, not the sum of medians


Key = tuple[str, Load]
"""A system's name and what it was sent."""


def turn(system: System, load: Load, seconds: int) -> Turn:
    """
    Raises:
        RuntimeError: the turn is void: an answer was not 2xx (unless the load counts statuses), or wins that were
            answered are not recorded.
    """
    before = cost.cpu_s(system.processes())
    seen = send(system.url, system.token, load, seconds)
    recorded = system.recorded(seen) if system.has_ledger else None
    found = Turn(seen, recorded, cost.spent_s(before, cost.cpu_s(system.processes())))
    share = found.recorded_share
    if share is not None and share < RECORDED_LEAST and not load.counts_statuses:
        raise RuntimeError(
            f"this run does not count: {system.name} answered {seen.accepted} requests, but has recorded a win of only "
            f"{recorded} ({share:.2%}), and {RECORDED_LEAST:.0%} are needed"
        )
    return found


def warm_up(systems: Sequence[System], load: Load) -> None:
    for system in systems:
        turn(system, load, WARM_UP_S)


class Turns:
    """All turns of some systems that run side by side."""

    def __init__(self, block: str, rounds: int, seconds: int) -> None:
        self._block, self._rounds, self._seconds = block, rounds, seconds
        self._found: defaultdict[Key, list[Turn]] = defaultdict(list)
        self._idle: defaultdict[str, list[float]] = defaultdict(list)

    def play(self, plan: Sequence[tuple[Load, Sequence[System]]]) -> None:
        """Play all rounds: a turn of each system under each load, in opposite order every other round."""
        clusters = {system.name: system for _, systems in plan for system in systems if system.state is not None}
        for number in range(self._rounds):
            for load, systems in plan:
                for system in systems[:: -1 if number % 2 else 1]:
                    if system.state is not None:
                        system.must_win()
                    with self._watched([one for one in clusters.values() if one.root != system.root]):
                        found = turn(system, load, self._seconds)
                    self._found[system.name, load].append(found)
                    say(
                        f"  {self._block}, round {number + 1} of {self._rounds}: {system.name}, {load}: "
                        f"{found.seen.requests_per_s:.0f} requests/s, p50 {found.seen.p50_ms:.2f} ms"
                    )

    @contextlib.contextmanager
    def _watched(self, idle: Sequence[System]) -> Iterator[None]:
        """CPU that the waiting systems take from the one whose turn it is."""
        before, began = [cost.cpu_s(system.processes()) for system in idle], time.monotonic()
        yield
        passed_s = time.monotonic() - began
        for system, known in zip(idle, before, strict=True):
            spent_s = sum(cost.spent_s(known, cost.cpu_s(system.processes())).values())
            self._idle[system.name].append(spent_s / passed_s)

    def idle_share(self, system: System) -> float | None:
        """Median share of a core that a system took while others had their turns."""
        return median(self._idle[system.name]) if self._idle[system.name] else None

    def of(self, system: System, load: Load) -> Medians:
        found = [one for one in self._found[system.name, load] if one.seen.requests]
        if not found:
            raise RuntimeError(f"this run does not count, {system.name} answered no request under {load}")
        roles = {role for one in found for role in one.cpu_s}
        return Medians(
            median(one.seen.requests_per_s for one in found),
            median(one.seen.p50_ms for one in found),
            median(one.seen.p99_ms for one in found),
            {role: median(one.cpu_s.get(role, 0.0) / one.seen.requests for one in found) for role in roles},
            median(sum(one.cpu_s.values()) / one.seen.requests for one in found),
        )

    @property
    def recorded_least(self) -> float | None:
        """The smallest share, of all turns, of accepted requests whose win is recorded."""
        shares = [one.recorded_share for found in self._found.values() for one in found]
        return min((share for share in shares if share is not None), default=None)


def say(text: str) -> None:
    print(text, flush=True)
