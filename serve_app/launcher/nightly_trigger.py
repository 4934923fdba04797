"""Submits the night's job to the cluster, at 02:00 UTC, as `ray job submit` would."""

from __future__ import annotations

import datetime as dt
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

logger = logging.getLogger("paceline.night")
NIGHT = dt.time(2, 0, tzinfo=dt.UTC)
LOOK_S = 10.0


def next_night(now: dt.datetime) -> dt.datetime:
    """The first 02:00 UTC after `now`.

    >>> next_night(dt.datetime(2026, 1, 1, 2, 0, tzinfo=dt.UTC)).isoformat()
    '2026-01-02T02:00:00+00:00'
    """
    tonight = dt.datetime.combine(now.astimezone(dt.UTC).date(), NIGHT)
    return tonight if tonight > now else tonight + dt.timedelta(days=1)


def ended(logs: str) -> str:
    """How a night ended, from what its job wrote: the last line that is a summary.

    >>> ended('…\\n{"outcome": "stayed", "version": "v-2", "reason": "deviance 2"}\\n')
    'stayed: v-2, deviance 2'
    >>> ended("Killed\\n")
    'no summary: Killed'
    """
    lines = logs.strip().splitlines()
    for line in reversed(lines):
        try:
            night = json.loads(line)
        except ValueError:
            continue
        if isinstance(night, dict) and "outcome" in night:
            words = [night.get("version"), *(night.get("problems") or [night.get("reason")]), night.get("error")]
            return f"{night['outcome']}: {', '.join(str(word) for word in words if word)}"
    return f"no summary: {lines[-1] if lines else 'it wrote nothing'}"


class NightlyTrigger(threading.Thread):
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
                client = self._client()
                job = self.submit(client)
                self._say(f"night: submitted as job {job}; see the dashboard")
                self._follow(client, job)
            except Exception as error:
                self._say(f"night: could not be submitted or followed: {error}")

    def _client(self) -> Any:
        from ray.job_submission import JobSubmissionClient  # Ray reads the environment on import: after run.py set it

        return JobSubmissionClient(self._dashboard)

    def submit(self, client: Any) -> str:
        job: str = client.submit_job(entrypoint="python -m training.nightly", entrypoint_num_cpus=0)
        return job

    def _follow(self, client: Any, job: str) -> None:
        """Until it ends, and tell how: a champion that stays must not pass unseen."""
        while not client.get_job_status(job).is_terminal():
            if self._stopped.wait(LOOK_S):
                return
        self._say(f"night: {ended(client.get_job_logs(job))}")

    def stop(self) -> None:
        self._stopped.set()
