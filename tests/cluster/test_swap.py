"""A second replica comes by `serve deploy`, and new versions come to both under load: nothing fails, nothing is mixed.

`bench/swap.py` measures the same; here is no stop-watch.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from redis import Redis

from bench.judged import Bodies, Judge, Load, Shot, activate, paced, publish_variants
from bench.nodes import Cluster, Wanted
from db.state import State, secret_file
from tests.cluster.conftest import ROOT, System
from tests.cluster.test_faults import replica_pids
from tests.cluster.test_round_trip import BIN, brand_ids, request, wait_until
from tests.mutants import broken_directories, signed_and_broken, signed_anew, write
from training.model.bundle import ENCODER, TREES
from training.model.store import parts_of
from training.registry.replication import redis_key

pytestmark = pytest.mark.usefixtures("audited")
INGRESSES = 2
PER_S, CONNECTIONS, SWAPS = 40.0, 8, 5
IN_A_ROW = 40
"""So many answers of the new version one after the other: each replica has given some of them."""
LONG_S = 30.0


@pytest.fixture(scope="module", autouse=True)
def two_replicas(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The system with another replica of the ingress, by `serve deploy`, until the last test of this file."""
    config = tmp_path_factory.mktemp("deploy") / "serve_config.yaml"
    text = (ROOT / "serve_config.yaml").read_text()
    config.write_text(
        text.replace("port: 8000", f"port: {system.port}").replace(
            "ingress_replicas: 1", f"ingress_replicas: {INGRESSES}"
        )
    )
    environ = system.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(system.state / "ray_token")}
    command = [str(BIN / "serve"), "deploy", "--address", system.run_file["dashboard"], str(config)]
    subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True, timeout=60)
    cluster = Cluster(State(system.state.resolve()))

    def is_deployed() -> bool:  # and nothing of the deployment before is left
        application = cluster.get("/api/serve/applications/")["applications"]["paceline"]
        running = {replica.pid for replica in cluster.replicas() if replica.deployment == "Ingress"}
        is_complete = len(running) == INGRESSES and running == replica_pids(system, "Ingress")
        return application["status"] == "RUNNING" and is_complete

    wait_until(is_deployed, 60)
    with system.http() as http:
        wait_until(lambda: http.get("/readyz").status_code == 200, 30)
    yield
    cluster.deploy(Wanted("local", 1))


@pytest.fixture
def model_of_before(http: httpx.Client) -> Iterator[None]:
    """Live again after the test, on every replica."""
    before = http.get("/readyz").json()["model_version"]
    yield
    assert http.post(f"/api/models/{before}/activate").status_code == 200
    wait_until(lambda: {http.get("/readyz").json()["model_version"] for _ in range(10)} == {before}, LONG_S)


def swapped_under_load(system: System, brands: list[str], swaps: int = SWAPS) -> list[Shot]:
    """Swaps forth and once back; each reaches every replica before the next, and what was answered meanwhile."""
    versions = publish_variants(State(system.state.resolve()), swaps - 1)
    judge = Judge(Bodies(bids=10, bodies=8, brands=brands))
    for model in versions:
        judge.learn(model)
    order = [model.version for model in versions[1:]] + [versions[0].version]
    url = f"http://127.0.0.1:{system.port}/api/score"

    async def play() -> list[Shot]:
        load, is_over = Load(url, system.token, judge.bodies, judge), asyncio.Event()
        loading = asyncio.create_task(load.send(paced(time.monotonic(), PER_S, is_over.is_set), CONNECTIONS))
        try:
            await asyncio.sleep(1.0)
            for version in order:
                assert await activate(url, system.token, version) == 200
                until = time.monotonic() + LONG_S
                while not all(shot.version == version for shot in load.shots[-IN_A_ROW:]):
                    assert time.monotonic() < until, "some replica has not swapped"
                    await asyncio.sleep(0.1)
                await asyncio.sleep(1.0)
        finally:
            is_over.set()
            await loading
        return load.shots

    return asyncio.run(play())


def assert_unharmed(shots: list[Shot], swaps: int = SWAPS) -> None:
    assert len(shots) > swaps * PER_S
    assert [shot for shot in shots if shot.version is None] == []
    assert [shot for shot in shots if shot.is_mixed] == []
    assert len({shot.version for shot in shots}) == swaps, "the one before, and each of the new ones"


def test_serve_deploy_brings_the_same_application(system: System, http: httpx.Client) -> None:
    brand = brand_ids(http)[0]
    for number in range(20):
        answer = http.post("/api/score", json=request(f"deployed-{number}", brand))
        assert answer.status_code == 200, answer.text
    counted = [line for line in http.get("/metrics").text.splitlines() if line.startswith("bids_scored_total")]
    time.sleep(2.5)
    again = [http.get("/metrics").text for _ in range(6)]
    totals = {line for text in again for line in text.splitlines() if line.startswith("bids_scored_total")}
    assert len(totals) == 1, f"whichever replica is asked: {totals}, first {counted}"


@pytest.mark.usefixtures("model_of_before")
def test_swaps_under_load_fail_no_request_and_mix_no_versions(system: System, http: httpx.Client) -> None:
    before = replica_pids(system, "Ingress")
    assert len(before) == INGRESSES
    assert_unharmed(swapped_under_load(system, brand_ids(http)))
    assert replica_pids(system, "Ingress") == before


@pytest.mark.usefixtures("model_of_before")
def test_mutants_are_not_activated_and_the_replicas_live_on(system: System, http: httpx.Client, tmp_path: Path) -> None:
    state, before = State(system.state.resolve()), replica_pids(system, "Ingress")
    live, mutant = (model.version for model in publish_variants(state, 1))
    with closing(Redis(unix_socket_path=str(state.redis_socket))) as redis:
        redis.delete(redis_key(mutant))  # a whole copy would be served, and the directory made anew from it
    directory = state.models / mutant
    whole, key = parts_of(directory), secret_file(state.model_key).encode()
    trees, encoder = (whole.texts[file] + "\n" for file in (TREES, ENCODER))  # a variant's are the same
    write(signed_anew(whole, key, trees=trees, encoder=encoder, version="another"), tmp_path)

    def is_refused(what: str) -> None:
        answer = http.post(f"/api/models/{mutant}/activate")
        assert (answer.status_code, answer.json().get("type")) == (409, "urn:paceline:model-refused"), (
            what,
            answer.text,
        )

    tried = 0
    for what in itertools.islice(broken_directories(directory, tmp_path, 60, seed=11), 0, None, 5):
        is_refused(what)
        tried += 1
    for what, parts in itertools.islice(
        signed_and_broken(whole, key), 0, None, 7
    ):  # these crash the process they are in
        write(parts, directory)
        is_refused(what)
        tried += 1
    assert tried >= 12
    assert replica_pids(system, "Ingress") == before
    assert {http.get("/readyz").json()["model_version"] for _ in range(10)} == {live}
    write(whole, directory)
    assert http.post(f"/api/models/{mutant}/activate").status_code == 200, "whole again, it is as good as any"
