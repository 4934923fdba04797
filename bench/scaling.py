"""`python -m bench scaling`: which costs grow with the number of replicas, on several raylets of this machine."""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil
from redis import Redis

from bench import cost, paced
from bench.load import BIDS, refused
from bench.nodes import Cluster, Wanted, joined
from bench.system import DATA, System, paceline
from bench.tables import table
from bench.turns import say
from db.state import State

NODES, SECONDS = 2, 8
REPLICAS = (1, 2, 4)
RATES = (100, 300)
"""Requests a second: few, so that two cores are not the limit."""

RECORDED_WITHIN_S = 20.0
FEW, MANY = 10, 200
"""Bids a request of two more loads, from which the cost of one more bid is computed."""

ROWS = "SELECT (SELECT COUNT(*) FROM reservations) + (SELECT COUNT(*) FROM ledger_journal)"
HOT = ("Ingress", "Predictor", "HAProxy", "ledger", "Redis")


class Counts(NamedTuple):
    """Counters until now, read from outside the application."""

    at_s: float  # monotonic
    calls: Mapping[str, int]  # of the ledger actor, by method: Ray's own record
    beats: Mapping[int, int]  # of each session, by its row
    redis: Mapping[str, int]  # commands, by name
    transactions: int  # of the database, whoever made them
    rows: int  # of reservations and of the journal
    cpu_s: Mapping[cost.Process, float]


class Spell(NamedTuple):
    """What was measured during some seconds of one load on one composition."""

    wanted: Wanted
    nodes: int  # that have a replica
    per_s: int  # requests
    bids: int  # of each
    seconds: float
    accepted: int
    won: int
    recorded: int  # requests with a win on record
    records: int  # wins on record: more than `recorded` if one were recorded twice
    calls: Mapping[str, int]
    beats: int
    redis: Mapping[str, int]
    transactions: int
    rows: int
    cpu_s: Mapping[str, float]  # by role
    connections: Mapping[str, Sequence[int]]  # TCP, of each process, by role
    redis_clients: int
    request_bytes: int
    answer_bytes: int


def main(argv: Sequence[str]) -> str | None:
    """What a second and a request cost at 1, 2 and 4 replicas, on several raylets."""
    parser = argparse.ArgumentParser(prog="python -m bench scaling", description=main.__doc__)
    parser.add_argument("--nodes", type=int, default=NODES, help=f"raylets besides the head's (default {NODES})")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"of each load (default {SECONDS})")
    parser.add_argument("--rates", type=int, nargs="+", default=RATES, help=f"requests a second (default {RATES})")
    parser.add_argument("--predictor", choices=("local", "pool"), help="one composition only")
    asked = parser.parse_args(argv)
    if refused([DATA]):
        return None
    plan = [Wanted("local", number) for number in REPLICAS if asked.predictor != "pool"]
    plan += [Wanted("pool", 2, number) for number in REPLICAS if asked.predictor != "local"]
    with tempfile.TemporaryDirectory(prefix="paceline-bench-") as folder:
        say("starting Paceline …")
        with paceline("scaling", Path(folder) / "paceline", {}) as system:
            assert system.state is not None
            cluster = Cluster(system.state)
            say(f"{asked.nodes} more nodes …")
            with joined(cluster, asked.nodes, Path(folder)):
                spells = [
                    spell for wanted in plan for spell in spells_of(system, cluster, wanted, asked.rates, asked.seconds)
                ]
    return report(spells, asked.nodes)


def spells_of(system: System, cluster: Cluster, wanted: Wanted, rates: Sequence[int], seconds: float) -> list[Spell]:
    """Deploy, warm up, then measure some seconds without load and with each load."""
    began = time.monotonic()
    nodes = len({replica.node_id for replica in cluster.deploy(wanted)})
    say(f"  {wanted} on {nodes} nodes after {time.monotonic() - began:.0f} s")
    is_fresh = wanted.predictor == "pool"  # else the ingress remembers, and nobody is asked
    paced.send(system.url, system.token, max(rates), 3.0, is_fresh=is_fresh)
    time.sleep(2.0)
    found = []
    for per_s in (0, *rates):
        found.append(spell(system, cluster, wanted, nodes, per_s, seconds, is_fresh))
        say(f"    {per_s} requests/s: {found[-1].beats} beats, {sum(found[-1].redis.values())} Redis commands")
    if wanted in (Wanted("local", 1), Wanted("pool", 2, 1)):
        found += [spell(system, cluster, wanted, nodes, min(rates), seconds, is_fresh, bids) for bids in (FEW, MANY)]
    return found


