"""Starts a nightly run for the command line: with the database, Ray cluster and Redis of the settings."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from db.schema import require_file
from db.session import Database
from db.settings import DatabaseSettings, database_settings, redis_url
from db.state import State
from training.fitting.engines import fit_in_process
from training.nightly.night import Fitter
from training.nightly.pipeline import NightSummary, night_lock, run
from training.progress import Progress, Say
from training.settings import ModelSettings, model_settings


def start(date: dt.date | None, in_process: bool, restart: bool, progress: Progress) -> NightSummary:
    """Run a night from its first unfinished step to its end.

    Args:
        date: train on the days before it; None: on all days.
        in_process: fit in this process instead of on Ray Train.
        restart: repeat steps that an earlier run has finished.

    Raises:
        AnotherNight: another run is using this state folder.
        UserError, SQLAlchemyError, OSError: the night failed; finished steps are kept.
    """
    state, settings, database = State.here(), model_settings(), database_settings()
    require_file(database)
    with night_lock(state):
        return asyncio.run(_night(state, settings, database, date, in_process, restart, progress))


async def _night(
    state: State,
    settings: ModelSettings,
    of_database: DatabaseSettings,
    date: dt.date | None,
    in_process: bool,
    restart: bool,
    progress: Progress,
) -> NightSummary:
    database = Database(of_database)
    is_fitted = not restart and any(state.night.glob("fit-*"))
    try:
        with (
            _ray_fitter(state, progress.relay, ahead=not is_fitted)
            if not in_process
            else nullcontext(fit_in_process) as fitter
        ):
            return await run(
                database,
                state,
                date=date,
                redis_url=_redis(state, progress),
                settings=settings,
                fitter=fitter,
                restart=restart,
                progress=progress,
            )
    finally:
        await database.close()


def _redis(state: State, progress: Progress) -> str | None:
    """Redis's URL; None if it is the embedded one and that is not running."""
    url = redis_url()
    if url == f"unix://{state.redis_socket}" and not state.redis_socket.exists():
        progress.say("  the embedded Redis is not running, so nothing is copied to it; the next start fills it")
        return None
    return url


@contextmanager
def _ray_fitter(state: State, say: Say, ahead: bool) -> Iterator[Fitter]:
    """Fits on Ray; leaving the context stops the cluster that was started for it.

    Args:
        ahead: start the cluster in the background while the history is read.
    """
    from training.fitting.ray_fit import Cluster, fit_on_ray  # importing Ray takes seconds, and only this needs it

    with Cluster(state, say) as cluster:
        if ahead:
            cluster.begin()
        yield lambda data, newest, settings: fit_on_ray(data, newest, settings, state, cluster)
