"""The night: etl → features → fit → gate → λ → publish → swap → verify. `python -m training.nightly [--date D]`."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

from sqlalchemy.exc import SQLAlchemyError

from db.environment import BadSetting
from db.errors import CannotMigrate, in_a_line
from db.session import Database
from db.settings import database_settings, redis_url
from db.state import State
from training.fitting.engines import FitFailed, fit_in_process
from training.model.bundle import ModelRefused, ModelUnavailable
from training.nightly.errors import AnotherNight, ChampionChanged, NothingToLearn
from training.nightly.night import Fitter
from training.nightly.pipeline import NightSummary, night_lock, run
from training.progress import Progress, Say
from training.settings import ModelSettings, model_settings

LIVE, FAILED, STAYED, ANOTHER, UNVERIFIED = range(5)
"""Exit codes; 128 + the signal's number when stopped by one."""
EXIT_CODES = """exit codes:
  0    the new version is live, and verified
  1    the night failed; what is finished is kept, and the next run continues there
  2    the champion stays: the challenger lost at the gate, and the summary says why
  3    another night is running on this state folder
  4    the new version is live, but not found everywhere as it was published; the summary says where
  130  stopped by SIGINT, 143 by SIGTERM: as after 1
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A mistyped option is a night that failed, not a champion that stays (argparse's own code is 2)."""
        self.print_usage(sys.stderr)
        self.exit(FAILED, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _Parser(
        prog="python -m training.nightly",
        description=(__doc__ or "").split("\n")[0],
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--date", type=dt.date.fromisoformat, help="learn from the days before it (YYYY-MM-DD)")
    parser.add_argument("--in-process", action="store_true", help="fit here instead of on Ray Train")
    parser.add_argument("--restart", action="store_true", help="do every step anew, whatever an earlier run has left")
    parser.add_argument("--json", action="store_true", help="print nothing but the summary line")
    chosen = parser.parse_args(arguments)
    progress = Progress((lambda _line: None) if chosen.json else (lambda line: print(line, flush=True)))
    try:
        state, settings = State.here(), model_settings()
        _stop_at_signals(state, progress)
        with night_lock(state):
            summary = asyncio.run(_night(state, settings, chosen.date, chosen.in_process, chosen.restart, progress))
    except AnotherNight as error:
        return _failed(ANOTHER, str(error), progress)
    except (BadSetting, CannotMigrate, ChampionChanged, NothingToLearn, FitFailed) as error:
        return _failed(FAILED, str(error), progress)
    except (ModelRefused, ModelUnavailable) as error:
        return _failed(FAILED, str(error), progress)
    except (SQLAlchemyError, OSError) as error:
        return _failed(FAILED, f"the night failed: {in_a_line(error)}", progress)
    print(json.dumps(summary._asdict() | {"outcome": summary.outcome}, default=str), flush=True)
    return {"live": LIVE, "stayed": STAYED, "unverified": UNVERIFIED}[summary.outcome]


def _failed(code: int, why: str, progress: Progress) -> int:
    print(why, file=sys.stderr)
    outcome = "failed" if code == FAILED else "another night"
    summary = {"outcome": outcome, "error": why, "step": progress.now}
    print(json.dumps(summary | {"warnings": progress.warnings, "seconds": progress.seconds}), flush=True)
    return code


def _stop_at_signals(state: State, progress: Progress) -> None:
    """At once, as if killed, for nothing is lost by it: a fit in a thread would otherwise be waited for."""

    def stop(number: int, _frame: Any) -> NoReturn:
        words = f"stopped by {signal.Signals(number).name} in step {progress.now or 'etl'}: what is finished is kept"
        os.write(2, f"{words} in {state.night}, and the next run continues there\n".encode())
        os._exit(128 + number)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


async def _night(
    state: State,
    settings: ModelSettings,
    date: dt.date | None,
    in_process: bool,
    restart: bool,
    progress: Progress,
) -> NightSummary:
    database = Database(database_settings())
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
    """None: the embedded one is not running."""
    url = redis_url()
    if url == f"unix://{state.redis_socket}" and not state.redis_socket.exists():
        progress.say("  the embedded Redis is not running: a system that starts tells it what is live")
        return None
    return url


@contextmanager
def _ray_fitter(state: State, say: Say, ahead: bool) -> Iterator[Fitter]:
    """
    Args:
        ahead: let the cluster come up while the history is read.
    """
    from training.fitting.ray_fit import Cluster, fit_on_ray  # Ray takes seconds to import, and only this way needs it

    with Cluster(state, say) as cluster:
        if ahead:
            cluster.begin()
        yield lambda data, newest, settings: fit_on_ray(data, newest, settings, state, cluster)
