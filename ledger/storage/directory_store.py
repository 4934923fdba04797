"""Rows of brands, portfolios and λ fits, and a signature that shows whether another process has changed them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import Connection, exists, func, insert, or_, select, update

from db import tables as t
from db.brands import BrandSettings, PortfolioSettings
from db.rows import chunks
from ledger.domain.brand import Brand, Fit, Portfolio, Scheduled

_UNMOVED = ("budget", "lend", "take_back")
"""Kinds of journal rows that hold, spend and earn no money."""


class Signature(NamedTuple):
    """Differs whenever another process wrote brands, portfolios, λ fits or imports."""

    brands: tuple[Any, ...]
    portfolios: tuple[Any, ...]
    lambda_seq: int
    imports: tuple[Any, ...]


class DirectoryStore:
    """Rows of `brands`, `portfolios` and `lambda_fits`."""

    def signature(self, connection: Connection) -> Signature:
        row = (
            connection.execute(
                select(
                    select(func.count()).select_from(t.brands).scalar_subquery(),
                    select(func.max(t.brands.c.updated_at)).scalar_subquery(),
                    select(func.count()).select_from(t.portfolios).scalar_subquery(),
                    select(func.max(t.portfolios.c.updated_at)).scalar_subquery(),
                    select(func.max(t.lambda_fits.c.seq)).scalar_subquery(),
                    select(func.count()).select_from(t.imports).scalar_subquery(),
                    select(func.max(t.imports.c.imported_at)).scalar_subquery(),
                )
            )
        ).one()
        return Signature(tuple(row[0:2]), tuple(row[2:4]), int(row[4] or 0), tuple(row[5:7]))

    def brands(
        self, connection: Connection, ids: Collection[str] | None = None, lock: bool = False
    ) -> dict[str, Brand]:
        """These brands, or all.

        Args:
            lock: lock the rows: until this transaction ends, no other writes them or moves their money.
        """
        found: dict[str, Brand] = {}
        for chunk in [None] if ids is None else chunks(sorted(ids)):
            query = select(t.brands)
            if chunk is not None:
                query = query.where(t.brands.c.brand_id.in_(chunk)).order_by(t.brands.c.brand_id)
            if lock:
                query = query.with_for_update()
            for row in connection.execute(query):
                found[row.brand_id] = _brand(row)
        return found

    def members(self, connection: Connection, portfolio_id: str) -> dict[str, Brand]:
        """Brands that are in a portfolio, or will be from their next midnight on."""
        b = t.brands.c
        ids = connection.execute(
            select(b.brand_id).where(or_(b.portfolio_id == portfolio_id, b.next_portfolio_id == portfolio_id))
        )
        return self.brands(connection, list(ids.scalars()))

    def put_brand(self, connection: Connection, brand: Brand, is_new: bool, now: dt.datetime) -> None:
        start = brand.scheduled
        values = {
            **brand.settings.model_dump(),
            "next_portfolio_id": start.portfolio_id if start else None,
            "next_timezone": start.timezone if start else None,
            "next_from": start.start if start else None,
            "updated_at": now,
        }
        if is_new:
            connection.execute(insert(t.brands), {**values, "brand_id": brand.brand_id, "created_at": now})
        else:
            connection.execute(update(t.brands).where(t.brands.c.brand_id == brand.brand_id).values(values))

    def portfolios(self, connection: Connection) -> dict[str, Portfolio]:
        fields = tuple(PortfolioSettings.model_fields)
        return {
            row.portfolio_id: Portfolio(
                row.portfolio_id,
                PortfolioSettings.model_construct(**{name: getattr(row, name) for name in fields}),
                row.updated_at,
            )
            for row in connection.execute(select(t.portfolios))
        }

    def put_portfolio(self, connection: Connection, portfolio: Portfolio, is_new: bool, now: dt.datetime) -> None:
        values = {**portfolio.settings.model_dump(), "updated_at": now}
        if is_new:
            connection.execute(
                insert(t.portfolios), {**values, "portfolio_id": portfolio.portfolio_id, "created_at": now}
            )
        else:
            connection.execute(
                update(t.portfolios).where(t.portfolios.c.portfolio_id == portfolio.portfolio_id).values(values)
            )

    def fits(self, connection: Connection) -> dict[str, Fit]:
        """Each brand's newest λ fit that converged."""
        fits = t.lambda_fits.c
        newest = select(func.max(fits.seq)).where(fits.converged).group_by(fits.brand_id)
        query = select(fits.brand_id, *(fits[name] for name in Fit._fields)).where(fits.seq.in_(newest))
        return {row[0]: Fit(*row[1:]) for row in connection.execute(query)}

    def brand_money_moved(self, connection: Connection, brand_id: str) -> bool:
        """Whether any amount in the brand's currency was held, spent or earned, or may be, because a lease is out.

        Imports do not count, nor do leases that were returned unused.
        """
        lines = exists().where(t.ledger_journal.c.brand_id == brand_id, t.ledger_journal.c.kind.not_in(_UNMOVED))
        lent = exists().where(t.leases.c.brand_id == brand_id)
        e = t.events.c
        sums = exists().where(e.brand_id == brand_id, or_(e.cost_micros.is_not(None), e.revenue_micros.is_not(None)))
        return bool((connection.execute(select(or_(lines, lent, sums)))).scalar_one())

    def portfolio_money_moved(self, connection: Connection, portfolio_id: str) -> bool:
        """As `brand_money_moved`, for a portfolio's members while they were in it."""
        j = t.ledger_journal.c
        lines = exists().where(j.portfolio_id == portfolio_id, j.kind.not_in(_UNMOVED))
        lent = exists().where(t.leases.c.portfolio_id == portfolio_id)
        return bool(connection.execute(select(or_(lines, lent))).scalar_one())


def _brand(row: Any) -> Brand:
    settings = BrandSettings.model_construct(**{name: getattr(row, name) for name in BrandSettings.model_fields})
    if row.next_from is None:
        return Brand(row.brand_id, settings, row.updated_at)
    return Brand(
        row.brand_id, settings, row.updated_at, Scheduled(row.next_portfolio_id, row.next_timezone, row.next_from)
    )
