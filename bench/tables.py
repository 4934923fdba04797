"""Formats measurements and goals as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bench import cost
from bench.system import RECORDED_LEAST
from bench.turns import Medians, Turn

MEMORY_SMALL_MIB = 30.0
"""Processes below it are shown together."""

MET, BEARABLE, MISSED, UNKNOWN = "goal met", "not at the goal, within bounds", "**missed**", "not measured"


class Figure(NamedTuple):
    """One number with a goal and a bound."""

    name: str
    goal: float
    bound: float  # the goal's side of it decides which way is better
    unit: str = ""

    def row(self, measured: float | None) -> list[str]:
        words = [self._shown(self.goal), self._shown(self.bound)]
        if measured is None:
            return [self.name, *words, "–", UNKNOWN]
        sign = 1 if self.goal > self.bound else -1
        verdict = MET if sign * (measured - self.goal) >= 0 else BEARABLE
        if sign * (measured - self.bound) < 0:
            verdict = MISSED
        return [self.name, *words, self._shown(measured, digits=3), verdict]

    def _shown(self, value: float, digits: int | None = None) -> str:
        return f"{value:g}{self.unit}" if digits is None else f"{value:.{digits - 1}f}{self.unit}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    shown = [f"| {' | '.join(line)} |" for line in (head, *rows)]
    return "\n".join([shown[0], f"|{'---|' * len(head)}", *shown[1:]])


def errors(found: Mapping[tuple[str, int], Turn] | None, ours: str) -> list[str]:
    """The row of the figures' table about errors at many connections."""
    head = ["errors at many connections", "0", "shed with 503 only"]
    if found is None:
        return [*head, "–", UNKNOWN]
    turns = [turn for (name, _), turn in found.items() if name.startswith(ours)]
    shed = sum(turn.seen.shed for turn in turns)
    others = sum(turn.seen.failed + turn.seen.sockets for turn in turns)
    shares = [turn.recorded_share for turn in turns]
    lost = any(share is not None and share < RECORDED_LEAST for share in shares)
    verdict = MISSED if others or lost else BEARABLE if shed else MET
    accepted = sum(turn.seen.accepted for turn in turns)
    return [*head, f"{shed} shed, {others} others of {accepted + shed + others}", verdict]


def connections(found: Mapping[tuple[str, int], Turn]) -> str:
    rows = []
    for (name, number), turn in found.items():
        seen, share = turn.seen, turn.recorded_share
        rows.append(
            [
                name,
                str(number),
                f"{seen.requests_per_s:.0f}",
                f"{seen.p50_ms:.0f} ms",
                f"{seen.p99_ms:.0f} ms",
                *(str(count) for count in (seen.accepted, seen.shed, seen.failed, seen.sockets)),
                "–" if share is None else f"{min(share, 1.0):.2%}",
            ]
        )
    head = ["", "connections", "requests/s", "p50", "p99", "2xx", "503", "other statuses", "socket errors"]
    why = (
        "All connections are opened when a turn begins. uvloop, which both sides use, accepts one per turn of its "
        "event loop, so the last ones wait while the others are answered many times: that makes the p99."
    )
    return f"{table([*head, '2xx with a win on record'], rows)}\n\n{why}"


def cpu(found: Mapping[str, Medians], bids: int) -> str:
    """CPU-seconds per million bids, by role."""
    of_million = 1e6 / bids
    roles = sorted(
        {role for medians in found.values() for role in medians.cpu_s},
        key=lambda role: -max(medians.cpu_s.get(role, 0.0) for medians in found.values()),
    )
    rows = [[role, *(_or_dash(medians.cpu_s.get(role), of_million) for medians in found.values())] for role in [*roles]]
    whole = ["**all**", *(f"**{medians.cpu_s_in_all * of_million:.2f}**" for medians in found.values())]
    return table(["CPU-seconds a million bids", *found], [*rows, whole])


def _or_dash(value: float | None, factor: float) -> str:
    return "–" if value is None else f"{value * factor:.2f}"


def memory(idle: Mapping[cost.Process, float], loaded: Mapping[cost.Process, float]) -> str:
    """USS by process, large ones first, small ones together."""
    every = sorted({*idle, *loaded}, key=lambda process: -max(idle.get(process, 0.0), loaded.get(process, 0.0)))
    large = [one for one in every if max(idle.get(one, 0.0), loaded.get(one, 0.0)) >= MEMORY_SMALL_MIB]
    rows = [[one.title, *(_mib(looked.get(one)) for looked in (idle, loaded))] for one in large]
    small = [one for one in every if one not in large]
    rest = [sum(looked.get(one, 0.0) for one in small) for looked in (idle, loaded)]
    rows.append([f"{len(small)} others, each below {MEMORY_SMALL_MIB:g} MiB", *(_mib(value) for value in rest)])
    rows.append(["**all**", *(f"**{sum(looked.values()):.0f}**" for looked in (idle, loaded))])
    return table(["USS, MiB", "idle", "after load"], rows)


def _mib(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"
