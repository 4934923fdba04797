"""The clock beside the system: when it submits the night, and what it tells of its end."""

import datetime as dt
from pathlib import Path
from types import SimpleNamespace

import pytest

from serve_app.launcher import nightly_trigger
from serve_app.launcher.nightly_trigger import NightlyTrigger, ended, next_night


@pytest.mark.parametrize(
    ("now", "due"),
    [
        ("2026-01-01T01:59:59+00:00", "2026-01-01T02:00:00+00:00"),
        ("2026-01-01T02:00:00+00:00", "2026-01-02T02:00:00+00:00"),
        ("2026-01-01T03:30:00+02:00", "2026-01-01T02:00:00+00:00"),
    ],
)
def test_the_night_is_at_two_utc(now: str, due: str) -> None:
    assert next_night(dt.datetime.fromisoformat(now)).isoformat() == due


@pytest.mark.parametrize(
    ("logs", "told"),
    [
        ('[3/8] fit …\n{"outcome": "live", "version": "v-2", "reason": "deviance 1"}\n', "live: v-2, deviance 1"),
        ('{"outcome": "stayed", "version": "v-2", "reason": "deviance 2"}\nbye\n', "stayed: v-2, deviance 2"),
        (
            '{"outcome": "unverified", "version": "v-2", "reason": "good", "problems": ["Redis", "Git"]}',
            "unverified: v-2, Redis, Git",
        ),
        ('{"outcome": "failed", "error": "no history"}', "failed: no history"),
        ('{"other": 1}\n["x"]\nKilled', "no summary: Killed"),
        ("", "no summary: it wrote nothing"),
    ],
)
def test_how_a_night_ended_is_told_in_a_line(logs: str, told: str) -> None:
    assert ended(logs) == told


def test_a_night_is_submitted_followed_to_its_end_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    clock = NightlyTrigger("http://nowhere", Path("."), said.append)
    states = ["RUNNING", "RUNNING", "FAILED"]

    def status(_job: str) -> SimpleNamespace:
        state = states.pop(0)
        if not states:
            clock.stop()  # one night is enough
        return SimpleNamespace(is_terminal=lambda: state == "FAILED")

    client = SimpleNamespace(
        submit_job=lambda **_given: "job-1",
        get_job_status=status,
        get_job_logs=lambda _job: '{"outcome": "stayed", "version": "v-2", "reason": "deviance 2"}',
    )
    monkeypatch.setattr(clock, "_client", lambda: client)
    monkeypatch.setattr(nightly_trigger, "next_night", lambda now: now + dt.timedelta(milliseconds=20))
    monkeypatch.setattr(nightly_trigger, "LOOK_S", 0.0)
    clock.start()
    clock.join(10.0)
    assert not clock.is_alive() and states == []
    assert said[:2] == ["night: submitted as job job-1; see the dashboard", "night: stayed: v-2, deviance 2"]


def test_a_night_that_cannot_be_submitted_is_told_and_the_clock_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    clock = NightlyTrigger("http://nowhere", Path("."), said.append)
    tries = iter((1, 2))

    def refuse() -> None:
        if next(tries) == 2:
            clock.stop()
        raise ConnectionError("nobody there")

    monkeypatch.setattr(clock, "_client", refuse)
    monkeypatch.setattr(nightly_trigger, "next_night", lambda now: now + dt.timedelta(milliseconds=20))
    clock.start()
    clock.join(10.0)
    assert said[:2] == ["night: could not be submitted or followed: nobody there"] * 2
