"""The night: etl → features → fit → gate → λ → publish → swap → verify. `python -m training.nightly [--date D]`.

Every step's output is kept until the night is over (see `kept.py`), and everything that reaches the outside can be done
twice: a night that was killed anywhere is finished by the next run, without doing again what was finished.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import pandas as pd
import pyarrow
from sqlalchemy import insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from db.session import Database
from db.state import State
from db.tables import imports, nights
from training.etl.approvals import pending_shares
from training.etl.data_quality import oddities
from training.etl.reader import day_of
from training.etl.reconcile import gather, read
from training.fitting.dataset import PayoutBreak, TrainingSet
from training.fitting.engines import Boosters, fit_in_process
from training.gate.compare import compare
from training.gate.gate import Verdict, decide, report
from training.gate.gate import plain as plain
from training.model.bundle import ModelRefused, ModelUnavailable
from training.model.model import Model
from training.nightly.checkpoints import (
    Checkpoints,
    fingerprint,
    load_features,
    load_fit,
    of_history,
    of_program,
    save_features,
    save_fit,
)
from training.nightly.lambda_step import fit_lambdas
from training.progress import Progress, Say
from training.registry.activations import REMEMBERED, activated, current, forget
from training.registry.publish import ModelRegistry
from training.registry.release_check import confirm
from training.registry.version_files import model_key
from training.reports.night_report import Ended, duels_of, write_report
from training.reports.report_data import RECENT_DAYS, payout_breaks
from training.reports.report_data import told as told_break
from training.settings import ModelSettings, model_settings

SIMULATED_SOURCES = text("SELECT source FROM imports WHERE simulated")
LEARNED_FROM = text("SELECT 1 FROM performance_hourly WHERE source = :source AND day <= :through LIMIT 1")
MOST_REASON = 2000
MOST_BREAKS = 10
"""Broken payouts that have a warning each."""


class NothingToLearn(Exception):
    """There is no history with impressions or clicks before the date."""


class AnotherNight(Exception):
    """The lock is held: a night is running on this state folder."""


class ChampionChanged(Exception):
    """Somebody made another version live while the night ran: nobody has compared the challenger with that one."""


Fitter = Callable[[TrainingSet, int, ModelSettings], Boosters]
"""(data, newest day, settings) → trees: in process, or on Ray Train."""


class Candidate(NamedTuple):
    model: Model
    verdict: Verdict
    duels: dict[str, list[dict[str, Any]]]  # by brand, for the report


class Prices(NamedTuple):
    """λ of the night, as it is kept."""

    rows: list[dict[str, Any]]  # of `lambda_fits`
    kappas: dict[str, float]  # of those that converged
    summary: dict[str, Any]
    warnings: list[str]


class Night(NamedTuple):
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
        night = await run(database, state, redis_url=redis_url, settings=settings, verify=False, progress=Progress(say))
    return night.live or night.version


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
) -> Night:
    """One night, on the days before `date` (default: the day after the newest day with data). Hold `night_lock`.

    Args:
        restart: do every step anew.
        verify: look afterwards whether the version is live in every place.

    Raises:
        NothingToLearn: no usable history before the date.
        ChampionChanged: another version was made live while the night ran.
        ModelUnavailable: the live version cannot be asked just now, so that nothing could be compared with it.
    """
    progress, started_at = progress or Progress(say), dt.datetime.now(dt.UTC)
    kept = Checkpoints(state.night)
    if restart:
        kept.forget()
    shutil.rmtree(state.root / "scratch", ignore_errors=True)  # of a fit that was killed
    try:
        night = await _steps(
            database, state, kept, date, redis_url, settings or model_settings(), fitter, verify, progress
        )
    except Exception as error:
        failed = {"step": progress.now, "error": str(error), "seconds": progress.seconds}
        await _record(database, progress, started_at, "failed", None, f"{progress.now}: {error}", failed)
        raise
    if not night.problems:
        kept.forget()
    reason = "; ".join(night.problems) or night.reason
    await _record(database, progress, started_at, night.outcome, night.version, reason, night._asdict())
    return night


async def _steps(
    database: Database,
    state: State,
    kept: Checkpoints,
    date: dt.date | None,
    redis_url: str | None,
    settings: ModelSettings,
    fitter: Fitter,
    verify: bool,
    progress: Progress,
) -> Night:
    registry = ModelRegistry(database, state, redis_url, progress.hear)
    with progress.step("etl") as done:
        frame, new = await _read(database, state, date, progress)
        newest = int(frame["day"].max())
        done(f"{new}; {len(frame):,} rows of {frame['day'].nunique()} days through {day_of(newest)}")
    for line in [*oddities(frame), *await _rejected(database)]:
        progress.warn(line)
    pyarrow.default_memory_pool().release_unused()  # what the files' columns were read into
    with progress.step("features") as done:
        pending = await pending_shares(database, settings.pending_share)
        made_from = await asyncio.to_thread(lambda: fingerprint(of_program(), of_history(frame), pending))
        data, was_kept = await asyncio.to_thread(_features, kept, made_from, frame, pending)
        words = f"{data.matrix.shape[0]:,} × {data.matrix.shape[1]}"
        done(progress.keeps(words) if was_kept else words)
    if not data.before(newest + 1).any():
        raise NothingToLearn("no row of the history has impressions or clicks")
    broken = await asyncio.to_thread(data.payout_breaks)
    recent = payout_breaks(broken, newest - RECENT_DAYS + 1)
    for line in _broken(recent):
        progress.warn(line)
    with progress.step("fit") as done:
        made_from = fingerprint(made_from, _of_fit(settings))
        boosters, was_kept = await asyncio.to_thread(_fit, kept, made_from, fitter, data, newest, settings)
        words = f"{settings.trees} trees of {settings.leaves} leaves"
        done(progress.keeps(words) if was_kept else words)
    simulated = await _is_simulated(database, day_of(newest))
    with progress.step("gate") as done:
        made_from = fingerprint(made_from, _of_gate(settings), simulated)
        live = await current(database)
        candidate = await _judged_before(database, state, kept, made_from, live)
        was_kept = candidate is not None
        if candidate is None:
            champion = await _champion(registry, live)
            candidate = await asyncio.to_thread(
                _judge, data, newest, boosters, settings, champion, live, simulated, recent
            )
            await asyncio.to_thread(_keep_candidate, kept, made_from, candidate, state)
        words = ("accepted: " if candidate.verdict.accepted else "rejected: ") + candidate.verdict.reason
        done(progress.keeps(words) if was_kept else words)
    model, accepted = candidate.model, candidate.verdict.accepted
    with progress.step("lambda") as done:
        prices, was_kept = await _prices(database, kept, model.version)
        words = f"{len(prices.kappas)} brands fitted from logged opportunities"
        done(progress.keeps(words) if was_kept else words)
    for line in prices.warnings:
        progress.warn(line)
    with progress.step("publish") as done:
        model = model.with_manifest(**{"lambda": prices.kappas})
        was_kept = await registry.is_published(model.version)
        await registry.publish(model, accepted=accepted, lambdas=prices.rows)
        words = f"{model.version}{' (simulated market)' if simulated else ''}"
        done(progress.keeps(words) if was_kept else words)
    problems: list[str] = []
    if accepted:
        with progress.step("swap") as done:
            done(await _swap(registry, model, progress))
    await registry.prune(settings.keep)
    await forget(database, dt.datetime.now(dt.UTC) - REMEMBERED)
    if accepted and verify:
        with progress.step("verify") as done:
            problems = await confirm(registry, model.version)
            done("; ".join(problems) or "database, files, Redis, Git and replicas agree")
    live = await current(database)
    ended = Ended(model, live, candidate.duels, prices.rows, problems, progress.warnings)
    page = await _reported(database, state, data, newest, boosters, broken, ended, progress)
    return Night(
        model.version,
        live,
        accepted,
        candidate.verdict.reason,
        not problems if accepted and verify else None,
        problems,
        day_of(newest).isoformat(),
        len(frame),
        simulated,
        model.manifest["metrics"],
        len(prices.kappas),
        prices.summary,
        progress.warnings,
        page,
        progress.kept,
        progress.seconds,
    )


def assemble(
    data: TrainingSet, newest: int, boosters: Boosters, settings: ModelSettings, parent: str | None, simulated: bool
) -> Model:
    """The version that would go live, made from what was fitted."""
    return Model.assemble(
        boosters.final,
        data.encoder(newest),
        trained_through=day_of(newest),
        made_at=dt.datetime.now(dt.UTC),
        simulated=simulated,
        parent=parent,
        training={"rows": len(data.days), "settings": settings.model_dump(mode="json", exclude={"key"})},
    )


def _judge(
    data: TrainingSet,
    newest: int,
    boosters: Boosters,
    settings: ModelSettings,
    champion: Model | None,
    parent: str | None,
    simulated: bool,
    recent: list[dict[str, Any]],
) -> Candidate:
    model = assemble(data, newest, boosters, settings, parent, simulated)
    compared = compare(data, newest, boosters.held_out, model, champion, settings, dt.datetime.now(dt.UTC).date())
    verdict = decide(compared, settings)
    metrics = {
        "challenger": plain(compared.day.challenger),
        "champion": plain(compared.day.champion),
        "gate": report(compared, verdict, settings),
        "payout_breaks": recent,
    }
    return Candidate(model.with_manifest(metrics=metrics), verdict, duels_of(compared))


# What is kept of each step


def _features(
    kept: Checkpoints, key: str, frame: pd.DataFrame, pending: Mapping[str, float]
) -> tuple[TrainingSet, bool]:
    """(the training set, whether an earlier run had made it)."""
    folder = kept.find("features", key)
    if folder is not None:
        return load_features(folder, frame), True
    data = TrainingSet.of(frame, pending)
    with kept.making("features", key) as draft:
        save_features(data, draft)
    return data, False


def _fit(
    kept: Checkpoints, key: str, fitter: Fitter, data: TrainingSet, newest: int, settings: ModelSettings
) -> tuple[Boosters, bool]:
    folder = kept.find("fit", key)
    if folder is not None:
        return load_fit(folder), True
    boosters = fitter(data, newest, settings)
    with kept.making("fit", key) as draft:
        save_fit(boosters, draft)
    return boosters, False


def _of_fit(settings: ModelSettings) -> dict[str, Any]:
    dumped = settings.model_dump(mode="json", exclude={"key", "keep", "registry", "threads"})
    return {name: value for name, value in dumped.items() if not name.startswith("gate_")}


def _of_gate(settings: ModelSettings) -> dict[str, Any]:
    dumped = settings.model_dump(mode="json", exclude={"key"})
    return {name: value for name, value in dumped.items() if name.startswith("gate_")}


def _keep_candidate(kept: Checkpoints, key: str, candidate: Candidate, state: State) -> None:
    with kept.making("gate", key) as draft:
        candidate.model.save(draft, model_key(state))
        (draft / "version").write_text(candidate.model.version)
        (draft / "duels.json").write_text(json.dumps(candidate.duels))


async def _judged_before(
    database: Database, state: State, kept: Checkpoints, key: str, live: str | None
) -> Candidate | None:
    """What an earlier run of this night has judged against the version that is live, or has made live itself."""
    folder = kept.find("gate", key)
    if folder is None:
        return None
    version = (folder / "version").read_text()
    try:
        model = await asyncio.to_thread(Model.load, folder / version, model_key(state), verify=False)
    except (ModelRefused, ModelUnavailable):  # signed by another key, for one
        return None
    if model.manifest["parent"] != live and version not in await activated(database):
        return None
    gate = model.manifest["metrics"]["gate"]
    duels = json.loads((folder / "duels.json").read_text())
    return Candidate(model, Verdict(gate["accepted"], gate["reason"]), duels)


async def _prices(database: Database, kept: Checkpoints, version: str) -> tuple[Prices, bool]:
    """Of the same night the same λ: the version's manifest names it."""
    folder = kept.find("lambda", fingerprint(version))
    if folder is not None:
        return Prices(**json.loads((folder / "prices.json").read_text())), True
    fitted = await fit_lambdas(database)
    kappas = {fit.brand_id: fit.kappa for fit in fitted.usable}
    prices = Prices(fitted.rows(), kappas, fitted.summary(), fitted.warnings())
    with kept.making("lambda", fingerprint(version)) as draft:
        (draft / "prices.json").write_text(json.dumps(prices._asdict()))
    return prices, False


