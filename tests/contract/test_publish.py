"""A version's way into the world, on both databases and a real Redis."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
from sqlalchemy import insert, select

from db.session import Database
from db.settings import DatabaseSettings
from db.state import State
from db.tables import lambda_fits, lambda_history, model_activations, model_versions, performance_hourly, score_log
from tests.contract.conftest import LAST
from training.etl.importer import import_frame
from training.etl.simulated_market import performance
from training.model.bundle import ModelRefused, ModelUnavailable
from training.model.model import Model
from training.nightly.errors import AnotherNight, NothingToLearn
from training.nightly.pipeline import first_model, night_lock, run
from training.progress import Say
from training.registry import replication
from training.registry.activations import as_of, current, live_at
from training.registry.publish import ModelRegistry, UnknownVersion
from training.registry.release_check import confirm
from training.registry.version_files import VersionFiles, model_key
from training.settings import ModelSettings

SETTINGS = ModelSettings(trees=10, min_rows_in_leaf=5)
NO_REDIS = "redis://127.0.0.1:1/0"


def quiet(_line: str) -> None:
    pass


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(DatabaseSettings(url=database_url))
    yield opened
    await opened.close()


def registry_of(database: Database, state: State, redis_url: str | None = None, say: Say = quiet) -> ModelRegistry:
    return ModelRegistry(database, state, redis_url, say)


async def night(database, state, **given):
    return await run(database, state, settings=SETTINGS, say=quiet, verify=False, **given)


def git(state: State, *arguments: str) -> str:
    return subprocess.run(["git", "-C", state.registry, *arguments], capture_output=True, text=True, check=True).stdout


@pytest.mark.usefixtures("history")
async def test_the_first_model_is_live_everywhere(database, state, redis_url):
    version = await first_model(database, state, SETTINGS, redis_url=redis_url, say=quiet)
    assert await current(database) == version
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.get("roas_model:current") == version
        bundle = client.get(f"roas_model:{version}")
        assert client.get("roas_model.json") == bundle
    assert Model.from_bundle(bundle, model_key(state), version).version == version
    assert (state.registry / "roas_model.json").read_text() == bundle
    assert git(state, "log", "--format=%s").strip() == f"Model {version}"
    async with database.read() as connection:
        (row,) = await connection.execute(select(model_versions))
    assert (row.version, row.status, row.simulated, row.trained_through) == (version, "published", True, LAST)
    assert json.loads(row.metrics)["challenger"]["rows"] > 0


@pytest.mark.usefixtures("history")
async def test_a_version_can_be_activated_back_and_forth_and_the_past_is_known(database, state, redis_url):
    before = dt.datetime.now(dt.UTC)
    first = (await night(database, state, date=LAST, redis_url=redis_url)).version
    between = dt.datetime.now(dt.UTC)
    second = (await night(database, state, redis_url=redis_url)).version
    assert first != second
    assert (await VersionFiles(state).fetch(second)).manifest["parent"] == first
    await registry_of(database, state, redis_url).activate(first)
    assert await current(database) == first
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.get("roas_model:current") == first
    assert await live_at(database, before) is None
    assert await live_at(database, between) == first


@pytest.mark.usefixtures("history")
async def test_redis_and_git_may_be_down(database, state):
    state.root.mkdir()
    state.registry.write_text("not a folder")
    said: list[str] = []
    version = await first_model(database, state, SETTINGS, redis_url=NO_REDIS, say=said.append)
    assert await current(database) == version
    assert (await VersionFiles(state).fetch(version)).version == version
    assert {line.split()[2] for line in said if line.startswith("warning")} >= {"did"} or any(
        "Git" in line for line in said
    )
    assert any("Redis" in line for line in said)


@pytest.mark.usefixtures("history")
async def test_an_empty_redis_is_told_what_is_live(database, state, redis_url):
    assert await registry_of(database, state, redis_url).announce() is None
    version = await first_model(database, state, SETTINGS, say=quiet)
    assert await registry_of(database, state, redis_url).announce() == version
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.get("roas_model:current") == version


@pytest.mark.usefixtures("history")
async def test_a_node_without_the_folder_takes_the_model_from_redis(database, state, redis_url, tmp_path, monkeypatch):
    monkeypatch.setenv("PACELINE_MODEL_KEY", "a key that both nodes have been given")
    version = await first_model(database, state, SETTINGS, redis_url=redis_url, say=quiet)
    elsewhere = State(tmp_path / "elsewhere")
    assert (await VersionFiles(elsewhere, redis_url).fetch(version)).version == version
    with pytest.raises(ModelRefused):
        await VersionFiles(elsewhere).fetch(version)
    with pytest.raises(ModelUnavailable, match="Redis does not answer"):
        await VersionFiles(elsewhere, NO_REDIS).fetch(version)


@pytest.mark.usefixtures("history")
async def test_a_damaged_or_unknown_version_is_not_activated(database, state):
    first = (await night(database, state, date=LAST)).version
    second = (await night(database, state)).version
    trees = state.models / first / "model.txt"
    trees.write_text(trees.read_text()[:-100])
    with pytest.raises(ModelRefused):
        await registry_of(database, state).activate(first)
    for unknown in ("20200101T000000-000000", "", "v" * 65, "20200101T000000-é", "../" + second):
        with pytest.raises(UnknownVersion):
            await registry_of(database, state).activate(unknown)
    assert await current(database) == second


@pytest.mark.usefixtures("history")
async def test_a_challenger_that_loses_is_kept_but_not_served(database, state, redis_url):
    first = (await night(database, state, date=LAST, redis_url=redis_url)).version
    strict = SETTINGS.model_copy(update={"gate_deviance": 1e-6})
    lost = await run(database, state, settings=strict, redis_url=redis_url, say=quiet, verify=False)
    assert not lost.accepted
    assert "deviance" in lost.reason
    assert lost.live == await current(database) == first
    async with database.read() as connection:
        found = {row.version: row.status for row in await connection.execute(select(model_versions))}
    assert found == {first: "published", lost.version: "rejected"}
    with redis.Redis.from_url(redis_url) as client:
        assert client.get(f"roas_model:{lost.version}") is None
    with pytest.raises(ModelRefused, match="lost at the gate"):
        await registry_of(database, state, redis_url).activate(lost.version)
    assert await current(database) == first


def damage(state: State, version: str) -> None:
    trees = state.models / version / "model.txt"
    trees.write_text(trees.read_text()[:-100])


def delete(state: State, version: str) -> None:
    shutil.rmtree(state.models / version)


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize("harm", [damage, delete])
async def test_a_version_that_the_folder_lost_is_served_from_redis_and_made_anew(database, state, redis_url, harm):
    version = await first_model(database, state, SETTINGS, redis_url=redis_url, say=quiet)
    harm(state, version)
    with pytest.raises(ModelRefused):
        await VersionFiles(state).fetch(version)
    with pytest.raises(ModelUnavailable):
        await VersionFiles(state, NO_REDIS).fetch(version)
    assert (await VersionFiles(state, redis_url).fetch(version)).version == version
    said: list[str] = []
    assert await registry_of(database, state, redis_url, said.append).announce() == version
    assert [line for line in said if line.startswith("warning") and "restored from Redis's copy" in line]
    assert (await VersionFiles(state).fetch(version)).version == version


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize("harm", [damage, delete])
async def test_where_the_live_version_is_lost_the_last_good_one_goes_live(database, state, redis_url, harm):
    first = (await night(database, state, date=LAST, redis_url=redis_url)).version
    second = (await night(database, state, redis_url=redis_url)).version
    harm(state, second)
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        forged = client.get(f"roas_model:{second}").replace('"calibration":1.0', '"calibration":2.0')
        client.set(f"roas_model:{second}", forged)
        said: list[str] = []
        assert await registry_of(database, state, redis_url, said.append).announce() == first
        assert client.get("roas_model:current") == first
    assert await current(database) == first
    assert any(line.startswith("warning") and first in line and second in line for line in said)
    async with database.read() as connection:
        reasons = select(model_activations.c.reason).order_by(model_activations.c.seq)
        assert list((await connection.execute(reasons)).scalars()) == ["nightly", "nightly", "fallback"]
    harm(state, first)
    with redis.Redis.from_url(redis_url) as client:
        client.set(f"roas_model:{first}", b"\xff")
    assert await registry_of(database, state, redis_url).announce() is None


@pytest.mark.usefixtures("history")
async def test_what_fails_for_now_does_not_take_a_version_back(database, state, redis_url, monkeypatch):
    await night(database, state, date=LAST, redis_url=redis_url)
    second = (await night(database, state, redis_url=redis_url)).version
    delete(state, second)
    said: list[str] = []
    assert await registry_of(database, state, NO_REDIS, said.append).announce() == second
    assert any("Redis does not answer" in line for line in said)
    assert await current(database) == second
    with pytest.raises(ModelUnavailable):  # rather than to let a challenger go live unopposed
        await night(database, state, redis_url=NO_REDIS)
    assert await current(database) == second


@pytest.mark.usefixtures("history")
async def test_old_versions_are_pruned_and_never_the_live_one_or_its_parent(database, state, redis_url):
    nights = [
        (await night(database, state, date=LAST - dt.timedelta(days=back), redis_url=redis_url)).version
        for back in (4, 3, 2, 1, 0)
    ]
    await registry_of(database, state, redis_url).activate(nights[1])
    kept = {nights[0], nights[1], nights[4]}  # the live one's parent, the live one, the newest
    await registry_of(database, state, redis_url).prune(1)
    assert {path.name for path in state.models.iterdir()} == kept
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        pointers = {"roas_model:current", "roas_model.json"}
        assert set(client.keys("roas_model*")) == {f"roas_model:{version}" for version in kept} | pointers
    assert (await VersionFiles(state).fetch(nights[1])).version == nights[1]
    async with database.read() as connection:
        assert len((await connection.execute(select(model_versions))).all()) == 5
    old, new = state.models / ".old.1", state.models / ".new.2"
    for draft in (old, new):
        draft.mkdir()
    os.utime(old, (0, 0))
    await registry_of(database, state, redis_url).prune(1)
    assert (old.exists(), new.exists()) == (False, True), "what was killed goes, what is being written stays"
    with pytest.raises(ModelRefused):
        await registry_of(database, state, redis_url).activate(nights[2])


@pytest.mark.usefixtures("history")
async def test_the_night_prunes_and_a_redis_that_is_away_is_a_warning(database, state):
    settings = SETTINGS.model_copy(update={"keep": 1})
    said: list[str] = []
    for back in (2, 1, 0):
        date = LAST - dt.timedelta(days=back)
        done = await run(
            database, state, date=date, settings=settings, redis_url=NO_REDIS, say=said.append, verify=False
        )
    assert len(list(state.models.iterdir())) == 2
    assert (await VersionFiles(state).fetch(done.version)).version == done.version
    assert any("Redis keeps its old models" in line for line in said)


@pytest.mark.usefixtures("history")
async def test_a_version_is_simulated_while_anything_simulated_is_among_what_it_learned_from(database, state):
    async with database.write() as connection:
        known = dict((await connection.execute(select(performance_hourly).limit(1))).one()._mapping)
        event = {"key_hash": "0" * 64, "kind": "event", "precedence": 0, "source": ""}
        await connection.execute(insert(performance_hourly).values(known | event))
    assert (await night(database, state)).simulated
    before = LAST - dt.timedelta(days=30)
    frame = performance(before, days=3)
    await import_frame(database, frame, "real", say=quiet)
    assert not (await night(database, state, date=before + dt.timedelta(days=1))).simulated
    assert (await night(database, state)).simulated


@pytest.mark.usefixtures("history")
async def test_publishing_again_after_a_crash_changes_nothing(database, state):
    version = (await night(database, state)).version
    model = await VersionFiles(state).fetch(version)
    await registry_of(database, state).publish(model)
    assert (await VersionFiles(state).fetch(version)).to_bundle(model_key(state)) == model.to_bundle(model_key(state))
    assert git(state, "log", "--format=%s").count(version) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("history")
async def test_every_version_is_pushed_to_the_remote_that_is_set(database, state, tmp_path):
    bare = tmp_path / "bare.git"
    replication.git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    first = (await night(database, state, date=LAST)).version
    git(state, "remote", "add", "origin", str(bare))
    second = (await night(database, state)).version
    assert replication.git(bare, "log", "--format=%s").splitlines() == [f"Model {second}", f"Model {first}"]
    bundle = replication.git(bare, "show", "HEAD:roas_model.json")
    assert Model.from_bundle(bundle, model_key(state), second).version == second
    assert await confirm(registry_of(database, state), second) == []
    # A remote that is behind is seen; one that is away is a warning, and gets it all the next time.
    replication.git(bare, "update-ref", "refs/heads/main", "HEAD~1")
    (problem,) = await confirm(registry_of(database, state), second)
    assert "has not got the last commit" in problem
    bare.rename(tmp_path / "away.git")
    said: list[str] = []
    replication.to_git(state, second, bundle, said.append)
    assert await confirm(registry_of(database, state, None, said.append), second) == []
    assert len([line for line in said if line.startswith("warning")]) == 2
    (tmp_path / "away.git").rename(bare)
    replication.to_git(state, second, bundle, said.append)
    assert await confirm(registry_of(database, state), second) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("history")
async def test_a_configured_repository_gets_the_model_beside_what_it_holds(database, state, tmp_path, monkeypatch):
    ours = tmp_path / "ours"
    monkeypatch.setenv("PACELINE_MODEL_REGISTRY", str(ours))
    first = (await night(database, state, date=LAST)).version
    assert not state.registry.exists()
    (ours / "notes.txt").write_text("not committed yet")
    (ours / ".gitignore").write_text("*.json\n")
    second = (await night(database, state)).version
    assert replication.git(ours, "log", "--format=%s").splitlines() == [f"Model {second}", f"Model {first}"]
    assert replication.git(ours, "ls-files").split() == ["roas_model.json"], "nobody else's work is committed"


def test_a_lock_that_a_killed_night_left_in_its_own_repository_is_nobodys(state):
    said: list[str] = []
    replication.to_git(state, "v-1", "{}", said.append)
    for name in ("index.lock", "refs/heads/main.lock"):
        (state.registry / ".git" / name).touch()
    replication.to_git(state, "v-2", '{"v": 2}', said.append)
    assert said == []
    assert git(state, "log", "--format=%s").splitlines() == ["Model v-2", "Model v-1"]


@pytest.mark.usefixtures("history")
async def test_the_registry_tells_which_model_and_which_price_were_live_at_a_time(database, state):
    first = (await night(database, state, date=LAST)).version
    between = dt.datetime.now(dt.UTC)
    second = (await night(database, state)).version
    await registry_of(database, state).activate(first, reason="api")
    hour, minute = dt.timedelta(hours=1), dt.timedelta(minutes=1)
    fit = {"model_version": first, "mu_brand": 0.0, "mu_portfolio": 0.0, "nu_brand": 0.0, "nu_portfolio": 0.0}
    fit |= {"opportunities": 500}
    fits = [
        fit | {"brand_id": "a", "kappa": 1.5, "fitted_at": between - hour, "converged": True},
        fit | {"brand_id": "a", "kappa": 9.0, "fitted_at": between - minute, "converged": False},
        fit | {"brand_id": "a", "kappa": 2.5, "fitted_at": between + minute, "converged": True},
    ]
    records = [
        {"brand_id": "a", "at": between - 50 * hour, "lambda": 8.0, "kappa": None},
        {"brand_id": "a", "at": between - 2 * minute, "lambda": 1.6, "kappa": 1.6},
        {"brand_id": "b", "at": between - minute, "lambda": 0.7, "kappa": None},
        {"brand_id": "a", "at": between + minute, "lambda": 3.0, "kappa": 3.0},
    ]
    async with database.write() as connection:
        await connection.execute(insert(lambda_fits), fits)
        await connection.execute(insert(lambda_history), records)
    then = await as_of(database, between)
    assert (then.model.version, then.model.reason) == (first, "nightly")
    a, b = then.prices
    assert (a.brand_id, a.night_kappa, a.fitted_at) == ("a", 1.5, between - hour)
    assert (a.lambda_, a.kappa, a.since) == (1.6, 1.6, between - 2 * minute)
    assert (b.brand_id, b.night_kappa, b.lambda_, b.kappa) == ("b", None, 0.7, None)
    now = await as_of(database, dt.datetime.now(dt.UTC), "b")
    assert (now.model.version, now.model.reason, [price.brand_id for price in now.prices]) == (first, "api", ["b"])
    long_ago = await as_of(database, between - 49 * hour)
    assert (long_ago.model, [price.lambda_ for price in long_ago.prices]) == (None, [8.0])
    assert (await as_of(database, between - 60 * hour)).prices == []
    assert second != first


@pytest.mark.usefixtures("history")
async def test_the_night_fits_prices_from_logged_opportunities(database, state):
    now = dt.datetime.now(dt.UTC)
    rows = [
        {
            "at": now - dt.timedelta(minutes=number),
            "request_id": f"r{number}",
            "bid_id": "b",
            "brand_id": "brand-atlas",
            "partner_id": "p",
            "slot_id": "s",
            "pricing_model": "cpm",
            "predicted_revenue_micros": 500.0 + number,
            "predicted_cost_micros": 1000.0,
            "lambda": 1.0,
            "score": 1.0,
            "status": "lost",
            "weight": 100.0,
            "model_version": "v",
        }
        for number in range(1000)
    ]
    async with database.write() as connection:
        await connection.execute(insert(score_log), rows)
    done = await night(database, state)
    assert done.lambdas == 1
    async with database.read() as connection:
        (fit,) = await connection.execute(select(lambda_fits))
    # Revenue is spread evenly over 0.5–1.5 of cost: everything together just earns its target of 1.
    assert (fit.brand_id, fit.model_version, fit.opportunities) == ("brand-atlas", done.version, 1000)
    assert 0 <= fit.kappa < 0.6


async def test_a_history_without_revenue_or_with_one_row_still_gives_a_model(database, state):
    frame = performance(LAST, days=3).head(1).assign(revenue=0.0, pending_revenue=0.0)
    await import_frame(database, frame, "tiny", say=quiet)
    version = await first_model(database, state, SETTINGS, say=quiet)
    assert (await VersionFiles(state).fetch(version)).simulated is False


async def test_without_history_there_is_nothing_to_learn(database, state):
    with pytest.raises(NothingToLearn, match="import"):
        await first_model(database, state, SETTINGS, say=quiet)


@pytest.mark.usefixtures("history")
async def test_two_nights_never_run_at_once(database, state):
    with night_lock(state), pytest.raises(AnotherNight):
        await first_model(database, state, SETTINGS, say=quiet)


def test_the_key_is_made_once_and_for_its_owner_only(state):
    keys = {model_key(state) for _ in range(3)}
    assert len(keys) == 1
    assert len(keys.pop()) == 64
    assert state.model_key.stat().st_mode & 0o077 == 0
