"""The night: killed anywhere it is finished by the next run, odd histories do not stop it, it tells how it ended."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import redis
from sqlalchemy import Table, func, select

from db.session import Database
from db.settings import DatabaseSettings
from db.state import State
from db.tables import model_activations, model_versions, nights
from tests.contract.conftest import LAST
from tests.unit.training.pages import sections_of
from training.etl.importer import import_frame
from training.etl.simulated_market import performance
from training.model.model import Columns
from training.nightly import cli
from training.nightly.errors import ChampionChanged
from training.nightly.pipeline import night_lock, run
from training.progress import Say
from training.registry.activations import current
from training.registry.publish import ModelRegistry
from training.registry.release_check import confirm
from training.registry.replication import git
from training.registry.version_files import VersionFiles
from training.settings import ModelSettings

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = ["verdict", "calibration", "days", "error", "money", "breaks", "importance", "shap"]
SETTINGS = ModelSettings(trees=10, min_rows_in_leaf=5)


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state")


@pytest.fixture
async def database(sqlite_url: str) -> AsyncIterator[Database]:
    opened = Database(DatabaseSettings(url=sqlite_url))
    yield opened
    await opened.close()


def quiet(_line: str) -> None:
    pass


def registry_of(database: Database, state: State, redis_url: str | None = None, say: Say = quiet) -> ModelRegistry:
    return ModelRegistry(database, state, redis_url, say)


async def night(database, state, **given):
    return await run(database, state, **{"settings": SETTINGS, "say": quiet, "verify": False} | given)


class Desk:
    """The command as an operator types it, on this state, database and Redis."""

    def __init__(self, state: State, sqlite_url: str, redis_url: str) -> None:
        self._running: subprocess.Popen[str] | None = None
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("PACELINE_")} | {
            "STATE": str(state.root),
            "PACELINE_DATABASE_URL": sqlite_url,
            "PACELINE_REDIS_URL": redis_url,
            "PACELINE_MODEL_TREES": "10",
            "PACELINE_MODEL_MIN_ROWS_IN_LEAF": "5",
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def night(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.run("training.nightly", "--in-process", "--json", *options)

    def dying(self) -> Callable[[str], int]:
        """Runs a night that dies there (see `killed.py`) and returns its exit code."""
        command = [sys.executable, "-m", "tests.contract.killed"]
        pipe = subprocess.PIPE
        self._running = subprocess.Popen(command, cwd=ROOT, env=self.environ, stdin=pipe, stdout=pipe, text=True)
        told, heard = self._running.stdin, self._running.stdout

        def die(place: str) -> int:
            told.write(f"{place}\n")
            told.flush()
            return int(heard.readline())

        return die

    def close(self) -> None:
        if self._running is not None:
            self._running.communicate(timeout=30)


@pytest.fixture
def desk(state: State, sqlite_url: str, redis_url: str) -> Iterator[Desk]:
    desk = Desk(state, sqlite_url, redis_url)
    yield desk
    desk.close()


# Every place is reached by continuing from the one before, so that each run also finishes what the one before began.
DEATHS = [
    "after training.nightly.etl_step._read",
    "after training.nightly.learning_steps.save_features",  # written, and not in its place
    "before training.nightly.learning_steps.save_fit",
    "after training.nightly.gate_step._keep_candidate",
    "after training.nightly.lambda_step.fit_lambdas",
    "before training.model.store.sync",  # half of the version's directory is there
    "before training.registry.replication.RedisCopies.put",  # the database knows the version, nobody else does
    "before training.registry.publish.to_git",
    "before training.registry.publish.ModelRegistry.activate",
    "before training.registry.replication.RedisCopies.make_current",  # live in the database, and Redis not told
    "before training.nightly.release_steps.confirm",
]
SWAPPED_AT = DEATHS.index("before training.registry.replication.RedisCopies.make_current")


async def test_a_night_that_was_killed_anywhere_is_finished_by_the_next_run(
    database, state, redis_url, desk, history, tmp_path, migrated_sqlite_file
):
    first = (await night(database, state, date=LAST, redis_url=redis_url)).version
    dying = desk.dying()
    for place, death in enumerate(DEATHS):
        assert dying(death) == -signal.SIGKILL, death
        # What is live is whole, whatever lies beside it.
        live = await current(database)
        assert live is not None and (live == first) == (place < SWAPPED_AT), death
        assert (await VersionFiles(state).fetch(live, verify=place >= SWAPPED_AT)).version == live, death
        with redis.Redis.from_url(redis_url, decode_responses=True) as client:
            assert client.get("roas_model:current") == (first if place <= SWAPPED_AT else live), death
    done = desk.night()
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["kept"] == ["features", "fit", "gate", "lambda", "publish", "swap"]
    assert told["outcome"] == "live" and told["verified"] is True

    (version,) = {path.name for path in state.models.glob("[!.]*")} - {first}
    assert version == told["version"] == await current(database)
    assert not state.night.exists(), "a finished night leaves nothing"
    assert [await count(database, table) for table in (model_versions, model_activations, nights)] == [2, 2, 2]
    assert git(state.registry, "log", "--format=%s").splitlines() == [f"Model {version}", f"Model {first}"]

    # The same trees and tables as those of a night that nothing happened to.
    shutil.copyfile(migrated_sqlite_file, tmp_path / "clean.sqlite")
    clean = Database(DatabaseSettings(url=f"sqlite+aiosqlite:///{tmp_path / 'clean.sqlite'}"))
    try:
        await import_frame(clean, performance(LAST, days=10), "simulated", simulated=True, say=quiet)
        expected = await night(clean, State(tmp_path / "clean"))
    finally:
        await clean.close()
    made = (await VersionFiles(state).fetch(version, verify=False)).manifest
    other = (await VersionFiles(State(tmp_path / "clean")).fetch(expected.version, verify=False)).manifest
    assert made["golden"] == other["golden"]
    assert made["files"]["encoder.json"] == other["files"]["encoder.json"]
    assert made["training"]["rows"] == other["training"]["rows"]


async def count(database: Database, table: Table) -> int:
    async with database.read() as connection:
        return (await connection.execute(select(func.count()).select_from(table))).scalar_one()


async def test_a_day_after_today_is_never_the_newest(database, state):
    """Rows dated 2062, from before they were refused, ended the gate's judgement for ever."""
    yesterday = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
    frame = performance(yesterday, days=10)
    await import_frame(database, frame, "real", say=quiet)
    await import_frame(database, frame.head(2).assign(ts=pd.Timestamp("2062-09-29", tz="UTC")), "typo", say=quiet)
    found = await night(database, state)
    made = (await VersionFiles(state).fetch(found.version, verify=False)).manifest
    assert made["trained_through"] == yesterday.isoformat()


