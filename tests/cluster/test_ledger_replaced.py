"""The money goes on without a ledger that has stopped, and without its consent: real Ray, real processes."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import secrets
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from db.brands import BrandSettings
from db.session import Database
from db.settings import DatabaseSettings
from ledger.domain.errors import LedgerUnavailable
from ledger.domain.settings import LedgerSettings
from ledger.invariants import audit
from ledger.runtime import deployment
from ledger.runtime.deployment import connect, replace
from ledger.runtime.generations import living_generations, name_of
from serve_app.launcher import processes
from tests.contract.ledgers import event

NAME = f"ledgers-{os.getpid()}"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    """A small Ray of its own; every process of it can be told by its mark."""
    import ray

    scratch = Path("/tmp") / f"pl-{secrets.token_hex(4)}"
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv(processes.MARK, NAME)
        environ.setenv("PYTHONPATH", str(ROOT))
        ray.init(
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            namespace="tests",
            _temp_dir=str(scratch),
            _node_ip_address="127.0.0.1",
        )
        try:
            yield ray
        finally:
            ray.shutdown()
            try:
                wait_until(lambda: processes.marked(NAME) == [])
            finally:
                processes.end(processes.marked(NAME), 3.0)


@pytest.fixture
def database(ray_cluster: Any, sqlite_url: str) -> Iterator[DatabaseSettings]:
    """An empty database; afterwards its books balance, and no ledger is left."""
    settings = DatabaseSettings(url=sqlite_url, busy_timeout_s=2.0)
    yield settings
    for shard, generations in living_generations().items():
        for generation in generations:
            deployment._kill(name_of(shard, generation))
    wait_until(lambda: ledger_pids() == [])
    assert asyncio.run(problems(settings)) == []


async def problems(settings: DatabaseSettings) -> list[str]:
    database = Database(settings)
    try:
        return await audit(database)
    finally:
        await database.close()


def wait_until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)


def ledger_pids() -> list[int]:
    found = []
    for pid in processes.marked(NAME):
        try:
            if b"LedgerActor" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:  # it has ended since it was listed
            continue
    return found


def patiently(call: Callable[[], Any]) -> Any:
    """As the ingress does: whatever is not ready yet is asked again."""
    from ray.exceptions import RayActorError

    until = time.monotonic() + 60
    while True:
        try:
            return call()
        except (LedgerUnavailable, RayActorError):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def ask(ray: Any, reached: Any, method: str, *args: Any) -> Any:
    return patiently(lambda: ray.get(getattr(reached.handle, method).remote(*args), timeout=30))


def stop_between_transactions(pid: int, database: DatabaseSettings) -> None:
    """One that is stopped in the middle of a write keeps SQLite's lock for as long as it lives."""
    connection = sqlite3.connect(str(make_url(str(database.url)).database), timeout=30, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    os.kill(pid, signal.SIGSTOP)
    connection.execute("ROLLBACK")
    connection.close()


def budget(micros: int) -> BrandSettings:
    return BrandSettings(daily_budget_micros=micros)


def cost(event_id: str, micros: int) -> Any:
    return event(event_id, "impression", dt.datetime.now(dt.UTC), cost_micros=micros)


@pytest.mark.parametrize("can_be_killed", [True, False])
def test_a_stopped_ledger_is_replaced_and_cannot_write_when_it_wakes(
    ray_cluster: Any, database: DatabaseSettings, monkeypatch: pytest.MonkeyPatch, can_be_killed: bool
) -> None:
    """Where Ray cannot kill it (its node is out of reach, say), the epoch alone must do."""
    if not can_be_killed:
        monkeypatch.setattr(deployment, "_kill", lambda _name: None)
    first = patiently(lambda: connect(database, None))
    assert first.generation == 1
    ask(ray_cluster, first, "put_brand", "b", budget(1000))
    epoch = ask(ray_cluster, first, "start")
    (stopped,) = ledger_pids()
    stop_between_transactions(stopped, database)
    try:
        calls = [first.handle.put_brand.remote("b", budget(1)), first.handle.record.remote([cost("stale", 500)])]
        with ThreadPoolExecutor(4) as replicas:
            give_up = [replicas.submit(patiently, partial(replace, database, None, seen=first)) for _ in range(4)]
            successors = [one.result() for one in give_up]
        assert {one.generation for one in successors} == {2}
        second = successors[0]
        newest = ask(ray_cluster, second, "start")
        assert newest > epoch
        (result,) = ask(ray_cluster, second, "record", [cost("new", 70)])
        assert result.status == "accepted"
    finally:
        if stopped in ledger_pids():
            os.kill(stopped, signal.SIGCONT)
    for call in calls:
        with pytest.raises((LedgerUnavailable, ray_cluster.exceptions.RayActorError)):
            ray_cluster.get(call, timeout=60)
    wait_until(lambda: stopped not in ledger_pids())
    wait_until(lambda: living_generations() == {0: [2]})
    assert len(ledger_pids()) == 1
    monkeypatch.undo()
    assert patiently(lambda: connect(database, None)).generation == 2
    shown = ask(ray_cluster, second, "get_brand", "b")
    assert (shown["today"]["budget"], shown["today"]["settled"]) == (1000, 70)
    assert ask(ray_cluster, second, "start") == newest, "nobody has taken another epoch"


def test_a_stopped_ledger_is_found_out_by_whoever_connects(ray_cluster: Any, database: DatabaseSettings) -> None:
    first = patiently(lambda: connect(database, None))
    ask(ray_cluster, first, "put_brand", "b", budget(1000))
    (stopped,) = ledger_pids()
    os.kill(stopped, signal.SIGSTOP)
    second = patiently(lambda: connect(database, None))
    assert second.generation == 2
    assert ask(ray_cluster, second, "get_brand", "b")["daily_budget_micros"] == 1000
    wait_until(lambda: stopped not in ledger_pids())


def test_a_killed_ledger_is_started_again_by_ray(ray_cluster: Any, database: DatabaseSettings) -> None:
    first = patiently(lambda: connect(database, None))
    epoch = ask(ray_cluster, first, "start")
    (killed,) = ledger_pids()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: killed not in ledger_pids())
    again = patiently(lambda: connect(database, None))
    assert again.generation == 1
    assert ask(ray_cluster, again, "start") == epoch + 1


def test_another_number_of_shards_takes_over_from_all_of_the_last(ray_cluster: Any, database: DatabaseSettings) -> None:
    one, two = LedgerSettings(shards=1), LedgerSettings(shards=2)
    old = patiently(lambda: connect(database, None, one, decided_at=1.0))
    ask(ray_cluster, old, "put_brand", "b", budget(1000))
    pair = [patiently(partial(connect, database, None, two, shard=shard, decided_at=2.0)) for shard in (0, 1)]
    assert [reached.generation for reached in pair] == [2, 1]
    for reached in pair:
        ask(ray_cluster, reached, "start")
    assert patiently(lambda: connect(database, None, one, decided_at=1.0)).generation == 2, "the old ones follow"
    wait_until(lambda: len(ledger_pids()) == 2)
    alone = patiently(lambda: connect(database, None, one, decided_at=3.0))
    assert ask(ray_cluster, alone, "get_brand", "b")["daily_budget_micros"] == 1000
    wait_until(lambda: living_generations() == {0: [3]})
    wait_until(lambda: len(ledger_pids()) == 1)
