"""Budget days begin at midnight on the wall."""

import datetime as dt

import pytest

from ledger.domain.budget_day import day_ends_at, day_of, midnight


def utc(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> dt.datetime:
    return dt.datetime(year, month, day, hour, minute, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("timezone", "day", "begins", "hours"),
    [
        ("UTC", dt.date(2024, 3, 31), utc(2024, 3, 31), 24),
        ("Europe/London", dt.date(2024, 3, 31), utc(2024, 3, 31), 23),
        ("Europe/London", dt.date(2024, 10, 27), utc(2024, 10, 26, 23), 25),
        ("America/New_York", dt.date(2024, 3, 10), utc(2024, 3, 10, 5), 23),
        ("Asia/Kolkata", dt.date(2024, 5, 1), utc(2024, 4, 30, 18, 30), 24),
        # The clocks jump from 00:00 to 01:00: the day begins at one o'clock.
        ("Africa/Cairo", dt.date(2024, 4, 26), utc(2024, 4, 25, 22), 23),
        # At midnight they go back to 23:00, which belongs to the day before.
        ("Africa/Cairo", dt.date(2024, 10, 31), utc(2024, 10, 30, 21), 25),
    ],
)
def test_a_day_is_as_long_as_the_clocks_make_it(timezone, day, begins, hours):
    assert midnight(timezone, day) == begins
    ends = day_ends_at(timezone, begins)
    assert ends - begins == dt.timedelta(hours=hours)
    assert day_of(timezone, begins) == day
    assert day_of(timezone, ends - dt.timedelta(microseconds=1)) == day
    assert day_of(timezone, ends) == day + dt.timedelta(days=1)