async def test_what_is_kept_is_used_only_for_the_same_night(database, state, history):
    """A step is done again when anything has changed that it was made from, or when it is asked for."""
    told: list[str] = []

    async def again(**given):
        told.clear()
        found = await night(database, state, say=told.append, **given)
        return found.kept

    def dying(_data, _newest, _settings):
        raise RuntimeError("no fit today")

    with pytest.raises(RuntimeError):
        await night(database, state, fitter=dying)
    assert {path.name.split("-")[0] for path in state.night.iterdir()} == {"features"}
    async with database.read() as connection:
        (ended,) = await connection.execute(select(nights))
    assert (ended.outcome, ended.reason) == ("failed", "fit: no fit today")
    assert await again() == ["features"]
    assert any("features" in line and "kept from an earlier run" in line for line in told)
    assert "features" not in await again(), "the night before is over"
    with pytest.raises(RuntimeError):
        await night(database, state, fitter=dying)
    assert "features" not in await again(restart=True)
    with pytest.raises(RuntimeError):
        await night(database, state, fitter=dying)
    assert await again(settings=SETTINGS.model_copy(update={"pending_share": 0.5})) == []
    with pytest.raises(RuntimeError):
        await night(database, state, fitter=dying)
    (kept,) = state.night.glob("features-*/matrix.npy")
    kept.write_bytes(kept.read_bytes()[:-8])
    assert "features" not in await again(), "half a file is no file"
    with pytest.raises(RuntimeError):
        await night(database, state, fitter=dying)
    await import_frame(database, performance(LAST, days=1, seed=5), "late", say=quiet)
    assert "features" not in await again(), "the history has changed"


async def test_a_champion_that_changed_meanwhile_is_judged_against_anew(database, state, history, monkeypatch):
    first = (await night(database, state, date=LAST - dt.timedelta(days=1))).version
    second = (await night(database, state, date=LAST)).version

    async def away(*_given: object, **_named: object) -> None:
        raise OSError("no database today")

    with monkeypatch.context() as patched:
        patched.setattr(ModelRegistry, "publish", away)
        with pytest.raises(OSError, match="no database"):
            await night(database, state)
    await registry_of(database, state).activate(first)
    done = await night(database, state)
    assert done.kept[:2] == ["features", "fit"] and "gate" not in done.kept
    model = await VersionFiles(state).fetch(done.version, verify=False)
    assert model.manifest["parent"] == first != second


