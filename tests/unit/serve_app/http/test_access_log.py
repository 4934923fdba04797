"""Every request has its line, many in one record."""

from __future__ import annotations

import logging

import pytest

from serve_app.http import access_log
from serve_app.http.access_log import AccessLog

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "paceline.access")


def test_lines_tell_request_status_time_name_and_trace(caplog: pytest.LogCaptureFixture) -> None:
    log = AccessLog()
    log.add("POST", "/api/score", 200, 0.0123, b"r-1", TRACE)
    log.add("GET", "/x\ny", 404, 0.001, b"r-2", b"nonsense")
    assert not caplog.records, "nothing is written on the way of a request"
    log.flush()
    log.flush()
    (record,) = caplog.records
    first, second = record.getMessage().splitlines()
    assert first.endswith("Z POST '/api/score' 200 12.3ms request='r-1' trace=0af7651916cd43dd8448eb211c80319c")
    assert second.endswith("Z GET '/x\\ny' 404 1.0ms request='r-2'"), "nobody can forge a line"


def test_a_burst_is_written_before_its_second_is_over(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "LINES_MOST", 3)
    log = AccessLog()
    for number in range(7):
        log.add("GET", "/", 200, 0.0, b"%d" % number, None)
    assert [len(record.getMessage().splitlines()) for record in caplog.records] == [3, 3]
