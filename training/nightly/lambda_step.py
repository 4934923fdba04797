"""Step 5, lambda: reads the score log, and fits each brand's λ to it by the rules of `training.pricing`."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import math
from typing import Any, NamedTuple

from sqlalchemy import func, select

from db.session import Database
from db.tables import brands, portfolios, score_log
from training.nightly.checkpoints import fingerprint
from training.nightly.night import Night
from training.pricing.opportunities import NightFits, daily, fit_groups, groups_of, limits_of, logged_of

WINDOW_DAYS = 7
MOST_ROWS = 500_000
TURN, CIRCLE = 618_034, 1_000_003
"""Multiplier and modulus by which rows are drawn: by the golden ratio, so that the sample does not follow a rhythm of
the log, such as the number of bids in a request."""


class Prices(NamedTuple):
    """The run's fits of λ, as its checkpoint holds them."""

    rows: list[dict[str, Any]]  # of the table `lambda_fits`
    kappas: dict[str, float]  # κ by brand, of the fits that converged
    summary: dict[str, Any]  # `NightFits.summary`
    warnings: list[str]


async def price(night: Night, version: str) -> Prices:
    """The fits of λ, made once per version, whose manifest names them; each fit that failed is a warning."""
    with night.progress.step("lambda") as done:
        key = fingerprint(version)
        folder = night.checkpoints.find("lambda", key)
        if folder is not None:
            prices = Prices(**json.loads((folder / "prices.json").read_text()))
        else:
            fitted = await fit_lambdas(night.database)
            kappas = {fit.brand_id: fit.kappa for fit in fitted.usable}
            prices = Prices(fitted.rows(), kappas, fitted.summary(), fitted.warnings())
            with night.checkpoints.making("lambda", key) as draft:
                (draft / "prices.json").write_text(json.dumps(prices._asdict()))
        done(f"{len(prices.kappas)} brands fitted from logged opportunities", kept=folder is not None)
    for line in prices.warnings:
        night.progress.warn(line)
    return prices


async def fit_lambdas(database: Database, now: dt.datetime | None = None) -> NightFits:
    """κ of every active brand with enough opportunities in the newest week of the score log, checked against LPs."""
    now = now or dt.datetime.now(dt.UTC)
    async with database.read() as connection:
        newest = (await connection.execute(select(func.max(score_log.c.at)))).scalar_one_or_none()
        if newest is None:
            return NightFits([], [])
        since = newest - dt.timedelta(days=WINDOW_DAYS)
        seqs = select(func.min(score_log.c.seq), func.max(score_log.c.seq)).where(score_log.c.at > since)
        first, last = (await connection.execute(seqs)).one()
        # If there are more than MOST_ROWS, rows are drawn evenly from the whole week.
        drawn = min(CIRCLE, math.ceil(CIRCLE * MOST_ROWS / (last - first + 1)))
        logged = select(
            score_log.c.brand_id,
            score_log.c.at,
            score_log.c.predicted_revenue_micros,
            score_log.c.predicted_cost_micros,
            score_log.c.weight,
        ).where(score_log.c.at > since, score_log.c.status != "rejected", score_log.c.seq * TURN % CIRCLE < drawn)
        rows = (await connection.execute(logged.order_by(score_log.c.seq))).all()
        members = (await connection.execute(select(brands).where(brands.c.active))).all()
        shared = {row.portfolio_id: limits_of(row) for row in await connection.execute(select(portfolios))}
    seen = await asyncio.to_thread(lambda: daily(logged_of(rows, CIRCLE / drawn)))
    return await asyncio.to_thread(fit_groups, groups_of(seen, members, shared, now), shared, newest.toordinal())
