"""The night as an order of steps: etl → features → fit → gate → λ → publish → swap → verify.

Every step's output is kept until the night is over (see `checkpoints.py`), and everything that reaches the outside can
be done twice: a night that was killed anywhere is finished by the next run, without doing again what was finished.
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
"""Characters of a night's reason in the database."""


class NightSummary(NamedTuple):
    """What the summary line says."""

    version: str
    live: str | None
    accepted: bool
    reason: str
    verified: bool | None  # None: there was nothing to verify
    problems: list[str]  # that verify found
    trained_through: str
    rows: int
    simulated: bool
    metrics: dict[str, Any]  # the gate's comparison among them
    lambdas: int
    lambda_fit: dict[str, Any]  # which did not converge or cannot reach their target; distances from the optimum
    warnings: list[str]
    report: str | None  # the page; None: it could not be written, and the warnings say why
    kept: list[str]  # steps that an earlier run had finished
    seconds: dict[str, float]  # by step

    @property
    def outcome(self) -> str:
        """live, unverified or stayed, as the database and the exit code say it."""
        return "stayed" if not self.accepted else "unverified" if self.problems else "live"


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
    """One night, on the days before `date` (default: the day after the newest day with data). Hold `night_lock`.

    Args:
        restart: do every step anew.
        verify: look afterwards whether the version is live in every place.

    Raises:
        NothingToLearn: no usable history before the date.
        ChampionChanged: another version was made live while the night ran.
        ModelUnavailable: the live version cannot be had just now, so that nothing could be compared with it.
    """
    progress, started_at = progress or Progress(say), dt.datetime.now(dt.UTC)
    registry = ModelRegistry(database, state, redis_url, progress.relay)
    night = Night(
        registry, settings or model_settings(), fitter, Checkpoints(state.night), progress, date, verifies=verify
    )
    if restart:
        night.checkpoints.forget()
    shutil.rmtree(state.root / "scratch", ignore_errors=True)  # of a fit that was killed
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
    """The page's path. No reason to fail a night: the version is out, and that is what the night was for."""
    try:
        standing = await standing_of(night.database)
        found = await asyncio.to_thread(
            report, features.data, features.newest, fitted.boosters, features.broken, ended, standing
        )
        page = await asyncio.to_thread(write_report, night.state, found)
    except Exception as error:  # whatever a page stumbles over
        night.progress.warn(f"the night's report could not be written: {in_a_line(error)}")
        return None
    night.progress.say(f"  report: {page}")
    return str(page)


async def _record(
    night: Night, started_at: dt.datetime, outcome: str, version: str | None, reason: str, summary: dict[str, Any]
) -> None:
    """How the night ended, for the monitor. No reason to fail a night that has done its work."""
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
        night.progress.warn(f"the night's end could not be recorded: {in_a_line(error)}")


@contextmanager
def night_lock(state: State) -> Iterator[None]:
    """Two nights never run on one state folder; the lock ends with its process.

    Raises:
        AnotherNight: one is running.
    """
    state.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(state.root / "nightly.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise AnotherNight(f"another night is running on {state.root}") from None
    try:
        yield
    finally:
        lock.release()
