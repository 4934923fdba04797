"""Estimates the share of pending conversions that each brand will approve, from what it has decided so far."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import func, select

from db.session import Database
from db.tables import events
from training.columns import EVERYBODY

DECIDED = ("approved", "rejected")
NEWEST_EVENTS = 2_000_000
PRIOR_DECISIONS, PRIOR_OF_BRAND = 10.0, 20.0
"""Weights, in decisions: of the setting in the share of all brands together, and of that share in a brand's."""


async def pending_shares(database: Database, prior: float) -> dict[str, float]:
    """Share of pending revenue that will be approved, 0 to 1, by brand; under EVERYBODY for all other brands.

    Args:
        prior: the share to assume before any brand has decided anything.
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
    """`pending_shares` from counts.

    Args:
        decided: (approved, rejected) conversions by brand.
        prior: see `pending_shares`.

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
