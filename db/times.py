"""Which times are valid, and which are accepted for what has happened. Needs only the standard library."""

from __future__ import annotations

import datetime as dt
import re
from typing import NamedTuple

AHEAD = dt.timedelta(minutes=5)
"""How far clocks of others may be ahead of ours."""

YEARS_BACK = 10
RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:(\d\d)(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
IN_THE_FUTURE, TOO_OLD = "in_the_future", "too_old"


def parse_time(text: str) -> dt.datetime | None:
    """A time of RFC 3339 with its offset, to the microsecond; None if it is none.

    A leap second, which is at 23:59:60 UTC, is the second after.

    >>> parse_time("2016-12-31T18:59:60.5-05:00").isoformat()
    '2016-12-31T19:00:00.500000-05:00'
    >>> parse_time("2016-12-31T12:59:60Z"), parse_time("2016-12-31T12:59:59")
    (None, None)
    """
    match = RFC3339.fullmatch(text)
    if match is None:
        return None
    is_leap = match[1] == "60"
    try:
        at = dt.datetime.fromisoformat((f"{text[:17]}59{text[19:]}" if is_leap else text).upper())
        if not is_leap:
            return at
        utc = at.astimezone(dt.UTC)
        return at + dt.timedelta(seconds=1) if (utc.hour, utc.minute) == (23, 59) else None
    except (ValueError, OverflowError):  # such as the 30th of February
        return None


class Bounds(NamedTuple):
    """The times that are accepted for what has happened, both ends included."""

    earliest: dt.datetime
    latest: dt.datetime

    @classmethod
    def at(cls, now: dt.datetime, history_from: dt.date | None = None) -> Bounds:
        """
        Args:
            history_from: midnight UTC of this day is the earliest; None: that of today ten years ago.
        """
        first = years_before(now.astimezone(dt.UTC).date(), YEARS_BACK) if history_from is None else history_from
        return cls(dt.datetime.combine(first, dt.time(), dt.UTC), now + AHEAD)

    def code(self, at: dt.datetime) -> str | None:
        """Why a time is not accepted; None if it is."""
        return IN_THE_FUTURE if at > self.latest else TOO_OLD if at < self.earliest else None

    def reason(self, code: str) -> str:
        """A code in words, to be read after the field's name."""
        if code == IN_THE_FUTURE:
            return f"is more than {AHEAD.seconds // 60} minutes ahead of now; check its date, its offset and the clock"
        return f"is before {self.earliest:%Y-%m-%d}, where history begins (PACELINE_HISTORY_FROM)"


def years_before(day: dt.date, years: int) -> dt.date:
    """The same day so many years before; of 29 February, the 28th where there is none.

    >>> years_before(dt.date(2024, 2, 29), 10)
    datetime.date(2014, 2, 28)
    """
    try:
        return day.replace(year=day.year - years)
    except ValueError:
        return day.replace(year=day.year - years, day=28)
