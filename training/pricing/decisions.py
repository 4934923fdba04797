"""Writes the decisions on the auctions of a file, and summarises them for people."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from db.files import atomic_path
from ledger.bidding.brand_state import Limits
from training.arrays import Flags
from training.pricing.auctions import Auctions, Market
from training.pricing.simulation import FEW, Decided


def write_decisions(path: Path, decided: Decided) -> None:
    """Write `won,lambda`, one line per auction; the file appears completely or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_path(path) as draft, draft.open("w", encoding="ascii", newline="") as file:
        file.write("won,lambda\n")
        file.writelines(
            f"{won:d},{lambda_!r}\n"
            for won, lambda_ in zip(decided.won.tolist(), decided.lambda_.tolist(), strict=True)
        )


def summary(auctions: Auctions, market: Market, won: Flags) -> list[str]:
    """Lines for people: each brand if they are at most FEW, each portfolio, and all together."""
    lines = []
    for name, members, shared in market.groups():
        if len(market.names) <= FEW:
            lines += [
                _line(f"brand {market.names[b]}", auctions, won & (auctions.brand == b), market.limits[b])
                for b in members
            ]
        if shared != Limits():
            lines.append(_line(f"portfolio {name}", auctions, won & np.isin(auctions.brand, members), shared))
    if len(market.names) > 1:
        lines.append(_line(f"{len(market.names)} brands", auctions, won, Limits()))
    return lines


def _line(name: str, auctions: Auctions, mine: Flags, limits: Limits) -> str:
    cost = float(auctions.cost[mine].sum())
    predicted, real = float(auctions.predicted_revenue[mine].sum()), float(auctions.revenue[mine].sum())
    parts = [
        f"{name}: won {int(mine.sum()):,}, revenue {predicted:.0f} µ predicted, {real:.0f} µ real, cost {cost:.0f} µ"
    ]
    if cost > 0.0:
        parts.append(f"ROAS {predicted / cost:.4f} predicted, {real / cost:.4f} real")
    if limits.target_roas is not None:
        parts.append(f"target {limits.target_roas:g}")
    if limits.budget_micros is not None:
        parts.append(f"{cost / limits.budget_micros:.2%} of its budget")
    return ", ".join(parts)
