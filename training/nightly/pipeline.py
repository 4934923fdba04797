"""Runs the steps of a night in order: etl → features → fit → gate → λ → publish → swap → verify.

Every step's output is stored until the run is over (see `checkpoints.py`), and every step with outside effects can be
repeated: the next run continues a killed one where it stopped.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from sqlalchemy import insert
from sqlalchemy.exc import SQLAlchemyError

from db.errors import in_a_line
from db.session import Database
from db.state import State
from db.tables import nights
from training.etl.reader import day_of
from training.fitting.engines import fit_in_process
from training.nightly.checkpoints import Checkpoints
from training.nightly.errors import AnotherNight
from training.nightly.etl_step import read_history
from training.nightly.gate_step import judge
from training.nightly.lambda_step import price
from training.nightly.learning_steps import Features, Fitted, fit_trees, make_features
from training.nightly.night import Fitter, Night
from training.nightly.release_steps import publish, swap, verify_live
from training.progress import Progress, Say
from training.registry.activations import REMEMBERED, current, forget
from training.registry.publish import ModelRegistry
from training.reports.night_report import Ended, report, standing_of, write_report
from training.settings import ModelSettings, model_settings

MOST_REASON = 2000
"""Most characters of a run's reason in the database."""


class NightSummary(NamedTuple):
    """The fields of the summary line."""

    version: str
    live: str | None
    accepted: bool
    reason: str
    verified: bool | None  # None: nothing was verified
    problems: list[str]  # places where the version is not live as published
    trained_through: str  # last day of the history
    rows: int  # of the history
    simulated: bool  # whether the history has rows of the simulated market
    metrics: dict[str, Any]  # the gate's comparison among them
    lambdas: int  # brands with a usable fit of λ
    lambda_fit: dict[str, Any]  # brands that did not converge or cannot reach their target; distances from the optimum
    warnings: list[str]
    report: str | None  # path of the page; None: it could not be written, and a warning says why
    kept: list[str]  # steps that an earlier run had finished
    seconds: dict[str, float]  # by step

    @property
    def outcome(self) -> str:
        """live, unverified or stayed, as in the database and in the exit code."""
        return "stayed" if not self.accepted else "unverified" if self.problems else "live"


async def first_model(
    database: Database,
    state: State,
    settings: ModelSettings | None = None,
    *,
    redis_url: str | None = None,
    say: Say = print,
) -> str:
    """Train the first model on the whole history, in this process, and make it live. For `make run`.

    Returns:
        The live version.

    Raises:
        NothingToLearn: the history is empty.
        AnotherNight: a nightly run is going on.
    """
    with night_lock(state):
        summary = await run(database, state, redis_url=redis_url, settings=settings, verify=False, say=say)
    return summary.live or summary.version


async def run(
    database: Database,
    state: State,
    *,
    date: dt.date | None = None,
    redis_url: str | None = None,
    settings: ModelSettings | None = None,
    fitter: Fitter = fit_in_process,
    restart: bool = False,
    verify: bool = True,
    say: Say = print,
    progress: Progress | None = None,
) -> NightSummary:
    """One nightly run, on the days before `date` (default: on all days). Call it while holding `night_lock`.

    Args:
        restart: repeat steps that an earlier run has finished.
        verify: check at the end that the version is live everywhere.

    Raises:
        NothingToLearn: there is no usable history before the date.
        FitFailed: the trees could not be fitted.
        ChampionChanged: another version was made live during the run.
        ModelUnavailable: the live version cannot be read just now, so nothing can be compared with it.
    """
    progress, started_at = progress or Progress(say), dt.datetime.now(dt.UTC)
    registry = ModelRegistry(database, state, redis_url, progress.relay)
    night = Night(
        registry, settings or model_settings(), fitter, Checkpoints(state.night), progress, date, verifies=verify
    )
    if restart:
        night.checkpoints.forget()
    shutil.rmtree(state.root / "scratch", ignore_errors=True)  # left by a fit that was killed
    try:
        summary = await _steps(night)
    except Exception as error:
        failed = {"step": progress.now, "error": str(error), "seconds": progress.seconds}
        await _record(night, started_at, "failed", None, f"{progress.now}: {error}", failed)
        raise
    if not summary.problems:
        night.checkpoints.forget()
    reason = "; ".join(summary.problems) or summary.reason
    await _record(night, started_at, summary.outcome, summary.version, reason, summary._asdict())
    return summary


async def _steps(night: Night) -> NightSummary:
    history = await read_history(night)
    features = await make_features(night, history)
    fitted = await fit_trees(night, features)
    candidate = await judge(night, features, fitted)
    prices = await price(night, candidate.model.version)
    model = await publish(night, candidate, prices)
    accepted = candidate.verdict.accepted
    if accepted:
        await swap(night, model)
    await night.registry.prune(night.settings.keep)
    await forget(night.database, dt.datetime.now(dt.UTC) - REMEMBERED)
    problems = await verify_live(night, model) if accepted and night.verifies else None

    live, warnings = await current(night.database), night.progress.warnings
    ended = Ended(model, live, candidate.by_brand, prices.rows, problems or [], warnings)
    page = await _report(night, features, fitted, ended)
    return NightSummary(
        version=model.version,
        live=live,
        accepted=accepted,
        reason=candidate.verdict.reason,
        verified=None if problems is None else not problems,
        problems=problems or [],
        trained_through=day_of(features.newest).isoformat(),
        rows=len(history),
        simulated=model.simulated,
        metrics=model.manifest["metrics"],
        lambdas=len(prices.kappas),
        lambda_fit=prices.summary,
        warnings=warnings,
        report=page,
        kept=night.progress.kept,
        seconds=night.progress.seconds,
    )


async def _report(night: Night, features: Features, fitted: Fitted, ended: Ended) -> str | None:
    """The path of the report's page. A page that cannot be written is a warning only: the version is live already."""
    try:
        standing = await standing_of(night.database)
        found = await asyncio.to_thread(
            report, features.data, features.newest, fitted.boosters, features.broken, ended, standing
        )
        page = await asyncio.to_thread(write_report, night.state, found)
    except Exception as error:  # whatever goes wrong in drawing a page
        night.progress.warn(f"the night's report could not be written, the model is not affected: {in_a_line(error)}")
        return None
    night.progress.say(f"  report: {page}")
    return str(page)


async def _record(
    night: Night, started_at: dt.datetime, outcome: str, version: str | None, reason: str, summary: dict[str, Any]
) -> None:
    """Record how the run ended, for /metrics. If that fails it is a warning only: the run has done its work."""
    row = {
        "started_at": started_at,
        "finished_at": dt.datetime.now(dt.UTC),
        "outcome": outcome,
        "version": version,
        "reason": reason[:MOST_REASON],
        "summary": json.dumps(summary, default=str),
    }
    try:
        async with night.database.write() as connection:
            await connection.execute(insert(nights).values(row))
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        lost = "so /metrics goes on showing the outcome of the night before"
        night.progress.warn(f"the outcome ({outcome}) could not be written to the database, {lost}: {in_a_line(error)}")


@contextmanager
def night_lock(state: State) -> Iterator[None]:
    """A lock that lets one nightly run at a time work on a state folder; it is released when its process ends.

    Raises:
        AnotherNight: another run holds it.
    """
    state.make()
    lock = FileLock(state.root / "nightly.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise AnotherNight(f"another nightly run is using {state.root}; wait until it is over") from None
    try:
        yield
    finally:
        lock.release()
