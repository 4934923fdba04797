"""Budget days: a day lasts from midnight to midnight in the owner's time zone, 23 to 25 hours."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple
from zoneinfo import ZoneInfo

ONE_DAY = dt.timedelta(days=1)


def day_of(timezone: str, at: dt.datetime) -> dt.date:
    """The local date at that moment.

    >>> day_of("America/New_York", dt.datetime(2024, 3, 10, 3, tzinfo=dt.UTC))
    datetime.date(2024, 3, 9)
    """
    return at.astimezone(ZoneInfo(timezone)).date()


def midnight(timezone: str, day: dt.date) -> dt.datetime:
    """The first moment of a day, in UTC; where the clocks skip midnight, the moment of the jump.

    >>> midnight("Europe/London", dt.date(2024, 7, 1))
    datetime.datetime(2024, 6, 30, 23, 0, tzinfo=datetime.timezone.utc)
    """
    return dt.datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(timezone)).astimezone(dt.UTC)


class BudgetDay(NamedTuple):
    """A day and its two midnights, in UTC."""

    day: dt.date
    starts_at: dt.datetime
    ends_at: dt.datetime


def budget_day(timezone: str, at: dt.datetime) -> BudgetDay:
    """The local day at that moment.

    >>> day = budget_day("America/New_York", dt.datetime(2024, 3, 10, 12, tzinfo=dt.UTC))
    >>> day.ends_at - day.starts_at
    datetime.timedelta(seconds=82800)
    """
    day = day_of(timezone, at)
    return BudgetDay(day, midnight(timezone, day), midnight(timezone, day + ONE_DAY))


def day_ends_at(timezone: str, at: dt.datetime) -> dt.datetime:
    """The next midnight after `at`, in UTC."""
    return midnight(timezone, day_of(timezone, at) + ONE_DAY)
