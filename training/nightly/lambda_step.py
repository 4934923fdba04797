"""λ of the night: the score log is read here, and fitted in a thread by the pure rules of `training.pricing`."""

from __future__ import annotations

import asyncio
import datetime as dt
import math

from sqlalchemy import func, select

from db.session import Database
from db.tables import brands, portfolios, score_log
from training.pricing.opportunities import NightFits, daily, fit_groups, groups_of, limits_of, logged_of

WINDOW_DAYS = 7
MOST_ROWS = 500_000
TURN, CIRCLE = 618_034, 1_000_003
"""Steps of the golden ratio: rows drawn by them fall on no rhythm of the log, such as the bids of a request."""


async def fit_lambdas(database: Database, now: dt.datetime | None = None) -> NightFits:
    """κ of every active brand with enough logged opportunities in the log's newest week, checked against LPs."""
    now = now or dt.datetime.now(dt.UTC)
    async with database.read() as connection:
        newest = (await connection.execute(select(func.max(score_log.c.at)))).scalar_one_or_none()
        if newest is None:
            return NightFits([], [])
        since = newest - dt.timedelta(days=WINDOW_DAYS)
        seqs = select(func.min(score_log.c.seq), func.max(score_log.c.seq)).where(score_log.c.at > since)
        first, last = (await connection.execute(seqs)).one()
        # More rows than fit are thinned, evenly over the week: its newest minutes alone are no week.
        kept = min(CIRCLE, math.ceil(CIRCLE * MOST_ROWS / (last - first + 1)))
        logged = select(
            score_log.c.brand_id,
            score_log.c.at,
            score_log.c.predicted_revenue_micros,
            score_log.c.predicted_cost_micros,
            score_log.c.weight,
        ).where(score_log.c.at > since, score_log.c.status != "rejected", score_log.c.seq * TURN % CIRCLE < kept)
        rows = (await connection.execute(logged.order_by(score_log.c.seq))).all()
        members = (await connection.execute(select(brands).where(brands.c.active))).all()
        shared = {row.portfolio_id: limits_of(row) for row in await connection.execute(select(portfolios))}
    seen = await asyncio.to_thread(lambda: daily(logged_of(rows, CIRCLE / kept)))
    return await asyncio.to_thread(fit_groups, groups_of(seen, members, shared, now), shared, newest.toordinal())