# What the night tells


def _broken(recent: list[dict[str, Any]]) -> list[str]:
    lines = [told_break(one) for one in recent[:MOST_BREAKS]]
    if len(recent) > MOST_BREAKS:
        lines.append(f"{len(recent) - MOST_BREAKS} more payouts broke: see the night's report")
    return lines


async def _reported(
    database: Database,
    state: State,
    data: TrainingSet,
    newest: int,
    boosters: Boosters,
    broken: list[PayoutBreak],
    ended: Ended,
    progress: Progress,
) -> str | None:
    try:
        page = await write_report(database, state, data, newest, boosters, broken, ended)
    except Exception as error:  # whatever a page stumbles over: the version is out, and that is what the night was for
        said = str(getattr(error, "orig", None) or error or type(error).__name__).splitlines()[0]
        progress.warn(f"the night's report could not be written: {said}")
        return None
    progress.say(f"  report: {page}")
    return str(page)


# The steps' own questions


async def _read(database: Database, state: State, date: dt.date | None, progress: Progress) -> tuple[pd.DataFrame, str]:
    """(the history before the date, what was new in it)."""
    gathered = await gather(database, state, progress.hear)
    if gathered.newest is None:
        raise NothingToLearn("the database holds no performance yet; import some: python -m training.etl import FILE")
    through = gathered.newest if date is None else date - dt.timedelta(days=1)
    frame = await read(database, state, through)
    if frame.empty:
        raise NothingToLearn(f"the database holds no performance before {through + dt.timedelta(days=1)}")
    return frame, f"{gathered.events:,} new events, {gathered.refreshed} days brought up to date"


