"""Generates a synthetic day of auctions, to test and judge the controller with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from training.arrays import Floats, Indices
from training.pricing.auctions import COLUMNS

DAY_S = 86_400.0


def make_market(
    seed: int, brands: int = 100, portfolios: int = 20, rows_a_brand: int = 10_000, sigma: float = 1.0
) -> tuple[pd.DataFrame, dict[str, object]]:
    """Brands in portfolios that share budgets, with lognormal values; the same market for the same seed.

    Args:
        sigma: of the log of an opportunity's revenue ÷ cost.

    Returns:
        The auctions, `t_s` uniform over 86,400 s, and the document of `brands.json`.
    """
    draw = np.random.default_rng(seed)
    n = brands * rows_a_brand
    brand = draw.permutation(np.repeat(np.arange(brands), rows_a_brand))
    quality = draw.uniform(0.8, 2.5, brands)  # a brand's usual revenue ÷ cost
    price = np.exp(draw.normal(6.5, 0.5, brands))
    cost = np.maximum(np.round(price[brand] * np.exp(draw.normal(0.0, 0.5, n))), 1.0)
    revenue = np.round(cost * quality[brand] * np.exp(draw.normal(0.0, sigma, n) - sigma**2 / 2), 3)
    columns = (
        np.round(np.sort(draw.uniform(0.0, DAY_S, n)), 3),
        np.char.add("b", np.char.zfill(brand.astype(str), 4)),
        revenue,
        cost,
        np.round(revenue * np.exp(draw.normal(0.0, 0.3, n) - 0.045)),
        cost,
    )
    frame = pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))
    spent: Floats = np.bincount(brand, cost, brands).astype(np.float64, copy=False)
    earned: Floats = np.bincount(brand, revenue, brands).astype(np.float64, copy=False)
    return frame, _terms(draw, spent, earned, np.arange(brands) % portfolios, portfolios)


def _terms(
    draw: np.random.Generator, spent: Floats, earned: Floats, home: Indices, portfolios: int
) -> dict[str, object]:
    """Random targets around what all auctions together earn, and budgets for a part of their cost.

    Args:
        spent, earned: (brands,) micros of all auctions.
        home: (brands,) the brand's portfolio.
    """

    def brand(b: int) -> dict[str, Any]:
        target_roas = round(float(earned[b] / spent[b] * draw.uniform(0.9, 1.6)), 3)
        budget = int(spent[b] * draw.uniform(0.1, 0.8)) if draw.random() < 0.5 else None
        return {"target_roas": target_roas, "daily_budget_micros": budget, "portfolio_id": f"p{home[b]:03d}"}

    def portfolio(p: int) -> dict[str, Any]:
        cost, revenue = spent[home == p].sum(), earned[home == p].sum()
        target_roas = round(float(revenue / cost * draw.uniform(1.0, 1.8)), 3) if draw.random() < 0.5 else None
        return {"target_roas": target_roas, "daily_budget_micros": int(cost * draw.uniform(0.1, 0.6))}

    return {
        "brands": {f"b{b:04d}": brand(b) for b in range(len(home))},
        "portfolios": {f"p{p:03d}": portfolio(p) for p in range(portfolios)},
    }
