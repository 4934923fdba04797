"""Portfolios are shared out by hash, the same way in every process and every version."""

from collections import Counter

import pytest

from ledger.domain.sharding import shard_of


@pytest.mark.parametrize(
    ("portfolio_id", "brand_id", "of_2", "of_3", "of_64"),
    [
        ("fund-1", "b-1", 1, 2, 43),
        ("fund-2", "b-1", 0, 1, 36),
        (None, "b-1", 1, 0, 5),
        (None, "b-2", 1, 2, 29),
        (None, "fund-1", 0, 1, 4),
        ("Ünïcode", "b", 0, 1, 52),
    ],
)
def test_a_shard_never_changes_for_the_same_ids(portfolio_id, brand_id, of_2, of_3, of_64):
    """Another answer in a new version would let two ledgers write the same brand during a deployment."""
    assert [shard_of(portfolio_id, brand_id, shards) for shards in (2, 3, 64)] == [of_2, of_3, of_64]


def test_members_go_with_their_portfolio_and_the_others_by_themselves():
    assert len({shard_of("fund", f"b-{n}", 64) for n in range(100)}) == 1
    assert len({shard_of(None, f"b-{n}", 64) for n in range(1000)}) == 64


def test_one_shard_has_everything():
    assert {shard_of(portfolio_id, "b", 1) for portfolio_id in (None, "x", "y")} == {0}


@pytest.mark.parametrize("shards", [2, 3, 8])
def test_shards_have_about_the_same_number(shards):
    sizes = Counter(shard_of(f"fund-{n}", "", shards) for n in range(10_000))
    assert len(sizes) == shards
    assert max(sizes.values()) < 1.1 * 10_000 / shards
