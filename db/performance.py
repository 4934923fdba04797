"""The key of a row of `performance_hourly`, as a hash, so that it is unique even where a column is null."""

from __future__ import annotations

import datetime as dt
import hashlib

PRECEDENCE = {"event": 0, "aggregate": 1, "import": 2}
"""Where rows of several kinds are about the same day and placement, the kind with the lowest number counts."""


def key_hash(
    kind: str,
    source: str,
    period: str,
    hour: dt.datetime,
    brand_id: str,
    partner_id: str,
    slot_id: str,
    device_type: str,
    creative_type: str,
    placement_score: float | None,
) -> str:
    """sha256, in hex, of one row's key.

    Args:
        hour: aware; rows of period 'day' stand at their first hour.
        placement_score: None when there is none; −0.0 and 0.0 are the same score.

    >>> at = dt.datetime(2020, 4, 1, tzinfo=dt.UTC)
    >>> key_hash("import", "a.csv", "day", at, "b", "p", "s", "d", "c", 0.0)[:8]
    'ebad1bf5'
    """
    return hash_parts(
        kind,
        source,
        period,
        hour.astimezone(dt.UTC).strftime("%Y-%m-%dT%H"),
        brand_id,
        partner_id,
        slot_id,
        device_type,
        creative_type,
        "" if placement_score is None else repr(float(placement_score) + 0.0),
    )


def hash_parts(*parts: str) -> str:
    """The hash of `key_hash`, from its parts as text: hour as %Y-%m-%dT%H in UTC, score as `repr` or empty."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
