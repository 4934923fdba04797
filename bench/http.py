"""`python -m bench http`: Paceline compared with a hand-written service (the peer), in turns, as ratios of medians."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bench import cost, peer, tables
from bench.load import BIDS, Load, refused
from bench.system import COMPOSITION, DATA, LEAVES, RECORDED_LEAST, TREES, System, paceline
from bench.tables import Figure
from bench.turns import WARM_UP_S, Medians, Turn, Turns, say, turn, warm_up

SECTIONS = {
    "local": "requests/s, latency and CPU of the default composition",
    "pool": "the same of the predictor pool",
    "bids": "what one more bid costs",
    "fresh": "requests/s when no tuple was ever seen before",
    "connections": "answers to 64, 256 and 1,000 connections",
    "memory": "USS, idle and after load",
    "ledger": "what ledger, journal and λ cost",
}
LOCAL, POOL = "Paceline (local)", "Paceline (pool)"
ROUNDS, SECONDS = 5, 8
FEW, MANY = 10, 1000
LEDGER_ROUNDS = 2
"""Factor on ROUNDS for the comparison without a ledger, which has to show a few per cent."""

CROWDS = (64, 256, 1000)
WITHOUT = {"PACELINE_SCORE_LOG_SAMPLE": "0"}
"""Without a ledger there is no score log, either: it is only kept to fit λ at night."""

FIGURES = {
    "pool": Figure("requests/s ÷ tuned peer, predictor pool", 1.4, 1.0),
    "local": Figure("requests/s ÷ tuned peer, default composition (local)", 1.8, 1.3),
    "plain": Figure("requests/s ÷ idiomatic peer, default composition", 3.5, 2.5),
    "p99": Figure("p99 ÷ tuned peer's, default composition", 0.6, 0.9),
    "p50 pool": Figure("p50 at 1 connection ÷ tuned peer's, predictor pool", 1.2, 1.5),
    "p50 local": Figure("p50 at 1 connection ÷ tuned peer's, default composition", 0.5, 0.8),
    "bid": Figure(f"marginal cost of a bid, from {FEW} to {MANY:,} a request, p50 at 1 connection", 5, 10, " µs"),
    "cpu": Figure("CPU-seconds a million bids, whole system ÷ tuned peer's, default composition", 0.7, 1.1),
    "ledger": Figure("requests/s gained without ledger, journal and λ", 3, 10, " %"),
}


@dataclass
class Found:
    """What the blocks that were run have measured."""

    figures: dict[str, float] = field(default_factory=dict)
    runners: list[list[str]] = field(default_factory=list)
    fresh: list[list[str]] = field(default_factory=list)
    bids: list[list[str]] = field(default_factory=list)
    cpu: dict[str, Medians] = field(default_factory=dict)
    crowds: dict[tuple[str, int], Turn] = field(default_factory=dict)
    memory: dict[str, str] = field(default_factory=dict)
    recorded: list[float] = field(default_factory=list)
    replicas: list[str] = field(default_factory=list)


class Asked(NamedTuple):
    rounds: int
    seconds: int
    connections: int
    only: frozenset[str]

    def wants(self, *sections: str) -> bool:
        return not self.only.isdisjoint(sections)


class Peers(NamedTuple):
    tuned: System
    plain: System


def main(argv: Sequence[str]) -> str | None:
    """Requests/s, latency, CPU and memory, compared with a hand-written service."""
    asked = _asked(argv)
    if refused([peer.PEER, DATA]):
        return None
    found = Found()
    with tempfile.TemporaryDirectory(prefix="paceline-bench-") as folder, contextlib.ExitStack() as stack:
        say(f"training and starting the peer, {TREES} trees of {LEAVES} leaves …")
        peers = Peers(*stack.enter_context(peer.running(Path(folder))))
        if asked.wants("local", "bids", "fresh", "connections", "memory"):
            _beside_peer(LOCAL, "local", asked, peers, Path(folder), found)
        if asked.wants("pool", "fresh", "connections", "memory"):
            _beside_peer(POOL, "pool", asked, peers, Path(folder), found)
        if asked.wants("ledger"):
            _with_and_without(asked, Path(folder), found)
    return _report(asked, found)


def _asked(argv: Sequence[str]) -> Asked:
    sections = "; ".join(f"{name}: {what}" for name, what in SECTIONS.items())
    parser = argparse.ArgumentParser(prog="python -m bench http", description=main.__doc__, epilog=sections)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"turns of each (default {ROUNDS})")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"length of a turn (default {SECONDS})")
    parser.add_argument("--connections", type=int, default=16, help="of most turns (default 16)")
    parser.add_argument(
        "--only", action="append", choices=SECTIONS, metavar="SECTION", help=f"{', '.join(SECTIONS)}; may be repeated"
    )
    given = parser.parse_args(argv)
    return Asked(given.rounds, given.seconds, given.connections, frozenset(given.only or SECTIONS))


# Blocks: systems that run side by side


def _beside_peer(name: str, composition: str, asked: Asked, peers: Peers, folder: Path, found: Found) -> None:
    is_default = composition == "local"
    say(f"starting {name} beside the peer …")
    with paceline(name, folder / composition, {COMPOSITION: composition}) as ours:
        idle = cost.uss_mib(ours.processes())
        usual, alone = Load(asked.connections), Load(1)
        fresh = Load(asked.connections, is_fresh=True)
        plan: list[tuple[Load, list[System]]] = []
        if asked.wants(composition, "memory"):
            plan += [(usual, [peers.tuned, peers.plain, ours] if is_default else [peers.tuned, ours])]
        if asked.wants(composition):
            plan += [(alone, [peers.tuned, ours])]
        if asked.wants("fresh"):
            plan += [(fresh, [peers.tuned, ours])]
        if asked.wants("bids") and is_default:
            plan += [
                (Load(connections, bids), [peers.tuned, ours])
                for connections in (1, asked.connections)
                for bids in (FEW, MANY)
            ]
        turns = Turns(composition, asked.rounds, asked.seconds)
        warm_up([peers.tuned, ours], usual)
        turns.play(plan)
        found.replicas.append(f"{name}: {_replicas(idle)}{_idle(turns, ours)}")
        if asked.wants(composition):
            _compare(turns, ours, peers, usual, alone, found, is_default)
        if asked.wants("fresh"):
            found.fresh += _rates([("tuned peer", peers.tuned), (name, ours)], turns, fresh)
        if asked.wants("bids") and is_default:
            _marginal(turns, [ours, peers.tuned], asked.connections, found)
        if asked.wants("connections"):
            _crowds([peers.tuned, ours] if is_default else [ours], asked.seconds, found)
        if asked.wants("memory"):
            found.memory[name] = tables.memory(idle, cost.uss_mib(ours.processes()))
        if turns.recorded_least is not None:
            found.recorded.append(turns.recorded_least)


def _compare(
    turns: Turns, ours: System, peers: Peers, usual: Load, alone: Load, found: Found, is_default: bool
) -> None:
    tuned, us = turns.of(peers.tuned, usual), turns.of(ours, usual)
    tuned_alone, us_alone = turns.of(peers.tuned, alone), turns.of(ours, alone)
    composition = "local" if is_default else "pool"
    found.figures[composition] = us.requests_per_s / tuned.requests_per_s
    found.figures[f"p50 {composition}"] = us_alone.p50_ms / tuned_alone.p50_ms
    found.runners.append(_runner(f"{peers.tuned.name}, beside {composition}", tuned, tuned, tuned_alone))
    if is_default:
        plain = turns.of(peers.plain, usual)
        found.figures["plain"] = us.requests_per_s / plain.requests_per_s
        found.figures["p99"] = us.p99_ms / tuned.p99_ms
        found.figures["cpu"] = us.cpu_s_in_all / tuned.cpu_s_in_all
        found.runners.append(_runner(f"{peers.plain.name}, beside {composition}", plain, tuned, None))
    found.runners.append(_runner(ours.name, us, tuned, us_alone))
    found.cpu[ours.name] = us


def _runner(name: str, usual: Medians, tuned: Medians, alone: Medians | None) -> list[str]:
    return [
        name,
        f"{usual.requests_per_s:.0f}",
        f"{usual.requests_per_s / tuned.requests_per_s:.2f}",
        f"{usual.p50_ms:.1f} ms",
        f"{usual.p99_ms:.1f} ms",
        "–" if alone is None else f"{alone.p50_ms:.2f} ms",
        f"{usual.cpu_s_in_all / BIDS * 1e6:.1f}",
    ]


def _rates(systems: Iterable[tuple[str, System]], turns: Turns, load: Load) -> list[list[str]]:
    medians = [(name, turns.of(system, load)) for name, system in systems]
    first = medians[0][1]
    return [
        [
            name if one is not first else f"{name}, beside {medians[-1][0]}",
            f"{one.requests_per_s:.0f}",
            f"{one.requests_per_s / first.requests_per_s:.2f}",
            f"{one.p50_ms:.1f} ms",
            f"{one.p99_ms:.1f} ms",
        ]
        for name, one in medians
    ]


def _marginal(turns: Turns, systems: Sequence[System], connections: int, found: Found) -> None:
    """The marginal cost of a bid, in µs."""
    more = MANY - FEW
    for system in systems:
        few, many = (turns.of(system, Load(1, bids)) for bids in (FEW, MANY))
        few_usual, many_usual = (turns.of(system, Load(connections, bids)) for bids in (FEW, MANY))
        latency = (many.p50_ms - few.p50_ms) * 1e3 / more
        time_between = (1 / many_usual.requests_per_s - 1 / few_usual.requests_per_s) * 1e6 / more
        cpu = (many_usual.cpu_s_in_all - few_usual.cpu_s_in_all) * 1e6 / more
        shown = [f"{micros:.2f} µs" for micros in (latency, time_between, cpu)]
        found.bids.append([system.name, f"{few.p50_ms:.2f} ms", f"{many.p50_ms:.2f} ms", *shown])
        if system is systems[0]:
            found.figures["bid"] = latency


def _crowds(systems: Sequence[System], seconds: int, found: Found) -> None:
    for connections in CROWDS:
        for system in systems:
            one = turn(system, Load(connections, counts_statuses=True), seconds)
            found.crowds[system.name, connections] = one
            seen = one.seen
            say(
                f"  {system.name}, {connections} connections: {seen.accepted} × 2xx, {seen.shed} × 503, "
                f"{seen.failed} others, {seen.sockets} socket errors"
            )


def _with_and_without(asked: Asked, folder: Path, found: Found) -> None:
    composition = {COMPOSITION: "local"}
    without = f"{LOCAL} without ledger"
    say(f"starting {LOCAL} and {without} …")
    with (
        paceline(f"{LOCAL}, beside without ledger", folder / "with", composition) as on,
        paceline(without, folder / "without", composition | WITHOUT, has_ledger=False) as off,
    ):
        usual = Load(asked.connections)
        turns = Turns("ledger", LEDGER_ROUNDS * asked.rounds, asked.seconds)
        warm_up([on, off], usual)
        turns.play([(usual, [on, off])])
        found.replicas += [f"{one.name}: {_replicas(one.processes())}{_idle(turns, one)}" for one in (on, off)]
        with_, without_ = turns.of(on, usual), turns.of(off, usual)
        found.figures["ledger"] = (without_.requests_per_s / with_.requests_per_s - 1) * 100
        for system, medians in ((on, with_), (off, without_)):
            row = _runner(system.name, medians, with_, None)
            found.runners.append([*row[:2], "–", *row[3:]])
            found.cpu[system.name] = medians
        if turns.recorded_least is not None:
            found.recorded.append(turns.recorded_least)


def _replicas(processes: Iterable[cost.Process]) -> str:
    roles = [process.role for process in processes]
    counts = ((roles.count(role), role) for role in ("Ingress", "Predictor"))
    return ", ".join(f"{number} × {role}" for number, role in counts if number)


def _idle(turns: Turns, system: System) -> str:
    share = turns.idle_share(system)
    if share is None:
        return ""
    lost = share / (os.cpu_count() or 1)
    return f" ({share:.1%} of a core while others had their turns, so that these had {lost:.1%} less of the machine)"


# What is said of it


def _report(asked: Asked, found: Found) -> str:
    parts = [_how(asked, found)]
    rows = [figure.row(found.figures.get(name)) for name, figure in FIGURES.items()]
    rows.append(tables.errors(found.crowds or None, "Paceline"))
    parts.append(tables.table(["figure", "goal", "not under", "measured", "verdict"], rows))
    latency = ["p50", "p99"]
    if found.runners:
        head = ["medians", "requests/s", "÷ tuned peer", *latency, "p50 at 1 connection", "CPU-s a million bids"]
        parts.append(tables.table(head, found.runners))
    if found.fresh:
        head = ["every tuple new (fresh.lua)", "requests/s", "÷ tuned peer", *latency]
        parts.append(tables.table(head, found.fresh))
    if found.bids:
        parts.append(_bids(asked, found))
    if found.crowds:
        parts.append(tables.connections(found.crowds))
    if found.cpu:
        parts.append(tables.cpu(found.cpu, BIDS))
    parts += [f"Memory of {name}:\n\n{table}" for name, table in found.memory.items()]
    return "\n\n".join(parts)


def _how(asked: Asked, found: Found) -> str:
    lines = [
        f"{cost.cpu_model()}, {os.cpu_count()} cores, shared by wrk and what it measures. {BIDS} bids a request, "
        f"{asked.connections} connections unless said otherwise, {TREES} trees of {LEAVES} leaves on both sides. "
        f"Medians of {asked.rounds} turns of {asked.seconds} s; a ratio is one of medians of the same block. Blocks, "
        "whose systems run side by side and take turns, every other round in opposite order: the peer and Paceline "
        f"(local); the peer and Paceline (pool); Paceline with and without its ledger, with {LEDGER_ROUNDS} times as "
        "many turns. A system that waits for its turn keeps running: an idle peer takes no CPU, an idle Ray cluster "
        f"takes some (see below). {WARM_UP_S} s of load before the first turn of each. The load is score.lua's: 64 "
        "bodies, sent again and again, whose predictions Paceline caches; placements that are new each time have a "
        "table of their own.",
        f"Replicas: {'; '.join(found.replicas)}." if found.replicas else "",
        f"A turn is void if an answer is not 2xx, if a sample of answers has no win, or if fewer than "
        f"{RECORDED_LEAST:.0%} of its requests have a recorded reservation"
        + (f"; the least was {min(min(found.recorded), 1.0):.2%}." if found.recorded else ".")
        + " CPU-seconds are utime + stime of all of a system's processes (Ray, HAProxy and Redis included, wrk not), "
        "from the turn's start until its last win is recorded; the idle second that this takes counts against "
        "Paceline.",
        "Without ledger means `bench/no_ledger.py`: every win is granted from memory; there are no leases, records, "
        "sessions, sketches, beats or score log.",
    ]
    partial = sorted(SECTIONS.keys() - asked.only)
    if partial or asked.rounds < ROUNDS or asked.seconds < SECONDS:
        why = [f"without {', '.join(partial)}"] if partial else []
        why += [f"{asked.rounds} rounds instead of {ROUNDS}"] if asked.rounds < ROUNDS else []
        why += [f"turns of {asked.seconds} s instead of {SECONDS}"] if asked.seconds < SECONDS else []
        lines.insert(0, f"**A partial run: {'; '.join(why)}.**")
    return "\n\n".join(line for line in lines if line)


def _bids(asked: Asked, found: Found) -> str:
    head = [
        "one more bid",
        f"p50 of {FEW} bids",
        f"p50 of {MANY:,} bids",
        "p50, 1 connection",
        f"time a request, {asked.connections} connections",
        f"CPU, {asked.connections} connections",
    ]
    how = (
        f"The marginal cost of a bid is the difference between the medians of requests with {MANY:,} and with {FEW} "
        f"bids, divided by {MANY - FEW}: of p50 at 1 connection, of 1 ÷ (requests/s), of CPU-seconds per request."
    )
    return f"{tables.table(head, found.bids)}\n\n{how}"