async def test_an_operator_who_rolls_back_while_the_night_runs_is_not_overruled(database, state, history, monkeypatch):
    first = (await night(database, state, date=LAST - dt.timedelta(days=1))).version
    second = (await night(database, state, date=LAST)).version

    publish = ModelRegistry.publish

    async def rolled_back(*given: object, **named: object) -> None:
        await publish(*given, **named)
        await registry_of(database, state).activate(first)

    with monkeypatch.context() as patched:
        patched.setattr(ModelRegistry, "publish", rolled_back)
        with pytest.raises(ChampionChanged, match=f"{first} was made live meanwhile.* with {second}"):
            await night(database, state)
    assert await current(database) == first
    done = await night(database, state)
    assert done.kept[:2] == ["features", "fit"] and "gate" not in done.kept, "judged against what is live now"
    assert done.live == done.version
    assert (await VersionFiles(state).fetch(done.version, verify=False)).manifest["parent"] == first


async def test_what_an_operator_made_live_after_the_swap_stays(database, state, history, monkeypatch):
    first = (await night(database, state, date=LAST)).version

    async def broken(*_given: object, **_named: object) -> list[str]:
        raise OSError("killed here")

    with monkeypatch.context() as patched:
        patched.setattr("training.nightly.release_steps.confirm", broken)
        with pytest.raises(OSError, match="killed here"):
            await night(database, state, verify=True)
    await registry_of(database, state).activate(first)
    done = await night(database, state, verify=True)
    assert "swap" in done.kept and done.live == await current(database) == first
    assert done.problems[0] == f"in the database {first} is live, not {done.version}"
    assert done.outcome == "unverified"


async def test_a_place_that_disagrees_is_found_and_looked_at_again_by_the_next_run(database, state, history, redis_url):
    done = await night(database, state, redis_url=redis_url, verify=True)
    version = done.version
    assert done.verified and done.problems == []
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        bundle = client.get("roas_model.json")
        assert bundle == client.get(f"roas_model:{version}") == (state.registry / "roas_model.json").read_text()
        client.set("roas_model:current", "another")
        client.set("roas_model.json", "{}")
        assert await confirm(registry_of(database, state, redis_url), version) == [
            f"Redis's roas_model:current is another, not {version}",
            "Redis's roas_model.json is not what was published",
        ]
        await VersionFiles(state, redis_url, quiet).tell_redis(version)
    said: list[str] = []
    assert await confirm(registry_of(database, state, "redis://127.0.0.1:1/0", said.append), version) == []
    assert any("Redis was not compared" in line for line in said)
    (state.registry / "roas_model.json").write_text("{}")
    git(state.registry, "commit", "-qam", "x")
    (problem,) = await confirm(registry_of(database, state, redis_url), version)
    assert "holds another model" in problem
    trees = state.models / version / "model.txt"
    trees.write_text(trees.read_text().replace("leaf_value=", "leaf_value=9", 1))
    (problem,) = await confirm(registry_of(database, state, redis_url), version)
    assert "model.txt" in problem


@pytest.mark.parametrize(
    ("says", "problems"),
    [("the version", 0), ("another", 1), ("nothing", 0)],
)
async def test_replicas_are_asked_where_a_system_runs(database, state, history, says, problems):
    version = (await night(database, state)).version
    answer = json.dumps({"model_version": version if says == "the version" else "another"}).encode()

    class Replica(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_given: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Replica) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port
        if says == "nothing":
            server.shutdown()
            server.server_close()
        state.run.write_text(json.dumps({"url": f"http://127.0.0.1:{port}", "pid": os.getpid()}))
        said: list[str] = []
        within_s = 30.0 if says == "the version" else 0.5
        found = await confirm(registry_of(database, state, say=said.append), version, within_s)
        server.shutdown()
    assert len(found) == problems
    assert any("nothing answers" in line for line in said) is (says == "nothing")


