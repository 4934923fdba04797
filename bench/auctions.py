"""`python -m bench auctions`: what the live λ controller earns, as a share of the optimum with hindsight (an LP)."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.pricing.auctions import Auctions, AuctionTerms, Market, read_auctions, read_market
from training.pricing.optimum import evaluate
from training.pricing.simulation import fitted, simulate
from training.pricing.synthetic_market import make_market

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TEST, TRAIN = DATA / "auctions_1458.test.csv.gz", DATA / "auctions_1458.train.csv.gz"
TARGETS, BUDGETS = (6.0, 8.0, 20.0), (1, 4, 32)
SEEDS = (0, 1, 2)


def main(argv: Sequence[str]) -> str | None:
    """Revenue as a share of the optimum, and ROAS as a share of the target."""
    parser = argparse.ArgumentParser(prog="python -m bench auctions", description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="synthetic portfolios (default 3)")
    asked = parser.parse_args(argv)
    parts = []
    if TEST.exists():
        parts += [cells(), changed()]
    else:
        print(f"left out: {TEST} is not there", file=sys.stderr)
    parts += [too_hopeful(), portfolios(range(asked.seeds))]
    return "\n\n".join(parts)


def terms_of(target_roas: float, budget_micros: int | None = None, lambda0: float | None = None) -> AuctionTerms:
    return AuctionTerms(target_roas=target_roas, daily_budget_micros=budget_micros, lambda0=lambda0)


def played(
    auctions: Auctions, terms: AuctionTerms, realised: bool = False, horizon_s: float | None = None
) -> tuple[str, str]:
    """(share of the optimum, ROAS ÷ target) of one pass."""
    market = read_market(None, auctions.names, terms)
    decided = simulate(auctions, market, horizon_s or float(auctions.t_s[-1]), realised)
    return _shown(evaluate(auctions, market, decided.won))


def _shown(found: dict[str, object]) -> tuple[str, str]:
    roas = found["roas_to_target"]
    assert isinstance(roas, tuple)
    return f"{found['of_optimum']:.2%}", f"{roas[0]:.4f}"


def cells() -> str:
    auctions = read_auctions(TEST)
    total, horizon_s = auctions.cost.sum(), float(auctions.t_s[-1])
    lines = [
        "| target × budget | cold | ROAS ÷ target | λ0 from before | λ0 × 3 | λ0 ÷ 3 |",
        "|---|---|---|---|---|---|",
    ]
    for target in TARGETS:
        for part in BUDGETS:
            terms = terms_of(target, int(total / part))
            (lambda0,) = fitted(TRAIN, terms, None, horizon_s).values()
            cold, roas = played(auctions, terms)
            warm = [
                played(auctions, terms.model_copy(update={"lambda0": lambda0 * wrong}))[0]
                for wrong in (1.0, 3.0, 1 / 3)
            ]
            lines.append(f"| {target:g} × 1/{part} | {cold} | {roas} | {' | '.join(warm)} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def changed() -> str:
    """Revenue halves from the middle of the file on."""
    auctions = read_auctions(TEST)
    late = np.arange(len(auctions)) >= len(auctions) // 2
    halved = dataclasses.replace(
        auctions,
        revenue=np.where(late, auctions.revenue / 2, auctions.revenue),
        predicted_revenue=np.where(late, auctions.predicted_revenue / 2, auctions.predicted_revenue),
    )
    found = [f"target {target:g}: {' of the optimum, ROAS '.join(played(halved, terms_of(target)))} × target"
             for target in TARGETS[:2]]  # fmt: skip
    return "- revenue halved from mid-file on: " + "; ".join(found)


def too_hopeful() -> str:
    """Predictions 30 % too high throughout on a smooth market, which only realised revenue shows."""
    found = []
    for seed in SEEDS:
        draw = np.random.default_rng(seed)
        n = 50_000
        cost = np.round(draw.lognormal(7.0, 0.5, n)) + 1.0
        revenue = cost * draw.lognormal(0.3, 0.6, n)
        auctions = Auctions(
            np.sort(draw.uniform(0, 86_400, n)), np.zeros(n, np.intp), ["b"], 1.3 * revenue, cost, revenue, cost
        )
        terms = terms_of(1.8)
        market = read_market(None, ["b"], terms)
        won = simulate(auctions, market, 86_400.0, realised=True).won
        found.append(f"{revenue[won].sum() / cost[won].sum() / 1.8:.4f}")
    return "- predictions 30 % too high, realised revenue fed back: real ROAS " + ", ".join(found) + " × target"


def portfolios(seeds: Sequence[int] | range) -> str:
    """100 brands in 20 portfolios with shared budgets, 10,000 opportunities a brand, lognormal values (σ = 1)."""
    lines = []
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="paceline-bench-") as folder:
            frame, document = make_market(seed)
            frame.to_csv(Path(folder) / "auctions.csv", index=False)
            (Path(folder) / "brands.json").write_text(json.dumps(document))
            auctions = read_auctions(Path(folder) / "auctions.csv")
            market: Market = read_market(Path(folder) / "brands.json", auctions.names)
            decided = simulate(auctions, market, 86_400.0)
            found = evaluate(auctions, market, decided.won)
            share, roas = _shown(found)
            spend = found["spend_to_budget"]
            assert isinstance(spend, tuple)
            lines.append(
                f"- 100 brands, 20 portfolios, seed {seed}: {share} of the joint LP's optimum, least ROAS {roas} × "
                f"target, greatest spend {spend[0]:.4f} × budget"
            )
            print(lines[-1], flush=True)
    return "\n".join(lines)