def spell(
    system: System,
    cluster: Cluster,
    wanted: Wanted,
    nodes: int,
    per_s: int,
    seconds: float,
    is_fresh: bool = False,
    bids: int = BIDS,
) -> Spell:
    """
    Raises:
        RuntimeError: not every request was answered with 2xx.
    """
    assert system.state is not None
    before = counts(system, cluster)
    sent = None
    if per_s:
        sent = paced.send(system.url, system.token, per_s, seconds, bids, is_fresh)
        if sent.others:
            all_ = sent.others + sent.accepted
            raise RuntimeError(f"this run does not count, {sent.others} of {all_} answers were not 2xx")
    else:
        time.sleep(seconds)
    with Redis(unix_socket_path=str(system.state.redis_socket)) as redis:
        clients = redis.info("clients")["connected_clients"] - 1
    connected = connections(system.processes())
    recorded, records = recorded_of(system.state, sent) if sent else (0, 0)
    after = counts(system, cluster)
    return Spell(
        wanted,
        nodes,
        per_s,
        bids,
        after.at_s - before.at_s,
        sent.accepted if sent else 0,
        sent.won if sent else 0,
        recorded,
        records,
        Counter(after.calls) - Counter(before.calls),
        sum((Counter(after.beats) - Counter(before.beats)).values()),
        Counter(after.redis) - Counter(before.redis) - Counter({"info": 2}),  # our own look
        after.transactions - before.transactions,
        after.rows - before.rows,
        cost.spent_s(before.cpu_s, after.cpu_s),
        connected,
        clients,
        sent.request_bytes if sent else 0,
        sent.answer_bytes if sent else 0,
    )


def counts(system: System, cluster: Cluster) -> Counts:
    assert system.state is not None
    with contextlib.closing(_database(system.state)) as database:
        beats = dict(database.execute("SELECT session_id, beat FROM ledger_sessions").fetchall())
        (rows,) = database.execute(ROWS).fetchone()
    with Redis(unix_socket_path=str(system.state.redis_socket)) as redis:
        commands = redis.info("commandstats")
    return Counts(
        time.monotonic(),
        cluster.calls(),
        beats,
        {name.removeprefix("cmdstat_"): int(entry["calls"]) for name, entry in commands.items()},
        transactions(system.state),
        int(rows),
        cost.cpu_s(system.processes()),
    )


def transactions(state: State) -> int:
    """Write transactions of the embedded database, which SQLite counts in shared memory (`iChange`, wal.c)."""
    found: int = struct.unpack_from("=I", Path(f"{state.database}-shm").read_bytes(), 8)[0]
    return found


def recorded_of(state: State, sent: paced.Paced) -> tuple[int, int]:
    """(requests with a win on record, wins on record); waits for beats that are still to come."""
    until = time.monotonic() + RECORDED_WITHIN_S
    with contextlib.closing(_database(state)) as database:
        while True:
            requests, rows = database.execute(
                "SELECT COUNT(DISTINCT request_id), COUNT(*) FROM reservations"
                " WHERE request_id >= ? AND request_id < ? AND status <> 'void'",
                (f"{sent.name}-", f"{sent.name}."),
            ).fetchone()
            if requests >= sent.won or time.monotonic() > until:
                return int(requests), int(rows)
            time.sleep(0.25)


def connections(processes: Iterable[cost.Process]) -> dict[str, list[int]]:
    """Number of established TCP connections of each process, by role."""
    found: dict[str, list[int]] = {}
    for process in processes:
        number = 0
        with contextlib.suppress(psutil.Error):
            connected = psutil.Process(process.pid).net_connections("tcp")
            number = sum(one.status == psutil.CONN_ESTABLISHED for one in connected)
        found.setdefault(process.role, []).append(number)
    return found


def _database(state: State) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{state.database}?mode=ro", uri=True, timeout=10.0)


