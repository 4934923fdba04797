"""What the version before has left on disk serves this one: its database, bundles, checkpoints (tests/data/before)."""

import datetime as dt
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from db.brands import BrandSettings
from db.schema import upgrade
from db.session import Database
from db.settings import DatabaseSettings
from db.state import State
from ledger.invariants import audit
from ledger.service.ledger import Ledger
from tests.contract.ledgers import Clock, event, statuses, today
from training.model.model import Model
from training.registry.activations import current

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def state(tmp_path) -> State:
    with tarfile.open(ROOT / "tests" / "data" / "before" / "state.tar.xz") as archive:
        safely: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Debian 12's 3.11.2 has none
        archive.extractall(tmp_path / "state", **safely)
    found = State(tmp_path / "state")
    upgrade(f"sqlite+aiosqlite:///{found.database}")
    return found


@pytest.fixture
def facts(state):
    return json.loads((state.root / "facts.json").read_text())


@pytest.fixture
async def database(state):
    opened = Database(DatabaseSettings(url=f"sqlite+aiosqlite:///{state.database}"))
    yield opened
    assert (await audit(opened)) == []
    await opened.close()


async def test_its_books_go_on(database, facts):
    clock = Clock(dt.datetime.fromisoformat(facts["now"]))
    ledger = await Ledger.open(database, clock=clock)
    brand = await ledger.administration.get_brand("b")
    assert brand["today"] == facts["today"]
    limits = [brand[name] for name in ("lambda_floor", "max_cost_micros", "cost_tolerance", "holds_share")]
    assert limits == [0.08, None, 1.5, 0.25], "what brands of before are given"
    results = await ledger.record(
        [
            event("n-0", "impression", at=clock.now, reservation_id=facts["unsettled"], cost_micros=95),
            event("n-1", "impression", at=clock.now, reservation_id=facts["unrecorded"], cost_micros=45),
            event("n-2", "conversion_update", at=clock.now, conversion_id="c-1", status="approved", cost_micros=650),
            event("e-0", "impression", at=clock.now, reservation_id=facts["unsettled"], cost_micros=95),
        ]
    )
    assert statuses(results) == ["accepted", "accepted", "accepted", "conflict"]
    _, _, reserved, settled, _, overspend = await today(ledger)
    assert settled == facts["today"]["settled"] + 95 + 45 + 650
    assert (reserved, overspend) == (facts["today"]["reserved"] - 101 - 700, 0)
    await ledger.administration.put_brand("b", BrandSettings(daily_budget_micros=20_000, portfolio_id="folio"))


async def test_its_leases_come_back_when_their_holder_stays_silent(database, facts):
    clock = Clock(dt.datetime.fromisoformat(facts["now"]))
    ledger = await Ledger.open(database, clock=clock)
    clock.forward(dt.timedelta(minutes=1))  # a session has its time again after a start
    await ledger.sweep()
    clock.forward(dt.timedelta(hours=2))
    await ledger.sweep()
    assert (await ledger.administration.get_brand("b"))["today"]["leased"] == 0


async def test_its_live_model_is_loaded_and_predicts_what_it_predicted(state, database, facts):
    (version,) = facts["models"]
    assert await current(database) == version
    model = Model.load(state.models / version, state.model_key.read_text().strip().encode(), verify=True)
    assert model.version == version


def test_its_killed_night_is_finished(state, facts):
    assert sorted(one.name for one in state.night.iterdir()) == facts["night"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PACELINE_")} | {
        "STATE": str(state.root),
        "PACELINE_MODEL_TREES": "10",
        "PACELINE_MODEL_MIN_ROWS_IN_LEAF": "5",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "training.nightly", "--in-process", "--json"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
    )
    summary = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode in (0, 4), done.stdout + done.stderr
    assert (summary["outcome"], summary["trained_through"]) == ("live", "2026-10-11")
    assert summary["kept"] == [], "another program's steps are done again"
    manifest = json.loads((state.models / summary["version"] / "manifest.json").read_text())
    assert manifest["parent"] == facts["models"][0]
    assert not state.night.exists()
