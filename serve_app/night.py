"""Submits the night's job to the cluster, at 02:00 UTC, as `ray job submit` would."""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger("paceline.night")
NIGHT = dt.time(2, 0, tzinfo=dt.UTC)


def next_night(now: dt.datetime) -> dt.datetime:
    """The first 02:00 UTC after `now`.

    >>> next_night(dt.datetime(2026, 1, 1, 2, 0, tzinfo=dt.UTC)).isoformat()
    '2026-01-02T02:00:00+00:00'
    """
    tonight = dt.datetime.combine(now.astimezone(dt.UTC).date(), NIGHT)
    return tonight if tonight > now else tonight + dt.timedelta(days=1)


class Night(threading.Thread):
    """A clock beside the system. A night that passes while nothing runs is made up for by the next one."""

    def __init__(self, dashboard: str, repository: Path, say: Callable[[str], None]) -> None:
        super().__init__(name="night", daemon=True)
        self._dashboard, self._repository, self._say = dashboard, repository, say
        self._stopped = threading.Event()

    def run(self) -> None:
        while True:
            now = dt.datetime.now(dt.UTC)
            # In slices, so that a clock that jumps or a machine that slept is noticed.
            due = next_night(now)
            while (left := (due - dt.datetime.now(dt.UTC)).total_seconds()) > 0:
                if self._stopped.wait(min(left, 30.0)):
                    return
            try:
                self._say(f"night: submitted as job {self.submit()}; see the dashboard")
            except Exception as error:
                self._say(f"night: could not be submitted: {error}")

    def submit(self) -> str:
        from ray.job_submission import JobSubmissionClient  # Ray reads the environment on import: after run.py set it

        client = JobSubmissionClient(self._dashboard)
        return client.submit_job(entrypoint="python -m training.nightly", entrypoint_num_cpus=0)

    def stop(self) -> None:
        self._stopped.set()
