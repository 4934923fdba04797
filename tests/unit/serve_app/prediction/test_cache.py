"""What is remembered of the model is what the model would say, of one version, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.prediction import codec
from serve_app.prediction.cache import HOUR_S, PredictionCache
from serve_app.prediction.columns import PlacementKey, columns_of
from serve_app.prediction.expectation import Expectation
from training.model.model import Columns


def key(name: str) -> PlacementKey:
    return name, "p", "s", "d", "c", None


def value(version: str, name: str, at: int) -> float:
    return float(int(version[1:]) * 1e6 + ord(name) * 1e3 + at // HOUR_S % 24)


class Predictions:
    """Says what depends on version, brand and hour, and counts the rows that it was asked for."""

    def __init__(self, is_here: bool = False) -> None:
        self.version: str | None = "v1"
        self.rows = self.calls = 0
        self.comes_from: str | None = None
        self.is_here = is_here

    async def predict(self, columns: Columns) -> Expectation:
        said = self._said(columns)
        await asyncio.sleep(0)
        assert said is not None
        return said

    @property
    def predict_now(self) -> Callable[[Columns], Expectation | None] | None:
        return self._said if self.is_here else None

    def _said(self, columns: Columns) -> Expectation | None:
        self.calls += 1
        self.rows += len(columns)
        version = self.comes_from or self.version
        if version is None:
            return None
        assert columns.at is not None
        revenue = np.array(
            [value(version, name, at) for name, at in zip(columns.brand_id, columns.at.tolist(), strict=True)]
        )
        return Expectation(revenue, revenue / 2, revenue / 4, revenue * 8, version)

    async def start(self) -> None: ...
    async def close(self) -> None: ...
    async def explain(self, columns: Columns) -> Any: ...
    async def slot(self, columns: Columns) -> Any: ...
    async def live(self) -> Any: ...


def right(found: Expectation, names: str, at: int) -> None:
    expected = [value(found.model_version, name, at) for name in names]
    assert found.revenue_micros.tolist() == expected
    assert found.ctr.tolist() == [one / 2 for one in expected]
    assert found.cvr.tolist() == [one / 4 for one in expected]


steps = st.tuples(st.text("abcdefgh", min_size=1, max_size=6), st.integers(0, 2), st.sampled_from(["v1", "v2"]))


@settings(deadline=None)
@given(st.lists(steps, max_size=25), st.sampled_from([0, 1, 3, 5, 100]))
def test_an_answer_is_always_the_version_s_own_whole_one(asked: list[tuple[str, int, str]], most: int) -> None:
    async def play() -> None:
        predictions = Predictions()
        expectations = PredictionCache(predictions, 4000, 1, most)
        for names, hour, version in asked:
            predictions.version, at = version, hour * HOUR_S + 5
            keys = [key(name) for name in names]
            known = expectations.known(keys, at)
            found = await expectations.of(keys, at)
            again = expectations.known(keys, at)
            for one in filter(None, (known, found, again)):
                assert one.model_version == version
                right(one, names, at)
            assert again is not None or len(set(names)) > most or len(names) > most or most < 6

    asyncio.run(play())


@settings(deadline=None)
@given(st.lists(steps, max_size=25), st.sampled_from([0, 1, 3, 5, 100]))
def test_a_prediction_here_is_the_same_without_waiting(asked: list[tuple[str, int, str]], most: int) -> None:
    predictions = Predictions(is_here=True)
    expectations = PredictionCache(predictions, 4000, 1, most)
    for names, hour, version in asked:
        predictions.version, at = version, hour * HOUR_S + 5
        keys, rows = [key(name) for name in names], predictions.rows
        was_known = expectations.known(keys, at) is not None
        found = expectations.at_once(keys, at)
        if found is None:  # memory is too small for those that were known and those that were not
            assert most < len("abcdefgh") and not was_known
        else:
            assert found.model_version == version
            right(found, names, at)
        assert predictions.rows - rows <= (0 if was_known else len(set(names)))


async def test_what_is_not_predicted_here_has_to_be_asked_for() -> None:
    expectations = PredictionCache(Predictions(), 4000, 1, 100)
    assert expectations.at_once([key("a")], 0) is None
    none_yet = Predictions(is_here=True)
    none_yet.version = None
    assert PredictionCache(none_yet, 4000, 1, 100).at_once([key("a")], 0) is None


async def test_only_what_is_not_known_is_asked_for() -> None:
    predictions = Predictions()
    expectations = PredictionCache(predictions, 4000, 1, 100)
    assert expectations.known([key("a")], 0) is None
    await expectations.of([key("a"), key("b")], 0)
    await expectations.of([key("a"), key("c"), key("c"), key("b")], 0)
    assert predictions.rows == 3
    assert expectations.known([key("c"), key("a")], HOUR_S - 1) is not None
    assert expectations.known([key("c"), key("a")], HOUR_S) is None, "another hour"


async def test_what_is_known_is_neither_asked_for_nor_learnt_again() -> None:
    predictions = Predictions()
    expectations = PredictionCache(predictions, 4000, 1, 3)
    for _ in range(10):
        right(await expectations.of([key("a"), key("b"), key("a")], 0), "aba", 0)
    assert predictions.rows == 2
    await expectations.of([key("c")], 0)
    assert expectations.known([key("a"), key("b"), key("c")], 0) is not None, "there was room"


async def test_requests_that_wait_together_are_one_call() -> None:
    predictions = Predictions()
    expectations = PredictionCache(predictions, 4000, 1, 0)
    await asyncio.gather(*(expectations.of([key(name)], 0) for name in "abcdef"))
    assert predictions.calls == 2, "the first alone, the others while it was under way"


async def test_a_version_that_changes_on_the_way_answers_for_all_bids() -> None:
    predictions = Predictions()
    expectations = PredictionCache(predictions, 4000, 1, 100)
    await expectations.of([key("a")], 0)
    predictions.comes_from = "v2"  # the pool has swapped, this process has not heard of it
    found = await expectations.of([key("a"), key("b")], 0)
    assert found.model_version == "v2"
    right(found, "ab", 0)


async def test_another_time_than_now_is_neither_remembered_nor_taken_from_memory() -> None:
    predictions = Predictions()
    expectations = PredictionCache(predictions, 4000, 1, 100)
    await expectations.of([key("a")], 0)
    right(await expectations.of([key("a")], 5 * HOUR_S, is_now=False), "a", 5 * HOUR_S)
    assert expectations.known([key("a")], 0) is not None


@given(st.lists(st.tuples(st.text(max_size=5), st.none() | st.floats(allow_nan=False)), min_size=1, max_size=9))
def test_what_goes_to_the_pool_arrives(rows: list[tuple[str, float | None]]) -> None:
    columns = columns_of([(name, "p", "s", "d", "c", score) for name, score in rows], 1_790_000_000)
    there = codec.unpack(codec.pack(columns))
    assert [list(ids) for ids in there.ids] == [list(ids) for ids in columns.ids]
    np.testing.assert_array_equal(there.placement_score, columns.placement_score)
    assert columns.at is not None
    np.testing.assert_array_equal(there.at, columns.at)
    numbers = columns.placement_score
    back = codec.unpack_expectation(
        codec.pack_expectation(Expectation(numbers, numbers + 1, numbers / 2, numbers / 3, "v"))
    )
    assert back.model_version == "v"
    np.testing.assert_array_equal(back.cvr, numbers / 2)
    np.testing.assert_array_equal(back.impressions, numbers / 3)
