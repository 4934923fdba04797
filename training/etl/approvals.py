"""What becomes of pending conversions: the share that a brand approves, learned from what it has decided so far."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import func, select

from db.session import Database
from db.tables import events
from training.columns import EVERYBODY

DECIDED = ("approved", "rejected")
NEWEST_EVENTS = 2_000_000
PRIOR_DECISIONS, PRIOR_OF_BRAND = 10.0, 20.0
"""Decisions that the setting counts as, and that everybody's share counts as for a brand."""


async def pending_shares(database: Database, prior: float) -> dict[str, float]:
    """Share of pending revenue that will be approved, by brand, and for EVERYBODY else.

    Args:
        prior: before anybody has decided anything.
    """
    async with database.read() as connection:
        newest = (await connection.execute(select(func.max(events.c.seq)))).scalar_one() or 0
        decided = (
            select(events.c.brand_id, events.c.status, func.count())
            .where(events.c.seq > newest - NEWEST_EVENTS, events.c.status.in_(DECIDED))
            .group_by(events.c.brand_id, events.c.status)
        )
        rows = (await connection.execute(decided)).all()
    counts: dict[str, list[int]] = {}
    for brand_id, status, number in rows:
        counts.setdefault(brand_id, [0, 0])[DECIDED.index(status)] += int(number)
    return shares({brand_id: (approved, rejected) for brand_id, (approved, rejected) in counts.items()}, prior)


def shares(decided: Mapping[str, tuple[int, int]], prior: float) -> dict[str, float]:
    """
    Args:
        decided: (approved, rejected) conversions by brand.

    >>> {brand: round(share, 2) for brand, share in shares({"strict": (100, 900), "new": (1, 0)}, 0.8).items()}
    {'': 0.11, 'strict': 0.1, 'new': 0.15}
    """
    approved, total = (sum(values) for values in zip((0, 0), *((a, a + r) for a, r in decided.values()), strict=True))
    usual = (approved + PRIOR_DECISIONS * prior) / (total + PRIOR_DECISIONS)
    of_brands = {
        brand_id: (approved + PRIOR_OF_BRAND * usual) / (approved + rejected + PRIOR_OF_BRAND)
        for brand_id, (approved, rejected) in decided.items()
    }
    return {EVERYBODY: usual} | of_brands