def report(spells: Sequence[Spell], nodes: int) -> str:
    idle = {spell.wanted: spell for spell in spells if not spell.per_s}
    head = [
        "replicas", "nodes", "requests/s", "beats/s", "a replica", "other calls of the ledger/s", "Redis commands/s",
        "transactions/s", "rows a win", "wins recorded", "of those answered",
    ]  # fmt: skip
    usual = [spell for spell in spells if spell.bids == BIDS]
    rows = [_rates(spell) for spell in usual]
    roles = [role for role in HOT if any(spell.cpu_s.get(role) for spell in spells)]
    loaded = [spell for spell in usual if spell.per_s == max(one.per_s for one in usual)]
    cpu = [[str(one.wanted), *_costs(one, idle[one.wanted], roles)] for one in loaded]
    slow = {(one.wanted, one.bids): one for one in spells if one.per_s == usual[1].per_s}
    by_bids = [
        [str(one.wanted), str(bids), *_costs(one, idle[wanted], roles)]
        for (wanted, bids), one in sorted(slow.items(), key=lambda item: (str(item[0][0]), item[0][1]))
        if (wanted, MANY) in slow
    ]
    tcp = [
        [str(one.wanted), *(_connected(one.connections.get(role)) for role in roles), str(one.redis_clients)]
        for one in loaded
    ]
    resting = [
        [str(one.wanted), *(f"{one.cpu_s.get(role, 0.0) / one.seconds * 1000:.1f}" for role in roles)]
        for one in idle.values()
    ]
    commands = {spell.per_s: spell.redis for spell in usual if spell.wanted == usual[-1].wanted}
    return "\n\n".join(
        [
            f"{nodes + 1} raylets on one machine, each with its own ports; replicas spread over them, HAProxy only on "
            "the head node, since they share one address. One cluster, deployed again for each line through Serve's "
            "REST interface. `local`: the model is in each ingress replica; `+ predictor`: two ingress replicas with a "
            "pool, and new placements in each request, so that every bid is predicted.",
            table(head, rows),
            "Calls: by Ray's own record of the ledger actor's tasks. Beats: by the numbers in the sessions' rows. "
            "Redis: by INFO commandstats, without our own. Transactions: of all writers, by SQLite's own count; one "
            "per second and replica may be the score log's.",
            f"**CPU, µs per request** at {loaded[0].per_s}/s, without the idle cost of the same seconds; bytes of a "
            "request and of its answer, headers included:",
            table(["replicas", *roles, "in", "out"], cpu),
            f"**CPU, µs per request by number of bids**, one replica of each kind, {usual[1].per_s}/s:",
            table(["replicas", "bids", *roles, "in", "out"], by_bids),
            "**CPU, ms per second**, without requests:",
            table(["replicas", *roles], resting),
            "**TCP connections** that are established during the load or just after it, per process (median; also the "
            "maximum if it differs), and all connections to Redis:",
            table(["replicas", *roles, "to Redis"], tcp),
            f"Redis commands of the last composition ({usual[-1].wanted}), by requests/s:",
            table(
                ["command", *(f"{per_s}/s" for per_s in commands)],
                [
                    [name, *(str(found.get(name, 0)) for found in commands.values())]
                    for name in sorted({name for found in commands.values() for name in found})
                ],
            ),
        ]
    )


def _rates(one: Spell) -> list[str]:
    replicas, calls = one.wanted.ingress, dict(one.calls)
    calls.pop("beat", None)
    beats = one.beats / one.seconds
    others = ", ".join(f"{name} {number / one.seconds:.2f}" for name, number in sorted(calls.items()))
    return [
        str(one.wanted),
        str(one.nodes),
        f"{one.accepted / one.seconds:.0f}" if one.per_s else "0",
        f"{beats:.1f}",
        f"{beats / replicas:.2f}",
        others or "0",
        f"{sum(one.redis.values()) / one.seconds:.1f}",
        f"{one.transactions / one.seconds:.1f}",
        f"{one.rows / one.won:.2f}" if one.won else "–",
        str(one.recorded),
        f"{one.recorded / one.won:.2%}" if one.won else "–",
    ]


def _costs(one: Spell, idle: Spell, roles: Sequence[str]) -> list[str]:
    sizes = (f"{size / 1000:.1f} KB" for size in (one.request_bytes, one.answer_bytes))
    return [*(_cpu(one, idle, role) for role in roles), *sizes]


def _cpu(one: Spell, idle: Spell, role: str) -> str:
    """CPU of a request in µs, beyond the idle cost."""
    spent = one.cpu_s.get(role, 0.0) - idle.cpu_s.get(role, 0.0) / idle.seconds * one.seconds
    return f"{spent / max(one.accepted, 1) * 1e6:.0f}"


def _connected(numbers: Sequence[int] | None) -> str:
    if not numbers:
        return "–"
    middle, most = median(numbers), max(numbers)
    return f"{middle:g}" if middle == most else f"{middle:g} ({most})"
