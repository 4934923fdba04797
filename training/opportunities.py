"""λ of the night: the score log's opportunities, the brands' limits, and `lagrange.fit` between them."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from typing import Any

import numpy as np
from sqlalchemy import func, select

from db import Database
from db.tables import brands, portfolios, score_log
from training.lagrange import BrandFit, Constraint, Opportunities, fit

WINDOW_DAYS = 7
LEAST_SPAN_DAYS = 1 / 24
MOST_ROWS = 500_000


async def fit_lambdas(database: Database) -> list[BrandFit]:
    """κ of every active brand with enough logged opportunities in the log's newest week."""
    async with database.read() as connection:
        newest = (await connection.execute(select(func.max(score_log.c.at)))).scalar_one_or_none()
        if newest is None:
            return []
        logged = (
            select(
                score_log.c.at,
                score_log.c.brand_id,
                score_log.c.predicted_revenue_micros,
                score_log.c.predicted_cost_micros,
                score_log.c.weight,
            )
            .where(score_log.c.at > newest - dt.timedelta(days=WINDOW_DAYS), score_log.c.status != "rejected")
            .order_by(score_log.c.seq.desc())
            .limit(MOST_ROWS)
        )
        rows = list(await connection.execute(logged))
        members = list(await connection.execute(select(brands).where(brands.c.active)))
        shared = {row.portfolio_id: row for row in await connection.execute(select(portfolios))}
    if not rows:
        return []
    span_days = max((rows[0].at - min(row.at for row in rows)).total_seconds() / 86_400, LEAST_SPAN_DAYS)
    seen = _by_brand(rows)
    groups: dict[str | None, dict[str, tuple[Opportunities, Constraint]]] = defaultdict(dict)
    for brand in members:
        if brand.brand_id in seen:
            groups[brand.portfolio_id][brand.brand_id] = (seen[brand.brand_id], _limits(brand, span_days))
    fits: list[BrandFit] = []
    for portfolio_id in sorted(groups, key=lambda name: name or ""):
        portfolio = shared.get(portfolio_id)
        fits += fit(groups[portfolio_id], None if portfolio is None else _limits(portfolio, span_days))
    return fits


def _by_brand(rows: list[Any]) -> dict[str, Opportunities]:
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for row in reversed(rows):  # oldest first
        found[row.brand_id].append((row.predicted_revenue_micros, row.predicted_cost_micros, row.weight))
    return {name: Opportunities(*np.array(values, np.float64).T) for name, values in found.items()}


def _limits(row: Any, span_days: float) -> Constraint:
    """A daily budget, scaled to the time that the opportunities cover."""
    budget = row.daily_budget_micros
    return Constraint(row.target_roas, None if budget is None else budget * span_days)
