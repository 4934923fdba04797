"""Tells which model and which λ are live now, or were at a time, from the database.

The newest row of `model_activations` is live. A brand's λ is recorded twice: the κ of each night's fit, and the λ that
its bids were scored with, which is solved again all day and recorded when it has changed.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, NamedTuple

from sqlalchemy import delete, desc, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from db.session import Database
from db.tables import lambda_fits, lambda_history, model_activations

REMEMBERED = dt.timedelta(days=90)
"""How long the λ of each day is kept."""
RECORDED_WITHIN = dt.timedelta(days=2)
"""λ is recorded at least once a day while a ledger runs: an older record was not in force."""


class Activation(NamedTuple):
    """The moment at which a version was made live."""

    version: str
    activated_at: dt.datetime
    reason: str


class LivePrice(NamedTuple):
    """A brand's λ at a time."""

    brand_id: str
    night_kappa: float | None  # of the nightly fit in force; None: there was none, so λ began at the brand's target
    fitted_at: dt.datetime | None
    lambda_: float | None  # that its bids were scored with; None: none was recorded in the two days before
    kappa: float | None  # as solved during the day; None: the nightly fit's was in force
    since: dt.datetime | None  # when it was recorded


class AsOf(NamedTuple):
    """What was live at a time."""

    at: dt.datetime
    model: Activation | None
    prices: list[LivePrice]

    def as_json(self) -> dict[str, Any]:
        """As `GET /api/models?at=…` shows it under `as_of`."""
        model = self.model
        return {
            "at": self.at,
            "model_version": model and model.version,
            "activated_at": model and model.activated_at,
            "reason": model and model.reason,
            "lambdas": [
                {("lambda" if name == "lambda_" else name): value for name, value in price._asdict().items()}
                for price in self.prices
            ],
        }


async def current(database: Database) -> str | None:
    """The live version; None before the first. Raises: SQLAlchemyError, OSError."""
    newest = select(model_activations.c.version).order_by(desc(model_activations.c.seq)).limit(1)
    async with database.read() as connection:
        version: str | None = (await connection.execute(newest)).scalar_one_or_none()
    return version


async def live_at(database: Database, at: dt.datetime) -> str | None:
    """The version that was live at that time; None before the first."""
    found = await _activation(database, at)
    return None if found is None else found.version


async def activated(database: Database) -> list[str]:
    """Every version that was ever live, the most recent first."""
    last = func.max(model_activations.c.seq)
    asked = select(model_activations.c.version).group_by(model_activations.c.version).order_by(desc(last))
    async with database.read() as connection:
        return list((await connection.execute(asked)).scalars())


async def as_of(database: Database, at: dt.datetime, brand_id: str | None = None) -> AsOf:
    """What was live at that time.

    Args:
        brand_id: the brand whose λ is wanted; None: every brand's.
    """
    fit, record = lambda_fits.c, lambda_history.c
    fits = select(func.max(fit.seq)).where(fit.converged, fit.fitted_at <= at).group_by(fit.brand_id)
    records = select(func.max(record.seq)).where(record.at <= at, record.at > at - RECORDED_WITHIN)
    records = records.group_by(record.brand_id)
    if brand_id is not None:
        fits, records = fits.where(fit.brand_id == brand_id), records.where(record.brand_id == brand_id)
    asked = select(fit.brand_id, fit.kappa, fit.fitted_at).where(fit.seq.in_(fits))
    recorded = select(record.brand_id, record["lambda"], record.kappa, record.at).where(record.seq.in_(records))
    async with database.read() as connection:
        by_night = {row[0]: (row[1], row[2]) for row in await connection.execute(asked)}
        by_day = {row[0]: (row[1], row[2], row[3]) for row in await connection.execute(recorded)}
    prices = []
    for name in sorted(by_night.keys() | by_day.keys()):
        night_kappa, fitted_at = by_night.get(name, (None, None))
        prices.append(LivePrice(name, night_kappa, fitted_at, *by_day.get(name, (None, None, None))))
    return AsOf(at, await _activation(database, at), prices)


async def forget(database: Database, before: dt.datetime) -> None:
    """Delete the record of λ from before that time; activations and nightly fits are kept for ever."""
    old = delete(lambda_history).where(lambda_history.c.at < before)

    async def write(connection: AsyncConnection) -> None:
        await connection.execute(old)

    await database.transact(write)


async def _activation(database: Database, at: dt.datetime) -> Activation | None:
    row = model_activations.c
    newest = (
        select(row.version, row.activated_at, row.reason).where(row.activated_at <= at).order_by(desc(row.seq)).limit(1)
    )
    async with database.read() as connection:
        found = (await connection.execute(newest)).first()
    return None if found is None else Activation(*found)
