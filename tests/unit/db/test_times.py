"""Which times are valid, and which are accepted for what has happened."""

import datetime as dt

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from db.times import AHEAD, Bounds, parse_time, years_before

NOW = dt.datetime(2026, 3, 4, 12, 30, tzinfo=dt.UTC)
ZONES = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
TIMES = st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29), timezones=ZONES)
DAYS = st.dates(dt.date(2000, 1, 1), NOW.date())


def text_of(at: dt.datetime) -> str:
    """Without seconds in the offset, which RFC 3339 does not have."""
    return at.isoformat()


@given(at=TIMES)
def test_what_is_written_is_read(at):
    assert parse_time(text_of(at)) == at
    assert parse_time(text_of(at).lower()) == at


@given(day=st.dates(dt.date(1, 1, 2), dt.date(9999, 12, 29)), zone=ZONES, micros=st.integers(0, 999_999))
def test_a_leap_second_is_the_second_after(day, zone, micros):
    """At 23:59:60 UTC, whatever the offset says the hour is."""
    last = dt.datetime.combine(day, dt.time(23, 59, 59, micros), dt.UTC).astimezone(zone)
    leap = text_of(last)[:17] + "60" + text_of(last)[19:]
    assert parse_time(leap) == last + dt.timedelta(seconds=1)


@pytest.mark.parametrize(
    "text",
    [
        "2016-12-31T23:58:60Z", "2016-12-31T23:59:61Z", "2016-12-31T23:59:60+01:00", "2016-12-31T22:59:60Z",
        "9999-12-31T23:59:60Z", "2016-02-30T00:00:00Z", "0000-01-01T00:00:00Z", "2016-12-31T24:00:00Z",
        "2016-12-31T23:59:59", "2016-12-31", "2016-12-31T23:59:59+24:00", "2016-12-31T23:59:59 Z", "", "now",
        "２016-12-31T23:59:59Z", "2016-12-31T23:59:59Z\n", "2016-12-31T23:59:59.Z", "1483228799",
    ],
)  # fmt: skip
def test_what_is_no_time_is_none(text):
    assert parse_time(text) is None


@given(by=st.timedeltas(-dt.timedelta(days=9000), dt.timedelta(days=9000)), zone=ZONES, first=st.none() | DAYS)
@example(by=AHEAD, zone=dt.UTC, first=None)
@example(by=AHEAD + dt.timedelta(microseconds=1), zone=dt.UTC, first=None)
@example(by=dt.datetime(2016, 3, 4, tzinfo=dt.UTC) - NOW, zone=dt.UTC, first=None)
@example(by=dt.datetime(2016, 3, 4, tzinfo=dt.UTC) - NOW - dt.timedelta(microseconds=1), zone=dt.UTC, first=None)
def test_the_offset_decides_nothing(by, zone, first):
    bounds = Bounds.at(NOW.astimezone(zone), first)
    begins = dt.datetime.combine(first or dt.date(2016, 3, 4), dt.time(), dt.UTC)
    expected = "in_the_future" if by > AHEAD else "too_old" if NOW + by < begins else None
    assert bounds.code((NOW + by).astimezone(zone)) == expected
    assert expected is None or bounds.reason(expected)


@pytest.mark.parametrize("zone", [dt.timezone(dt.timedelta(hours=hours)) for hours in (-14, 0, 14)])
def test_the_ends_of_the_calendar_are_refused_too(zone):
    bounds = Bounds.at(NOW)
    assert bounds.code(dt.datetime.max.replace(tzinfo=zone)) == "in_the_future"
    assert bounds.code(dt.datetime.min.replace(tzinfo=zone)) == "too_old"


def test_ten_years_before_a_leap_day():
    assert years_before(dt.date(2024, 2, 29), 10) == dt.date(2014, 2, 28)
    assert years_before(dt.date(2024, 2, 29), 4) == dt.date(2020, 2, 29)
