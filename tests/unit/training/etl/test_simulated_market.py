import datetime as dt
import time

import pandas as pd

from training.etl.row_parser import CANONICAL
from training.etl.simulated_market import BRANDS, DAYS, performance

LAST = dt.date(2020, 11, 21)


def test_the_market_is_the_same_for_the_same_seed():
    pd.testing.assert_frame_equal(performance(LAST), performance(LAST))
    assert not performance(LAST).equals(performance(LAST, seed=1))


def test_the_market_is_quick_and_of_a_size_to_learn_from():
    started = time.perf_counter()
    frame = performance(LAST)
    assert time.perf_counter() - started < 5
    assert 20_000 <= len(frame) <= 40_000
    assert frame["ts"].dt.date.nunique() == DAYS
    assert frame["ts"].dt.date.max() == LAST
    assert set(frame["brand_id"]) == {brand.name for brand in BRANDS}


def test_the_market_speaks_the_canonical_format():
    frame = performance(LAST)
    assert [*CANONICAL, "pending_revenue"] == list(frame)
    assert not frame.duplicated(list(CANONICAL[:7])).any()
    assert (frame["clicks"] <= frame["impressions"]).all()
    assert (frame[["impressions", "clicks", "conversions", "cost", "revenue", "pending_revenue"]] >= 0).all().all()


def test_the_newest_conversions_are_still_pending():
    by_day = performance(LAST).groupby("ts")[["revenue", "pending_revenue"]].sum()
    share = by_day["pending_revenue"] / by_day.sum(axis=1)
    assert share.iloc[-1] > 0.8
    assert share.iloc[:10].mean() < 0.1