async def _rejected(database: Database) -> list[str]:
    """Rows that imports have put aside."""
    asked = select(imports.c.source, imports.c.rejected).where(imports.c.rejected > 0).order_by(imports.c.source)
    async with database.read() as connection:
        found = (await connection.execute(asked)).all()
    return [f"{row.rejected} rows of the import {row.source} cannot be used: see its .rejects.csv" for row in found]


async def _champion(registry: ModelRegistry, version: str | None) -> Model | None:
    if version is None:
        return None
    try:
        return await registry.files.fetch(version, verify=False)
    except ModelRefused as error:
        registry.say(f"warning: no champion to compare with: {error}")
        return None


async def _is_simulated(database: Database, through: dt.date) -> bool:
    """Whether anything of the history up to the end of day `through` comes from a simulated market."""
    async with database.read() as connection:
        for source in (await connection.execute(SIMULATED_SOURCES)).scalars().all():
            asked = {"source": source, "through": through.isoformat()}
            if (await connection.execute(LEARNED_FROM, asked)).first() is not None:
                return True
    return False


async def _swap(registry: ModelRegistry, model: Model, progress: Progress) -> str:
    """Once a night: what an operator has made live since then stays.

    Raises:
        ChampionChanged: an operator was first; the next run judges the challenger against what is live now.
    """
    database, version, parent = registry.database, model.version, model.manifest["parent"]
    if version not in await activated(database):
        if (live := await current(database)) != parent:
            raise ChampionChanged(f"{live} was made live meanwhile, the challenger was judged against {parent}")
        await registry.activate(version, reason="nightly")
        return f"{version} is live"
    live = await current(database)
    if live == version and registry.files.redis.url is not None:  # it may have been killed between database and Redis
        await registry.files.tell_redis(version)
    return progress.keeps(f"{version} was made live" + ("" if live == version else f", {live} is now"))


async def _record(
    database: Database,
    progress: Progress,
    started_at: dt.datetime,
    outcome: str,
    version: str | None,
    reason: str,
    summary: dict[str, Any],
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
        async with database.write() as connection:
            await connection.execute(insert(nights).values(row))
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        said = str(getattr(error, "orig", None) or error or type(error).__name__).splitlines()[0]
        progress.warn(f"the night's end could not be recorded: {said}")


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
