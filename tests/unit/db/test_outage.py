"""An hour without Redis is sixty lines in the log, not one a second."""

from __future__ import annotations

import logging

import pytest

from db.outage import Outage

logger = logging.getLogger("paceline.test")


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "paceline.test")


def test_an_outage_is_logged_when_it_begins_once_a_minute_and_when_it_is_over(caplog):
    now = 0.0
    outage = Outage(logger, "Redis answers again", lambda: now)
    outage.ended()
    for second in range(130):
        now = float(second)
        outage.failed("Redis is away")
    outage.ended()
    outage.ended()
    outage.failed("Redis is away")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "Redis is away"),
        ("WARNING", "Redis is away (59 more failures since the line before)"),
        ("WARNING", "Redis is away (59 more failures since the line before)"),
        ("INFO", "Redis answers again"),
        ("WARNING", "Redis is away"),
    ]


def test_an_unexpected_error_comes_with_its_traceback(caplog):
    try:
        raise ValueError("odd")
    except ValueError as error:
        Outage(logger).failed("it failed", logging.ERROR, error)
    assert caplog.records[0].levelname == "ERROR" and "ValueError: odd" in caplog.text
