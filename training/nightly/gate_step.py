"""Step 4, gate: makes the new version (challenger) from the fitted trees, and compares it with the live one."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from training.etl.reader import day_of
from training.fitting.dataset import TrainingSet
from training.fitting.engines import Boosters
from training.gate.compare import compare
from training.gate.gate import Verdict, as_json, decide, report
from training.model.bundle import ModelRefused, ModelUnavailable
from training.model.model import Model
from training.nightly.checkpoints import fingerprint
from training.nightly.learning_steps import Features, Fitted
from training.nightly.night import Night
from training.registry.activations import activated, current
from training.registry.publish import ModelRegistry
from training.registry.version_files import model_key
from training.reports.night_report import metrics_by_brand
from training.settings import ModelSettings

SIMULATED_SOURCES = text("SELECT source FROM imports WHERE simulated")
LEARNED_FROM = text("SELECT 1 FROM performance_hourly WHERE source = :source AND day <= :through LIMIT 1")


class Candidate(NamedTuple):
    """The run's new version, and the gate's verdict."""

    model: Model
    verdict: Verdict
    by_brand: dict[str, list[dict[str, Any]]]  # for the report, see `metrics_by_brand`


async def judge(night: Night, features: Features, fitted: Fitted) -> Candidate:
    """The challenger, with the gate's verdict in its manifest.

    Raises:
        ModelUnavailable: the live version cannot be read just now, so nothing can be compared with it.
    """
    async with night.database.read() as connection:
        simulated = await _is_simulated(connection, day_of(features.newest))
    with night.progress.step("gate") as done:
        key = fingerprint(fitted.key, _settings_of_gate(night.settings), simulated)
        live = await current(night.database)
        candidate = await _judged_before(night, key, live)
        was_kept = candidate is not None
        if candidate is None:
            champion = await _champion(night.registry, live)
            challenger = await asyncio.to_thread(
                assemble, features.data, features.newest, fitted.boosters, night.settings, live, simulated
            )
            candidate = await asyncio.to_thread(_compared, features, fitted, challenger, champion, night.settings)
            await asyncio.to_thread(_keep_candidate, night, key, candidate)
        word = "accepted" if candidate.verdict.accepted else "rejected"
        done(f"{word}: {candidate.verdict.reason}", kept=was_kept)
    return candidate


def assemble(
    data: TrainingSet, newest: int, boosters: Boosters, settings: ModelSettings, parent: str | None, simulated: bool
) -> Model:
    """The version that would go live, made from the fitted trees."""
    return Model.assemble(
        boosters.final,
        data.encoder(newest),
        trained_through=day_of(newest),
        made_at=dt.datetime.now(dt.UTC),
        simulated=simulated,
        parent=parent,
        training={"rows": len(data.days), "settings": settings.model_dump(mode="json", exclude={"key"})},
    )


def _compared(
    features: Features, fitted: Fitted, challenger: Model, champion: Model | None, settings: ModelSettings
) -> Candidate:
    today = dt.datetime.now(dt.UTC).date()
    held_out = fitted.boosters.held_out
    compared = compare(features.data, features.newest, held_out, challenger, champion, settings, today)
    verdict = decide(compared, settings)
    metrics = {
        "challenger": as_json(compared.day.challenger),
        "champion": as_json(compared.day.champion),
        "gate": report(compared, verdict, settings),
        "payout_breaks": features.recently_broken,
    }
    return Candidate(challenger.with_manifest(metrics=metrics), verdict, metrics_by_brand(compared))


async def _champion(registry: ModelRegistry, version: str | None) -> Model | None:
    if version is None:
        return None
    try:
        return await registry.files.fetch(version, verify=False)
    except ModelRefused as error:
        registry.say(f"warning: the live model cannot be used, so the new one is accepted without comparison: {error}")
        return None


def _keep_candidate(night: Night, key: str, candidate: Candidate) -> None:
    with night.checkpoints.making("gate", key) as draft:
        candidate.model.save(draft, model_key(night.state))
        (draft / "version").write_text(candidate.model.version)
        (draft / "duels.json").write_text(json.dumps(candidate.by_brand))


async def _judged_before(night: Night, key: str, live: str | None) -> Candidate | None:
    """The candidate of an earlier, killed run, if it was compared with the live version, or has been live itself."""
    folder = night.checkpoints.find("gate", key)
    if folder is None:
        return None
    version = (folder / "version").read_text()
    try:
        model = await asyncio.to_thread(Model.load, folder / version, model_key(night.state), verify=False)
    except (ModelRefused, ModelUnavailable):  # for example, it was signed with another key
        return None
    if model.manifest["parent"] != live and version not in await activated(night.database):
        return None
    gate = model.manifest["metrics"]["gate"]
    by_brand = json.loads((folder / "duels.json").read_text())
    return Candidate(model, Verdict(gate["accepted"], gate["reason"]), by_brand)


async def _is_simulated(connection: AsyncConnection, through: dt.date) -> bool:
    """Whether any row of the history up to the end of day `through` comes from the simulated market."""
    for source in (await connection.execute(SIMULATED_SOURCES)).scalars().all():
        asked = {"source": source, "through": through.isoformat()}
        if (await connection.execute(LEARNED_FROM, asked)).first() is not None:
            return True
    return False


def _settings_of_gate(settings: ModelSettings) -> dict[str, Any]:
    dumped = settings.model_dump(mode="json", exclude={"key"})
    return {name: value for name, value in dumped.items() if name.startswith("gate_")}
