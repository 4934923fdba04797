"""Rows and what events add up to, beside each other: as columns it is what it is one by one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.messages import Placement
from ledger.domain.settlement import Figures, RowKey
from training.etl.reader import Rows
from training.etl.recount import Difference, compare

DAY = dt.date(2024, 4, 1)
Row = tuple[RowKey, Figures]

keys = st.builds(
    RowKey,
    st.sampled_from(("event", "aggregate")),
    st.sampled_from(("hour", "day")),
    st.sampled_from([dt.datetime(2024, 4, 1, hour, tzinfo=dt.UTC) for hour in (0, 23)]),
    st.builds(
        Placement, st.sampled_from("bB"), st.just("p"), st.sampled_from("st"), st.just("d"), st.just("c"),
        st.sampled_from((None, 0.5, 0.0, -0.0)),
    ),
)  # fmt: skip
small = st.integers(-1, 2)
beyond_doubles = st.sampled_from((2**53, 2**53 + 1))
figures = st.builds(Figures, small, small, small, st.none() | small, small | beyond_doubles, small)
rows = st.lists(st.tuples(keys, figures), max_size=12)


def columns(given: Sequence[Row]) -> Rows:
    made: dict[str, Any] = {
        "kind": np.array([key.kind for key, _ in given], object),
        "daily": np.array([key.period == "day" for key, _ in given], np.bool_),
        "hour": np.array([key.hour.hour for key, _ in given], np.int64),
        "knows_cost": np.array([figures.cost_micros is not None for _, figures in given], np.bool_),
    }
    for name in Placement._fields:
        kind: Any = np.float64 if name == "placement_score" else object
        made[name] = np.array([getattr(key.place, name) for key, _ in given], kind)
    for name in Figures._fields:
        made[name] = np.array([getattr(figures, name) or 0 for _, figures in given], np.int64)
    return made


def added(given: Sequence[Row]) -> dict[RowKey, Figures]:
    sums: dict[RowKey, Figures] = {}
    for key, one in given:
        sums[key] = sums[key].plus(one) if key in sums else one
    return sums


@given(rows, rows, st.integers(0, 12))
def test_what_differs_is_what_differs_row_by_row(stored, counted, same):
    right = {key: one for key, one in added(counted).items() if key.kind != "event" or any(one)}
    stored = [*stored, *list(right.items())[:same]]
    there = [key for key, _ in stored]
    expected = {
        Difference(key, one, right.get(key))
        for key, one in added(stored).items()
        if there.count(key) > 1 or one != right.get(key)
    } | {Difference(key, None, one) for key, one in right.items() if key not in there}
    number, found = compare(DAY, columns(stored), columns(counted))
    assert number == len(right)
    assert len(found) == len(expected)
    assert set(found) == expected
