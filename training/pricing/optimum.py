"""Compares decisions with the optimum that is possible with full knowledge, jointly for brands and their portfolios
(`evaluate.py` is the command).

The optimum is that of an LP which may win an opportunity in part: maximise Σ predicted revenue so that every brand and
portfolio keeps its ROAS target and its budget. An opportunity belongs to one brand, so bids do not compete. A brand's
own limits cut its opportunities, sorted best first, at one place; a portfolio's limits cut what is left of its
members', again at one place. The solver HiGHS gives the same result (`--solver highs`; it needs scipy and is slow
beyond some 100,000 opportunities a portfolio).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from db.errors import file_error
from ledger.bidding.brand_state import Limits
from training.arrays import Flags, Floats, Indices
from training.pricing.auctions import Auctions, BadInput, Market


class BrandOffers(NamedTuple):
    """A brand's opportunities, n of each, and its limits."""

    revenue: Floats
    cost: Floats
    limits: Limits


def optimum(brands: Sequence[BrandOffers], shared: Limits) -> float:
    """The most revenue, in micros, that brands can win within their own and their shared limits.

    >>> seen = BrandOffers(np.array([3.0, 1.0]), np.ones(2), Limits(2.5))
    >>> round(optimum([seen], Limits()), 6)
    3.333333
    """
    parts = [_cut(one.revenue, one.cost, one.limits) for one in brands]
    revenue = np.concatenate([part * one.revenue for part, one in zip(parts, brands, strict=True)])
    cost = np.concatenate([part * one.cost for part, one in zip(parts, brands, strict=True)])
    return float((revenue * _cut(revenue, cost, shared)).sum())


def _cut(revenue: Floats, cost: Floats, limits: Limits) -> Floats:
    """(n,) share of each opportunity that is won: by revenue ÷ cost, 1 before some place and 0 after it."""
    ratio = np.divide(revenue, cost, out=np.full(len(cost), np.inf), where=cost > 0.0)
    order = np.argsort(-ratio, kind="stable")
    room = np.full(len(order), np.inf)
    if limits.target_roas is not None:
        step = (limits.target_roas * cost - revenue)[order]
        room = np.minimum(room, _part(step, 0.0))
    if limits.budget_micros is not None:
        room = np.minimum(room, _part(cost[order], limits.budget_micros))
    part = np.empty(len(order))
    part[order] = np.minimum.accumulate(np.clip(room, 0.0, 1.0))
    return part


def _part(used: Floats, room: float) -> Floats:
    """(n,) share of each that fits into `room`, taken in order; those that use nothing always fit."""
    before = room - (np.cumsum(used) - used)
    return np.where(used <= 0.0, np.inf, before / np.where(used <= 0.0, 1.0, used))


def optimum_by_highs(brands: Sequence[BrandOffers], shared: Limits) -> float:
    """`optimum` by a general LP solver."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix, vstack

    sizes = [len(one.revenue) for one in brands]
    revenue = np.concatenate([one.revenue for one in brands])
    cost = np.concatenate([one.cost for one in brands])
    scale = max(float(cost.mean()), 1e-12)
    rows, rights = [], []
    ends = np.cumsum(sizes)
    for begin, end, limits in [
        *((end - size, end, one.limits) for one, size, end in zip(brands, sizes, ends, strict=True)),
        (0, len(cost), shared),
    ]:
        mine = np.zeros(len(cost))
        mine[begin:end] = 1.0
        if limits.target_roas is not None:
            rows.append(csr_matrix(mine * (limits.target_roas * cost - revenue) / scale))
            rights.append(0.0)
        if limits.budget_micros is not None:
            rows.append(csr_matrix(mine * cost / scale))
            rights.append(limits.budget_micros / scale)
    found = linprog(
        -revenue / scale,
        A_ub=vstack(rows) if rows else None,
        b_ub=rights if rows else None,
        bounds=(0, 1),
        method="highs",
    )
    return float(-found.fun * scale)


def evaluate(auctions: Auctions, market: Market, won: Flags, solver: str = "cuts") -> dict[str, object]:
    """Revenue won ÷ optimum on predicted revenue and actual cost, and how well every limit was kept.

    Returns:
        `of_optimum`, the worst `roas_to_target` and `spend_to_budget` of any brand or portfolio, and each portfolio's.
    """
    solve = optimum_by_highs if solver == "highs" else optimum
    revenue, cost = auctions.predicted_revenue, auctions.cost
    rows_of = np.split(np.argsort(auctions.brand, kind="stable"), np.cumsum(np.bincount(auctions.brand))[:-1])
    limited: list[tuple[str, Limits, Indices]] = []  # what each brand and portfolio won
    groups, best_of_all = [], 0.0
    for name, members, shared in market.groups():
        items = [BrandOffers(revenue[rows], cost[rows], market.limits[b]) for b in members for rows in [rows_of[b]]]
        best = solve(items, shared)
        mine = np.concatenate([rows_of[b] for b in members])
        mine = mine[won[mine]]
        limited.append((name, shared, mine))
        limited += [(market.names[b], market.limits[b], rows_of[b][won[rows_of[b]]]) for b in members]
        got = float(revenue[mine].sum())
        best_of_all += best
        groups.append({"group": name, "of_optimum": round(got / best, 5) if best > 0.0 else None})
    roas = [
        (float(revenue[mine].sum() / cost[mine].sum() / limits.target_roas), name)
        for name, limits, mine in limited
        if limits.target_roas is not None and cost[mine].sum() > 0.0
    ]
    spend = [
        (float(cost[mine].sum() / limits.budget_micros), name)
        for name, limits, mine in limited
        if limits.budget_micros is not None
    ]
    return {
        "of_optimum": float(revenue[won].sum()) / best_of_all if best_of_all > 0.0 else None,
        "optimum_micros": best_of_all,
        "roas_to_target": min(roas, default=None),
        "spend_to_budget": max(spend, default=None),
        "groups": groups,
    }


def write_market(folder: Path, auctions: pd.DataFrame, document: dict[str, object]) -> None:
    """Write auctions.csv.gz and brands.json.

    Raises:
        OSError: they cannot be written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    auctions.to_csv(folder / "auctions.csv.gz", index=False, compression={"method": "gzip", "mtime": 0})
    (folder / "brands.json").write_text(json.dumps(document, indent=1) + "\n")


def read_won(path: Path, rows: int) -> Flags:
    """(rows,) which auctions were won, from a file of decisions.

    Raises:
        BadInput: it is not such a file, or belongs to other auctions.
    """
    try:
        won = pd.read_csv(path)["won"].to_numpy()
    except OSError as error:
        raise BadInput(f"cannot read {file_error(error)}") from None
    except (ValueError, KeyError):
        raise BadInput(f"{path} has no column won: a file that `paceline simulate --out` wrote is expected") from None
    if len(won) != rows or not np.isin(won, (0, 1)).all():
        raise BadInput(
            f"{path} must have a row with won 0 or 1 for each of {rows:,} auctions; is it for other auctions?"
        )
    return won.astype(bool)