def test_exit_codes_and_one_line_whatever_happens(desk, state, capsys):
    nothing = desk.night()
    assert nothing.returncode == 1
    assert json.loads(nothing.stdout)["outcome"] == "failed" and "no history yet" in nothing.stderr
    with night_lock(state):
        another = desk.night()
    assert another.returncode == 3
    assert json.loads(another.stdout)["outcome"] == "another night"
    assert cli.main(["--dat", "x"]) == 1
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for code in (*"01234", "130", "143"):
        assert f"\n  {code} " in shown or f", {code} by" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_once_and_says_that_nothing_is_lost(desk, history, number):
    command = [sys.executable, "-m", "training.nightly", "--in-process"]
    environ = desk.environ | {"PACELINE_MODEL_TREES": "5000", "PACELINE_MODEL_LEAVES": "255"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert any("[3/8] fit" in line for line in running.stdout)
        running.send_signal(number)
        _, said = running.communicate(timeout=30)
    assert running.returncode == 128 + number
    assert f"stopped by {number.name} in step fit" in said and "the next run continues there" in said


# Odd histories


def rows(**columns):
    """Three days of one brand at one place, but for what is given."""
    base = {
        "ts": [pd.Timestamp(LAST) - pd.Timedelta(days=back) for back in (2, 1, 0)],
        "brand_id": "odd",
        "partner_id": "p",
        "slot_id": "s",
        "device_type": "mobile",
        "creative_type": "300x250",
        "placement_score": 0.5,
        "impressions": [2000, 3000, 4000],
        "clicks": [20, 30, 40],
        "conversions": [2, 3, 4],
        "cost": [2.0, 3.0, 4.0],
        "revenue": [3.0, 5.0, 4.0],
    }
    return pd.DataFrame(base | columns)


def days(*back):
    return [pd.Timestamp(LAST) - pd.Timedelta(days=day) for day in back]


ODD = {
    "nothing odd": (rows(), None),
    "one day of history": (rows(ts=days(0, 0, 0), slot_id=["a", "b", "c"]), "one day of history"),
    "missing days": (rows(ts=days(9, 1, 0)), "7 days without data"),
    "out of order": (rows(ts=days(0, 2, 1)), None),
    "the same key twice": (rows(ts=days(1, 0, 0)), None),
    "a brand without revenue": (
        pd.concat([rows(), rows(brand_id="poor", revenue=0.0)]),
        "1 brand without revenue (poor)",
    ),
    "nobody has revenue": (rows(revenue=0.0), "no row has revenue"),
    "a brand with one row": (pd.concat([rows(), rows(brand_id="new").tail(1)]), "1 brand with one row (new)"),
    "every row the same": (
        rows(impressions=1000, clicks=10, conversions=1, cost=1.0, revenue=2.0),
        "every row earns the same",
    ),
    "cost without impressions": (rows(impressions=[0, 3000, 4000], clicks=[0, 30, 40]), "cost and no impressions"),
    "revenue below zero": (rows(revenue=[-3.0, 5.0, 4.0]), "1 row with revenue below zero"),
    "all revenue below zero": (rows(revenue=-1.0), "3 rows with revenue below zero"),
    "more conversions than clicks": (rows(conversions=[99, 3, 4]), "1 row with more conversions than clicks"),
    "clicks only": (rows(impressions=0), "cost and no impressions"),
    "cost not known": (rows(cost=np.nan), None),
}


@pytest.mark.parametrize(("frame", "odd"), ODD.values(), ids=ODD.keys())
async def test_an_odd_history_gives_a_model_and_is_told(database, state, frame, odd):
    for through in (LAST, LAST + dt.timedelta(days=1)):  # the second night has a champion
        await import_frame(database, frame, f"source {through}", say=quiet)
        done = await night(database, state, settings=ModelSettings(trees=3, min_rows_in_leaf=1))
        assert done.live is not None
        assert done.metrics["gate"]["reason"]
        if odd is None:
            assert done.warnings == []
        assert not odd or any(odd in line for line in done.warnings), done.warnings
        json.dumps(done._asdict(), allow_nan=False)
        assert sections_of((state.reports / f"{done.version}.html").read_text()) == SECTIONS
        frame, odd = frame.assign(ts=frame["ts"] + pd.Timedelta(days=1)), ""
    model = await VersionFiles(state).fetch(done.live, verify=False)
    ids = [["odd", "never-seen"], ["p", "never-seen"], ["s", "?"], ["mobile", "?"], ["300x250", "?"]]
    said = model.predict(Columns.of(ids, np.array([0.5, np.nan])))
    for values in (said.revenue_micros, said.ctr, said.cvr):
        assert np.isfinite(values).all() and (values >= 0).all()


async def test_the_night_writes_a_report_that_goes_with_its_version(database, state, history):
    made = []
    for through in (2, 1, 0):
        keep = SETTINGS.model_copy(update={"keep": 1})
        done = await night(database, state, date=LAST - dt.timedelta(days=through), settings=keep)
        made.append(done.version)
        assert done.report == str(state.reports / f"{done.version}.html")
    # The live one and its parent have their files, the first does not any more.
    assert {path.name for path in state.reports.iterdir()} == {
        f"{version}.{kind}" for version in made[1:] for kind in ("html", "json")
    }
    told = json.loads((state.reports / f"{made[-1]}.json").read_text())
    assert (told["version"], told["live"], told["parent"]) == (made[2], made[2], made[1])
    assert told["accepted"] and told["reason"] == done.reason
    assert {one["brand_id"] for one in told["duels"]["newest_day"]} == {one["brand_id"] for one in told["money"]}
    assert all(one["target_roas"] == 1.0 and one["roas_7d"] > 0 for one in told["money"])
    assert told["newest_day"] == done.metrics["gate"]["newest_day"]
    assert len(told["deciles"]) == 10


async def test_a_night_without_room_for_its_report_is_a_night_all_the_same(database, state, history):
    state.root.mkdir()
    state.reports.write_text("in the way")
    done = await night(database, state)
    assert done.live == done.version and done.report is None
    assert any("report could not be written" in line for line in done.warnings)


async def test_a_payout_that_breaks_is_told_for_three_days_and_kept_with_the_version(database, state):
    frame = performance(LAST, days=13).assign(pending_revenue=0.0)
    newest = frame["ts"].max()
    broken = (frame["brand_id"] == "brand-atlas") & (frame["ts"] > newest - pd.Timedelta(days=3))
    frame["revenue"] = frame["clicks"] * np.where(broken, 0.1, 0.3)
    await import_frame(database, frame, "steady", say=quiet)
    for through, is_told in ((3, False), (2, True), (0, True)):
        done = await night(database, state, date=LAST + dt.timedelta(days=1 - through))
        told = [line for line in done.warnings if "broke" in line]
        assert len(told) == len(done.metrics["payout_breaks"]) == is_told, through
    (one,) = done.metrics["payout_breaks"]
    day = (LAST - dt.timedelta(days=2)).isoformat()
    assert (one["brand_id"], one["day"], one["per"]) == ("brand-atlas", day, "click")
    assert f"brand-atlas broke on {day}: 0.3 → 0.1 a click (−67%)" in told[0]
    assert (one["before_micros"], one["after_micros"]) == (pytest.approx(300_000), pytest.approx(100_000))
    assert (
        f'<td class="word" data-label="brand">brand-atlas</td><td class="word" data-label="day">{day}</td>'
        in (state.reports / f"{done.version}.html").read_text()
    )
    more = performance(LAST + dt.timedelta(days=1), days=1, seed=2).assign(pending_revenue=0.0)
    more["revenue"] = more["clicks"] * np.where(more["brand_id"] == "brand-atlas", 0.1, 0.3)
    await import_frame(database, more, "day after", say=quiet)
    assert (await night(database, state)).metrics["payout_breaks"] == [], "no news any more"


async def test_a_brand_that_is_poisoned_overnight_leaves_the_champion_live(database, state):
    """Through the whole night: the newest day is a hundred times too high, as a wrong currency unit makes it."""
    frame = performance(LAST, days=12)
    last = frame["ts"] == frame["ts"].max()
    await import_frame(database, frame[~last], "good", say=quiet)
    first = (await night(database, state)).version
    await import_frame(
        database,
        frame[last].assign(revenue=frame["revenue"] * 100, pending_revenue=frame["pending_revenue"] * 100),
        "poisoned",
        say=quiet,
    )
    lost = await night(database, state)
    assert lost.live == first and not lost.accepted
    async with database.read() as connection:
        stored = (
            await connection.execute(select(model_versions).where(model_versions.c.version == lost.version))
        ).one()
        outcomes = (await connection.execute(select(nights.c.outcome).order_by(nights.c.seq))).scalars().all()
    gate = json.loads(stored.metrics)["gate"]
    assert stored.status == "rejected" and gate["reason"] == lost.reason
    assert [check["check"] for check in gate["checks"] if not check["passed"]]
    assert outcomes == ["live", "stayed"]
