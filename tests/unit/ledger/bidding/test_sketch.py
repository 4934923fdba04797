"""A sketch is its opportunities, as far as λ is concerned: however they came, by whichever replica."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.bidding.sketch import BINS, BUFFERED_MOST, COUNT, EDGES, Sketch, bins_of

MICROS = st.floats(0, 1e12)
SEEN = st.lists(st.tuples(MICROS, MICROS), max_size=60)


def sketch_of(seen) -> Sketch:
    sketch = Sketch()
    for revenue, cost in seen:
        sketch.add(revenue, cost)
    return sketch


@given(SEEN, SEEN)
def test_merged_sketches_are_the_sketch_of_all(mine, theirs):
    merged = sketch_of(mine)
    merged.merge(sketch_of(theirs))
    assert np.allclose(merged.sums, sketch_of(mine + theirs).sums, rtol=1e-12)


@given(SEEN)
def test_one_by_one_and_all_at_once_are_the_same(seen):
    at_once = Sketch()
    at_once.add_many([revenue for revenue, _ in seen], [cost for _, cost in seen])
    assert np.allclose(at_once.sums, sketch_of(seen).sums, rtol=1e-12)


@given(SEEN)
def test_bytes_keep_every_bit(seen):
    sketch = sketch_of(seen)
    assert np.array_equal(Sketch.from_bytes(sketch.to_bytes()).sums, sketch.sums)
    assert np.array_equal(pickle.loads(pickle.dumps(sketch)).sums, sketch.sums)


@given(MICROS, MICROS)
def test_a_bin_holds_the_ratios_between_its_edges(revenue, cost):
    at = int(bins_of(np.array([revenue]), np.array([cost]))[0])
    if cost == 0.0:
        assert at == (BINS - 1 if revenue > 0.0 else 0)
    else:
        ratio = revenue / cost
        assert (at == 0 or ratio >= EDGES[at - 1]) and (at == BINS - 1 or ratio < EDGES[at])


def test_more_than_the_buffer_is_counted():
    assert sketch_of([(2.0, 1.0)] * (2 * BUFFERED_MOST + 1)).totals().tolist() == [2050.0, 1025.0, 1025.0]


def test_what_is_taken_is_gone():
    sketch = sketch_of([(3.0, 2.0)])
    delta = Sketch.from_bytes(sketch.take())
    assert delta.totals().tolist() == [3.0, 2.0, 1.0] and sketch.totals().tolist() == [0.0, 0.0, 0.0]
    sketch.add(1.0, 1.0)
    assert sketch.sums[COUNT].sum() == 1.0 and delta.sums[COUNT].sum() == 1.0


def test_fading_halves_everything():
    sketch = sketch_of([(3.0, 2.0), (0.0, 4.0)])
    sketch.fade(0.5)
    assert sketch.totals().tolist() == [1.5, 3.0, 1.0]


@given(SEEN, st.integers(-300, 300))
def test_a_shift_is_worth_and_loses_nothing_else(seen, bins):
    sketch = sketch_of(seen)
    before = sketch.totals()
    sketch.shift(bins)
    assert np.allclose(sketch.totals(), before * [2.0 ** (bins / 8), 1.0, 1.0], rtol=1e-9)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_money_that_is_none_is_refused(wrong):
    sketch = Sketch()
    with pytest.raises(ValueError, match="finite and not negative"):
        sketch.add_many([1.0, wrong], [1.0, 1.0])
    assert not sketch.sums.any()


def mutilated():
    good = sketch_of([(3.0, 2.0), (1.0, 8.0)]).to_bytes()
    yield b""
    yield good[:-1]
    yield good + b"\0"
    yield b"\x02" + good[1:]
    yield good[:4] + good[5:6] + good[4:5] + good[6:]
    yield good[:-8] + np.array([-1.0]).tobytes()


@pytest.mark.parametrize("packed", list(mutilated()))
def test_other_bytes_are_refused(packed):
    with pytest.raises(ValueError, match="sketch"):
        Sketch.from_bytes(packed)
