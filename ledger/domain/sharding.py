"""Which shard a brand belongs to: portfolios are assigned by hash, and a brand goes with its portfolio. Pure."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

SHARDS_MOST = 64


@lru_cache(maxsize=1 << 17)
def shard_of(portfolio_id: str | None, brand_id: str, shards: int) -> int:
    """The shard of a brand, or of a portfolio itself.

    A brand and its portfolio are debited in one transaction, so one shard has both. A brand without a portfolio is
    assigned by its own id, independently of a portfolio with the same id.

    Args:
        portfolio_id: the brand's portfolio of today, or the portfolio itself.
        brand_id: counts only where there is no portfolio.
        shards: how many there are, ≥ 1.

    Returns:
        A number in [0, shards), the same in every process and every version.

    >>> shard_of("p-1", "b-1", 4) == shard_of("p-1", "b-2", 4) == shard_of("p-1", "", 4)
    True
    """
    if shards == 1:
        return 0
    name = f"brand:{brand_id}" if portfolio_id is None else f"portfolio:{portfolio_id}"
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") % shards
