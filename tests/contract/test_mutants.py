"""Whatever lies where a model should: a replica that serves goes on serving what it has, and says why.

Golden rows cannot notice every changed leaf. A version that is signed with the right key and whose golden rows agree is
what the key's owner vouches for, and is served; nothing that is signed may crash or stop a replica.
`PACELINE_TEST_MUTANTS`: how many changed leaves of this kind are tried (a process each).
"""

from __future__ import annotations

import datetime as dt
import os
import random
import shutil
from collections.abc import AsyncIterator
from typing import NamedTuple

import numpy as np
import pytest
import redis
from sqlalchemy import insert

from db.session import Database
from db.settings import DatabaseSettings
from db.state import State
from db.tables import model_activations
from serve_app.prediction.predictor import Predictor
from tests.environment import load_in
from tests.mutants import broken_bundles, broken_directories, one_leaf_changed, signed_and_broken, write
from tests.unit.training.conftest import fitted, make_history
from training.model.bundle import ModelRefused
from training.model.model import Columns, Model
from training.model.store import parts_of
from training.registry.publish import ModelRegistry
from training.registry.replication import redis_key
from training.registry.version_files import model_key
from training.settings import ModelSettings

ASKED = Columns.of([["b1", "b9"], ["p1", "p1"], ["p1:s1", "x"], ["mobile", "mobile"], ["300x250"] * 2], np.ones(2))
DIRECTORIES, BUNDLES = 600, 300
LEAVES = int(os.environ.get("PACELINE_TEST_MUTANTS", "4"))


class Served(NamedTuple):
    """A replica that serves `first`, while the database says that `second` is live."""

    predictor: Predictor
    state: State
    database: Database
    redis: redis.Redis
    first: Model
    second: Model

    async def refuses(self, what: str) -> str:
        """The reason. It has tried to load the second version, and serves the first as before."""
        self.predictor.load_failure = None  # else it would wait before it tries again
        await self.predictor.look()
        assert self.predictor.version == self.first.version, what
        failure = self.predictor.load_failure
        assert failure is not None and failure.version == self.second.version, what
        assert failure.reason, what
        return failure.reason

    def still_predicts(self) -> None:
        found = self.predictor.predict_now(ASKED)
        assert found is not None and found.model_version == self.first.version
        assert found.revenue_micros.tolist() == self.first.predict(ASKED).revenue_micros.tolist()


@pytest.fixture(scope="module")
def models() -> tuple[Model, Model]:
    settings = ModelSettings(trees=6, leaves=8, min_rows_in_leaf=5)
    first, second = (
        fitted(make_history(days=6, seed=seed), settings, dt.datetime(2020, 4, 13 + seed, 2, tzinfo=dt.UTC))
        for seed in (0, 1)
    )
    assert (first.predict(ASKED).revenue_micros != second.predict(ASKED).revenue_micros).all()
    return first, second


@pytest.fixture
async def served(sqlite_url, redis_url, tmp_path, models) -> AsyncIterator[Served]:
    state = State(tmp_path / "state")
    state.root.mkdir()
    state.scratch.mkdir(mode=0o700)  # of a node that serves: what is found there is remembered
    database = Database(DatabaseSettings(url=sqlite_url))
    first, second = models
    registry = ModelRegistry(database, state, redis_url, lambda _: None)
    for model in models:
        await registry.publish(model)
    await registry.activate(first.version)
    environ = {
        "PACELINE_DATABASE_URL": sqlite_url,
        "PACELINE_REDIS_URL": redis_url,
        "PACELINE_SERVE_MODEL_POLL_S": "1e6",
    }
    predictor = Predictor(load_in(environ), state)
    await predictor.start()
    assert predictor.version == first.version
    async with database.write() as connection:
        row = {"version": second.version, "activated_at": dt.datetime.now(dt.UTC), "reason": "test"}
        await connection.execute(insert(model_activations).values(row))
    with redis.Redis.from_url(redis_url) as client:
        client.set(redis_key("current"), second.version)
        yield Served(predictor, state, database, client, first, second)
    await predictor.close()
    await database.close()
    shutil.rmtree(state.scratch)


async def test_hundreds_of_mutants_are_refused_with_a_reason_and_the_good_version_is_served_on(served: Served) -> None:
    ours, theirs = (served.state.models / model.version for model in (served.second, served.first))
    whole, other = (parts_of(directory).bundle() for directory in (ours, theirs))
    served.redis.delete(redis_key(served.second.version))
    tried: list[str] = []
    reasons: set[str] = set()
    for what in broken_directories(ours, theirs, DIRECTORIES, seed=3):
        reasons.add(await served.refuses(what))
        tried.append(what)
    served.still_predicts()
    shutil.rmtree(ours)
    for what, bundle in broken_bundles(whole, other, BUNDLES, seed=4):
        served.redis.set(redis_key(served.second.version), bundle)
        reasons.add(await served.refuses(what))
        tried.append(what)
    served.still_predicts()
    assert len(tried) == DIRECTORIES + BUNDLES >= 500
    assert {
        "model.txt is missing",
        "the manifest's signature does not match the model key (PACELINE_MODEL_KEY)",
        "the manifest has no signature",
    } <= reasons
    served.redis.set(redis_key(served.second.version), whole)
    served.predictor.load_failure = None
    await served.predictor.look()
    assert served.predictor.version == served.second.version, "the same version, whole: nothing else kept it out"


async def test_what_is_signed_and_does_not_work_is_stopped_by_the_child_process(served: Served) -> None:
    key, directory = model_key(served.state), served.state.models / served.second.version
    whole = parts_of(directory)
    served.redis.delete(redis_key(served.second.version))
    tried = 0
    for what, parts in signed_and_broken(whole, key):
        write(parts, directory)
        reason = await served.refuses(what)
        assert "signature" not in reason and "sha256" not in reason, (what, reason)
        with pytest.raises(ModelRefused):
            await ModelRegistry(served.database, served.state, say=lambda _: None).activate(served.second.version)
        tried += 1
    assert tried >= 20
    served.still_predicts()


async def test_a_changed_leaf_is_either_noticed_or_what_the_manifest_vouches_for(served: Served) -> None:
    key, directory = model_key(served.state), served.state.models / served.second.version
    whole, dice = parts_of(directory), random.Random(9)
    served.redis.delete(redis_key(served.second.version))
    for _ in range(LEAVES):
        write(one_leaf_changed(whole, key, dice), directory)
        served.predictor.load_failure = None
        await served.predictor.look()
        if served.predictor.version == served.first.version:
            assert served.predictor.load_failure is not None
            assert (
                served.predictor.load_failure.reason
                == "its predictions for the golden rows differ from those in its manifest"
            )
            served.still_predicts()
            continue
        found = served.predictor.predict_now(ASKED)
        assert found is not None and found.model_version == served.second.version
        assert np.isfinite(found.revenue_micros).all()
        served.predictor._model = served.first  # for the next one
