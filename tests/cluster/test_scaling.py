"""More replicas on more nodes: the same promises, and nothing that every request pays for them. Real raylets."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from bench.nodes import Cluster, Replica, Wanted, joined
from bench.paced import BANNERS, Paced, send
from bench.scaling import Counts, counts, recorded_of
from bench.system import BRANDS, LIMITS
from bench.system import System as Measured
from db.state import State
from serve_app.launcher import processes
from tests.cluster.conftest import System

HEAD = (
    "ts,brand_id,partner_id,slot_id,device_type,creative_type,placement_score,impressions,clicks,conversions,cost,"
    "revenue\n"
)
INGRESS, FEW_PER_S, MANY_PER_S, SECONDS = 4, 20, 120, 4.0


class Load(NamedTuple):
    """One load, and what was counted around it."""

    sent: Paced
    recorded: int  # requests with a win on record
    records: int  # wins on record
    sessions: int  # replicas whose wins they are
    before: Counts
    after: Counts

    @property
    def seconds(self) -> float:
        return self.after.at_s - self.before.at_s

    @property
    def beats(self) -> int:
        return self.after.calls["beat"] - self.before.calls["beat"]

    @property
    def other_calls(self) -> int:
        return sum(self.after.calls.values()) - sum(self.before.calls.values()) - self.beats

    @property
    def redis_commands(self) -> int:
        return sum(self.after.redis.values()) - sum(self.before.redis.values())

    @property
    def transactions(self) -> int:
        return self.after.transactions - self.before.transactions


class Scaled(NamedTuple):
    system: System
    cluster: Cluster
    replicas: list[Replica]
    few: Load
    many: Load


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scaled]:
    """Four ingress replicas over two raylets, under a small load and under one six times as large."""
    folder = tmp_path_factory.mktemp("scaling")
    history = folder / "history.csv"
    history.write_text(HEAD + "".join(_history()))
    system = System(folder / "state", DATA=str(history), PACELINE_MODEL_TREES="20", PACELINE_MODEL_LEAVES="15")
    try:
        system.start()
        with system.http() as http:
            for brand_id in BRANDS:
                http.put(f"/api/brands/{brand_id}", json=LIMITS).raise_for_status()
        cluster = Cluster(State(system.state.resolve()))
        with joined(cluster, 1, folder):
            replicas = cluster.deploy(Wanted("local", INGRESS))
            few, many = (loaded(system, cluster, per_s) for per_s in (FEW_PER_S, MANY_PER_S))
            yield Scaled(system, cluster, replicas, few, many)
            system.stop()  # before its nodes go: it would start their replicas again elsewhere
    finally:
        system.stop()
        processes.end(system.left_over(), 3.0)
        shutil.rmtree(State(system.state.resolve()).scratch, ignore_errors=True)


def _history() -> Iterator[str]:
    """A month of a few slots: enough for a first model, and read in a moment."""
    for day, brand_id, banner in itertools.product(range(1, 31), BRANDS, BANNERS):
        yield (
            f"2020-04-{day:02d}T00:00:00Z,{brand_id},partner-abc,abc:{banner},unknown,{banner},0.3,1000,"
            f"{5 + day % 3},1,1.2,{1.5 + day % 2}\n"
        )


def loaded(system: System, cluster: Cluster, per_s: int) -> Load:
    state = State(system.state.resolve())
    measured = Measured("scaling", f"{cluster.run['url']}/api/score", system.token, cluster.run["pid"], state, True)
    send(measured.url, measured.token, per_s, 1.0)  # leases
    before = counts(measured, cluster)
    sent = send(measured.url, measured.token, per_s, SECONDS)
    recorded, records = recorded_of(state, sent)
    return Load(sent, recorded, records, _sessions(state, sent), before, counts(measured, cluster))


def _sessions(state: State, sent: Paced) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{state.database}?mode=ro", uri=True)) as database:
        (number,) = database.execute(
            "SELECT COUNT(DISTINCT session_id) FROM reservations WHERE request_id >= ? AND request_id < ?",
            (f"{sent.name}-", f"{sent.name}."),
        ).fetchone()
    return int(number)


def test_replicas_spread_over_the_nodes_and_all_of_them_answer(scaled: Scaled) -> None:
    assert len(scaled.replicas) == INGRESS
    assert len({replica.node_id for replica in scaled.replicas}) == 2
    assert scaled.many.sessions == INGRESS  # each has drawn wins


def test_every_answered_win_is_recorded_once(scaled: Scaled) -> None:
    for load in (scaled.few, scaled.many):
        assert load.sent.others == 0
        assert load.sent.won > load.sent.accepted / 2
        assert load.recorded == load.records == load.sent.won


def test_the_ledger_is_called_by_the_clock_not_by_requests(scaled: Scaled) -> None:
    for load in (scaled.few, scaled.many):
        # One a second and replica; some more while leases are wanted.
        assert load.beats <= 3 * INGRESS * (load.seconds + 1)
        assert load.other_calls <= 2 * INGRESS * (load.seconds + 1)
    requests = scaled.many.sent.accepted - scaled.few.sent.accepted
    assert scaled.many.beats - scaled.few.beats < requests / 4


def test_redis_and_database_do_not_hear_of_single_requests(scaled: Scaled) -> None:
    few, many = scaled.few, scaled.many
    requests = many.sent.accepted - few.sent.accepted
    assert many.redis_commands - few.redis_commands < requests / 2
    assert many.transactions - few.transactions < requests / 4


def test_the_books_balance(scaled: Scaled) -> None:
    done = scaled.system.run_module("ledger.audit", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
