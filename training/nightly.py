"""The night: read → features → fit → gate → λ → publish → swap. `python -m training.nightly [--date D]`."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import fcntl
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import lightgbm as lgb
import numpy as np
import pandas as pd
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from db import BadSetting, Database, State, database_settings, redis_url
from training.features import ID_COLUMNS, Floats
from training.fit import Boosters, FitFailed, TrainingSet, fit_in_process
from training.gate import Verdict, decide
from training.history import day_number, day_of, newest_day, read_history
from training.metrics import Metrics, judge
from training.model import Columns, Model, ModelRefused, ModelUnavailable
from training.opportunities import fit_lambdas
from training.publish import activate, current, fetch, prune, publish_version
from training.settings import ModelSettings, model_settings

Say = Callable[[str], None]
NOON_S = 43_200
SIMULATED_SOURCES = text("SELECT source FROM imports WHERE simulated")
LEARNED_FROM = text("SELECT 1 FROM performance_hourly WHERE source = :source AND day <= :through LIMIT 1")


class NothingToLearn(Exception):
    """There is no history with impressions or clicks before the date."""


class AnotherNight(Exception):
    """The lock is held: a night is running on this state folder."""


Fitter = Callable[[TrainingSet, int, ModelSettings], Boosters]
"""(data, newest day, settings) → trees: in process, or on Ray Train."""


class Candidate(NamedTuple):
    model: Model
    challenger: Metrics | None  # on the newest day, fitted without it
    champion: Metrics | None
    verdict: Verdict


class Night(NamedTuple):
    """What the summary line says."""

    version: str
    live: str | None
    accepted: bool
    reason: str
    trained_through: str
    rows: int
    simulated: bool
    metrics: dict[str, Any]
    lambdas: int
    lambda_fit: dict[str, Any]  # which did not converge or cannot reach their target; distances from the optimum
    seconds: dict[str, float]


async def first_model(
    database: Database,
    state: State,
    settings: ModelSettings | None = None,
    *,
    redis_url: str | None = None,
    say: Say = print,
) -> str:
    """Fit on everything there is, in process, publish and activate. For `make run`, when nothing is live.

    Returns:
        The live version.

    Raises:
        NothingToLearn: the history is empty.
    """
    with night_lock(state):
        night = await run(database, state, redis_url=redis_url, settings=settings, fitter=fit_in_process, say=say)
    return night.live or night.version


async def run(
    database: Database,
    state: State,
    *,
    date: dt.date | None = None,
    redis_url: str | None = None,
    settings: ModelSettings | None = None,
    fitter: Fitter = fit_in_process,
    say: Say = print,
) -> Night:
    """One night, on the days before `date` (default: the day after the newest day with data).

    Raises:
        NothingToLearn: no usable history before the date.
        ModelUnavailable: the live version cannot be asked just now, so that nothing could be compared with it.
    """
    settings = settings or model_settings()
    clock = _Clock(say)
    frame = await _read(database, date)
    newest = int(frame["day"].max())
    clock.done("read", f"{len(frame):,} rows of {frame['day'].nunique()} days through {day_of(newest)}")
    data = await asyncio.to_thread(TrainingSet.of, frame, settings.pending_share)
    if not data.before(newest + 1).any():
        raise NothingToLearn("no row of the history has impressions or clicks")
    clock.done("features", f"{data.matrix.shape[0]:,} × {data.matrix.shape[1]}")
    boosters = await asyncio.to_thread(fitter, data, newest, settings)
    clock.done("fit", f"{settings.trees} trees of {settings.leaves} leaves")
    parent = await current(database)
    champion = await _champion(state, parent, redis_url, say)
    simulated = await _is_simulated(database, day_of(newest))
    candidate = await asyncio.to_thread(assemble, data, newest, boosters, settings, champion, parent, simulated)
    clock.done("gate", ("accepted: " if candidate.verdict.accepted else "rejected: ") + candidate.verdict.reason)
    prices = await fit_lambdas(database)
    clock.done("lambda", f"{len(prices.usable)} brands fitted from logged opportunities")
    for line in prices.warnings():
        say(line)
    model = candidate.model.with_manifest(**{"lambda": {fit.brand_id: fit.kappa for fit in prices.usable}})
    accepted = candidate.verdict.accepted
    await publish_version(database, state, model, redis_url=redis_url, accepted=accepted, fits=prices.fits, say=say)
    clock.done("publish", f"{model.version}{' (simulated market)' if simulated else ''}")
    if accepted:
        await activate(database, state, model.version, redis_url=redis_url, reason="nightly", say=say)
        clock.done("swap", f"{model.version} is live")
    await prune(database, state, settings.keep, redis_url=redis_url, say=say)
    return Night(
        model.version,
        await current(database),
        accepted,
        candidate.verdict.reason,
        day_of(newest).isoformat(),
        len(frame),
        simulated,
        model.manifest["metrics"],
        len(prices.usable),
        prices.summary(),
        clock.seconds,
    )


def assemble(
    data: TrainingSet,
    newest: int,
    boosters: Boosters,
    settings: ModelSettings,
    champion: Model | None,
    parent: str | None,
    simulated: bool,
) -> Candidate:
    """Judge the trees on the newest day, decide at the gate, and make the version."""
    challenged = None if boosters.held_out is None else judge_day(data, newest, boosters.held_out, settings)
    defended = None
    if champion is not None and day_number(champion.trained_through) < newest:
        defended = judge_champion(data, newest, champion, settings)
    verdict = decide(challenged, defended, settings)
    metrics = {
        "challenger": plain(challenged),
        "champion": plain(defended),
        "gate": {"accepted": verdict.accepted, "reason": verdict.reason},
    }
    model = Model.assemble(
        boosters.final,
        data.encoder(newest),
        trained_through=day_of(newest),
        made_at=dt.datetime.now(dt.UTC),
        simulated=simulated,
        parent=parent,
        metrics=metrics,
        training={"rows": len(data.days), "settings": settings.model_dump(exclude={"key"})},
    )
    return Candidate(model, challenged, defended, verdict)


def predict_day(data: TrainingSet, day: int, booster: lgb.Booster) -> tuple[np.ndarray[Any, Any], Floats]:
    """(rows of the day, what a model that has seen only earlier days predicts for them)."""
    rows = np.flatnonzero(data.days == day)
    predicted: Floats = np.asarray(booster.predict(data.matrix[rows], num_threads=1), np.float64)
    return rows, np.maximum(predicted, 0.0)


def judge_day(data: TrainingSet, day: int, booster: lgb.Booster, settings: ModelSettings) -> Metrics:
    rows, predicted = predict_day(data, day, booster)
    return judge(data.target[rows], predicted, data.exposure[rows], settings.tweedie_power)


def judge_champion(data: TrainingSet, day: int, champion: Model, settings: ModelSettings) -> Metrics:
    """The live version on the same rows, with its own tables."""
    rows = np.flatnonzero(data.days == day)
    frame = data.frame.iloc[rows]
    hours = frame["hour"].to_numpy(np.int64)
    at = frame["day"].to_numpy(np.int64) * 86_400 + np.where(hours < 0, NOON_S, hours * 3600)
    ids = [frame[name].tolist() for name in ID_COLUMNS]
    columns = Columns.of(ids, frame["placement_score"].to_numpy(np.float64), at)
    predicted = champion.predict(columns).revenue_micros
    return judge(data.target[rows], predicted, data.exposure[rows], settings.tweedie_power)


async def _read(database: Database, date: dt.date | None) -> pd.DataFrame:
    newest = await newest_day(database)
    if newest is None:
        raise NothingToLearn("the database holds no performance yet; import some: python -m training.etl import FILE")
    through = newest if date is None else date - dt.timedelta(days=1)
    frame = await read_history(database, through)
    if frame.empty:
        raise NothingToLearn(f"the database holds no performance before {through + dt.timedelta(days=1)}")
    return frame


async def _champion(state: State, version: str | None, redis_url: str | None, say: Say) -> Model | None:
    if version is None:
        return None
    try:
        return await fetch(state, version, redis_url=redis_url, verify=False)
    except ModelRefused as error:
        say(f"warning: no champion to compare with: {error}")
        return None


async def _is_simulated(database: Database, through: dt.date) -> bool:
    """Whether anything of the history up to the end of day `through` comes from a simulated market."""
    async with database.read() as connection:
        for source in (await connection.execute(SIMULATED_SOURCES)).scalars().all():
            asked = {"source": source, "through": through.isoformat()}
            if (await connection.execute(LEARNED_FROM, asked)).first() is not None:
                return True
    return False


def plain(metrics: Metrics | None) -> dict[str, Any] | None:
    """JSON has no NaN."""
    if metrics is None:
        return None
    return {name: None if np.isnan(value) else value for name, value in metrics._asdict().items()}


class _Clock:
    def __init__(self, say: Say) -> None:
        self._say, self._last = say, time.monotonic()
        self.seconds: dict[str, float] = {}

    def done(self, step: str, what: str) -> None:
        now = time.monotonic()
        self.seconds[step] = round(now - self._last, 3)
        self._say(f"  {step}: {what} ({now - self._last:.1f} s)")
        self._last = now


@contextmanager
def night_lock(state: State) -> Iterator[None]:
    """Two nights never run on one state folder; the lock ends with its process.

    Raises:
        AnotherNight: one is running.
    """
    state.root.mkdir(parents=True, exist_ok=True)
    with (state.root / "nightly.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AnotherNight(f"another night is running on {state.root}") from None
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.nightly", description=__doc__)
    parser.add_argument("--date", type=dt.date.fromisoformat, help="learn from the days before it (YYYY-MM-DD)")
    parser.add_argument("--in-process", action="store_true", help="fit here instead of on Ray Train")
    parser.add_argument("--json", action="store_true", help="print nothing but the summary line")
    chosen = parser.parse_args(arguments)
    say: Say = (lambda _line: None) if chosen.json else (lambda line: print(line, flush=True))
    try:
        state, settings = State.here(), model_settings()
        with night_lock(state):
            night = asyncio.run(_night(state, settings, chosen.date, chosen.in_process, say))
    except (BadSetting, NothingToLearn, AnotherNight, FitFailed, ModelRefused, ModelUnavailable) as error:
        print(error, file=sys.stderr)
        return 3 if isinstance(error, AnotherNight) else 1
    except (SQLAlchemyError, OSError) as error:
        print(f"the night failed: {str(getattr(error, 'orig', None) or error).splitlines()[0]}", file=sys.stderr)
        return 1
    print(json.dumps(night._asdict()), flush=True)
    return 0 if night.accepted else 2


async def _night(state: State, settings: ModelSettings, date: dt.date | None, in_process: bool, say: Say) -> Night:
    fitter = fit_in_process if in_process else _ray_fitter(state, say)
    database = Database(database_settings())
    try:
        return await run(database, state, date=date, redis_url=redis_url(), settings=settings, fitter=fitter, say=say)
    finally:
        await database.close()


def _ray_fitter(state: State, say: Say) -> Fitter:
    from training.distributed import fit_on_ray  # Ray takes seconds to import, and only this way needs it

    return lambda data, newest, settings: fit_on_ray(data, newest, settings, state, say)


if __name__ == "__main__":
    sys.exit(main())
