"""What a new state folder needs before anything can be served: tables, history, a first model."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

from db.environment import BadSetting
from db.errors import UserError
from db.schema import upgrade
from db.session import Database
from db.state import State
from serve_app.settings import Settings
from training.etl.csv_reader import Unreadable
from training.etl.importer import import_file, import_frame, is_imported, known_sources
from training.etl.simulated_market import performance
from training.fitting.engines import FitFailed
from training.model.bundle import ModelRefused, ModelUnavailable
from training.nightly.errors import AnotherNight, NothingToLearn
from training.nightly.pipeline import first_model
from training.progress import Say
from training.registry.publish import ModelRegistry

SIMULATED = "simulated"


class CannotPrepare(UserError):
    """There is nothing to serve from. The text says why, in a line."""


def prepare(settings: Settings, state: State, data: Path | None, say: Say) -> None:
    """Bring a state folder to where a model can be served; what is already there is not done again.

    Raises:
        BadSetting: the history cannot be used, or does not go with what the folder holds.
        CannotMigrate: the database cannot be used.
        CannotPrepare: nothing can be learned from the history, or another program works on the folder.
    """
    upgrade(str(settings.database.url))
    say(f"database ready ({settings.database.url.split(':')[0] if settings.database.url else ''})")
    try:
        asyncio.run(_prepare(settings, state, data, say))
    except (NothingToLearn, AnotherNight, FitFailed, ModelRefused, ModelUnavailable) as error:
        raise CannotPrepare(str(error) or type(error).__name__) from None


async def _prepare(settings: Settings, state: State, data: Path | None, say: Say) -> None:
    database = Database(settings.database)
    try:
        await _import(database, state, data, say)
        redis_url = str(settings.redis.url)
        live = await ModelRegistry(database, state, redis_url, say).announce()
        if live is None:
            say("fitting the first model")
            live = await first_model(
                database, state, settings=settings.model, redis_url=redis_url, say=lambda text: say(f"  {text}")
            )
        say(f"model {live}")
    finally:
        await database.close()


async def _import(database: Database, state: State, data: Path | None, say: Say) -> None:
    known = await known_sources(database)
    simulated = any(source.simulated for source in known.values())
    if data is None:
        cut_off = sorted(name for name, source in known.items() if not source.complete)
        if known and not any(known[name].simulated for name in cut_off):
            if cut_off:
                say(f"warning: the import of {', '.join(cut_off)} was cut off; give its DATA= again")
            what = "the simulated market" if simulated else ", ".join(sorted(known))
            say(f"history: {what}, imported before")
            return
        say("history: no DATA given, so a SIMULATED market is generated")
        yesterday = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
        report = await import_frame(database, performance(yesterday), SIMULATED, simulated=True, say=lambda _: None)
        say(f"history: {report.rows} simulated rows of {report.brands} brands")
        return
    if simulated:
        raise BadSetting(
            [f"DATA={data}: {state.root} holds the simulated market; give real history a folder of its own: STATE=…"]
        )
    if await is_imported(database, data):
        say(f"history: {data.name}, imported before")
        return
    try:
        report = await import_file(database, data, state=state, say=lambda text: say(f"  {text}"))
    except Unreadable as error:
        raise BadSetting([f"DATA: {error}"]) from None
    rejected = f", {report.rejected} rejected (see {report.rejects_file})" if report.rejected else ""
    say(f"history: {report.rows} rows of {report.brands} new brands from {data.name}{rejected}")
