"""Holds the model in this process (an ingress, or a replica of the pool) and swaps in newer versions between calls."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from sqlalchemy.exc import SQLAlchemyError

from db.errors import in_a_line
from db.outage import Outage
from db.session import Database
from db.state import State
from ledger.former_names import pickled_as
from serve_app.prediction.expectation import Expectation
from serve_app.prediction.live_version import LiveVersion, Pointer
from serve_app.settings import Settings
from training.model.bundle import ModelRefused, ModelUnavailable
from training.model.model import Columns, Explanation, Model
from training.registry.activations import current
from training.registry.version_files import VersionFiles

FIRST_LOOK_S = 30.0
REFUSED_AGAIN_S, UNAVAILABLE_AGAIN_S = 30.0, 3.0
"""Seconds until a version that could not be loaded is tried again: its files may have been repaired."""
logger = logging.getLogger("paceline.predictor")


@pickled_as("serve_app.predictor")
class NoModel(Exception):
    """There is no model: none has been published, or this replica could not load any."""


@pickled_as("serve_app.predictor")
class Slot(NamedTuple):
    """The expectation of one impression in one slot."""

    revenue_micros: float
    cost_micros: float | None  # by the slot's history; None where no cost was ever reported
    impressions: float  # of the history behind the prediction
    level: str  # of the hierarchy, brand to placement, that this history belongs to
    model_version: str


@pickled_as("serve_app.predictor")
class Live(NamedTuple):
    """The version that predicts."""

    version: str
    made_at: float  # epoch seconds
    simulated: bool


class LoadFailure(NamedTuple):
    """Why this process could not load the live version."""

    version: str
    reason: str
    until: float  # monotonic seconds; then it is tried again


class Predictor:
    """Serves the live version, and checks for a newer one every `model_poll_s` seconds."""

    def __init__(self, settings: Settings, state: State) -> None:
        self._poll_s = settings.serve.model_poll_s
        self._database = Database(settings.database)
        redis_url = str(settings.redis.url)
        self._files = VersionFiles(state, redis_url)
        self._pointer = Pointer(redis_url)
        self._watch = LiveVersion(partial(current, self._database), self._pointer)
        self._model: Model | None = None
        self.load_failure: LoadFailure | None = None
        self._started = False
        self._watching: asyncio.Task[None] | None = None
        self._first_look = asyncio.Lock()
        self._check_outage = Outage(logger)  # never ended: most checks ask Redis alone, and say nothing of the database
        self._load_outage = Outage(logger)
        self._explaining = ThreadPoolExecutor(1, "explain")  # half a second for a thousand bids, off the loop

    @property
    def version(self) -> str | None:
        """Which version predicts here; None before the first."""
        return None if self._model is None else self._model.version

    async def start(self) -> None:
        """Load the model, if there is one, and check for newer ones from now on. Does not raise if the database, Redis
        or the model's files fail."""
        async with self._first_look:
            if not self._started:
                # Bounded in time: a silent database must not keep a replica from becoming healthy.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(FIRST_LOOK_S):
                        await self._try_look()
                self._watching = asyncio.get_running_loop().create_task(self._keep_looking())
                self._started = True

    async def _ready(self) -> Model:
        if not self._started:
            await self.start()
        if self._model is None:
            if self.load_failure is not None:
                raise NoModel(f"model {self.load_failure.version} cannot be loaded: {self.load_failure.reason}")
            raise NoModel("no model has been published yet; run paceline night")
        return self._model

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            await self._try_look()

    async def _try_look(self) -> None:
        try:
            await self.look()
        except Exception as error:
            serves = f"model {self.version}" if self.version else "no model"
            words = f"check for a newer model failed, this replica serves {serves} and checks again"
            if isinstance(error, (SQLAlchemyError, OSError, TimeoutError)):
                self._check_outage.failed(f"{words}: {in_a_line(error)}")
            else:
                self._check_outage.failed(words, logging.ERROR, error)

    async def look(self) -> None:
        """Load the live version unless it is loaded. If that fails, the last good one stays and the log says so."""
        version = await self._watch.version()
        if version is None or version == self.version:
            self.load_failure = None
            self._load_outage.ended()
            return
        failure = self.load_failure
        if failure is not None and failure.version == version and time.monotonic() < failure.until:
            return
        try:
            # In threads, so that requests go on. The slow parts in Python, which would hold the GIL, are done once per
            # node by a child process.
            model = await self._files.fetch(version)
        except ModelUnavailable as error:
            self._load_outage.failed(f"{error}; {self._instead()}, trying again every {UNAVAILABLE_AGAIN_S:g} s")
            self.load_failure = LoadFailure(version, error.reason, time.monotonic() + UNAVAILABLE_AGAIN_S)
        except ModelRefused as error:
            self._load_outage.failed(
                f"{error}; {self._instead()}, trying again every {REFUSED_AGAIN_S:g} s", logging.ERROR
            )
            self.load_failure = LoadFailure(version, error.reason, time.monotonic() + REFUSED_AGAIN_S)
        else:
            self._model, self.load_failure = model, None
            self._load_outage.ended()
            logger.info("model %s is loaded and serves this replica's requests from now on", version)

    def _instead(self) -> str:
        return f"model {self.version} goes on serving" if self.version else "this replica serves no model yet"

    async def predict(self, columns: Columns) -> Expectation:
        """What winning each of the n rows would bring. Raises: NoModel."""
        return _expectation(await self._ready(), columns)

    def predict_now(self, columns: Columns) -> Expectation | None:
        """`predict` without waiting; None while there is no model."""
        return None if self._model is None else _expectation(self._model, columns)

    async def explain(self, columns: Columns) -> tuple[Expectation, Explanation]:
        """The same prediction, with every feature's share in the raw score. Raises: NoModel."""
        model = await self._ready()
        return await asyncio.get_running_loop().run_in_executor(self._explaining, _explained, model, columns)

    async def slot(self, columns: Columns) -> Slot:
        """The figures of GET /api/roas for a single row. Raises: NoModel."""
        model = await self._ready()
        score = float(columns.placement_score[0])
        brand, partner, slot, device, creative = (ids[0] for ids in columns.ids)
        known = None if np.isnan(score) else score
        impressions, level = model.confidence(brand, partner, slot, device, creative, known)
        cost = float(model.cost_micros(columns)[0])
        revenue = float(model.predict(columns).revenue_micros[0])
        return Slot(revenue, None if np.isnan(cost) else cost, float(impressions), level, model.version)

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self._explaining.shutdown(wait=False, cancel_futures=True)
        await self._pointer.close()
        await self._database.close()

    async def live(self) -> Live | None:
        try:
            model = await self._ready()
        except NoModel:
            return None
        return Live(model.version, dt.datetime.fromisoformat(model.manifest["made_at"]).timestamp(), model.simulated)


def _explained(model: Model, columns: Columns) -> tuple[Expectation, Explanation]:
    return _expectation(model, columns), model.explain(columns)


def _expectation(model: Model, columns: Columns) -> Expectation:
    prediction = model.predict(columns)
    return Expectation(*prediction, model.version)


def concatenated(parts: Sequence[Columns]) -> Columns:
    """The rows of several requests as one, in order."""
    if len(parts) == 1:
        return parts[0]
    brand, partner, slot, device, creative = (
        [value for ids in column for value in ids] for column in zip(*(part.ids for part in parts), strict=True)
    )
    scores = np.concatenate([part.placement_score for part in parts])
    at = np.concatenate([part.at for part in parts if part.at is not None])
    return Columns(brand, partner, slot, device, creative, scores, at)
