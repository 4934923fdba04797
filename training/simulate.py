"""Auctions decided one after the other by the live controller and ledger code, under a simulated clock.

    python -m training.simulate --auctions FILE --target-roas T [--budget-micros B] [--lambda0 X] --out DECISIONS.csv
    python -m training.simulate --fit-lambda FILE --target-roas T [--budget-micros B] [--horizon-s S]

Columns of the auctions: `t_s,brand_id,predicted_revenue_micros,predicted_cost_micros,revenue_micros,cost_micros`, in
order of `t_s`, seconds since the budget day began. `DECISIONS.csv` has a row for each: `won` (1 | 0) and the `lambda`
that decided. An auction is won iff predicted revenue ≥ λ · predicted cost and the budgets can hold the predicted cost;
then its `cost_micros` is paid. Its `revenue_micros` is not looked at before, and never unless `--feedback realised`.

Several brands: without `--brands` each stands alone with the same target and the same budget. With it,

    {"brands": {"b1": {"target_roas": 2.0, "daily_budget_micros": 5000000, "portfolio_id": "p1", "lambda0": 0.9}},
     "portfolios": {"p1": {"target_roas": 1.5, "daily_budget_micros": 8000000}}}

where all but a brand's `target_roas` may be null or left out; `--target-roas`, `--budget-micros` and `--lambda0` then
are for the brands that the document does not name.

The summary goes to stderr; stdout has the λ0 of `--fit-lambda`, and nothing else: the number for one brand, an object
by brand_id for several.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ledger.bidding.brand_state import Limits
from ledger.domain.budget import MONEY_MOST
from ledger.domain.errors import LedgerError
from training.arrays import Flags
from training.pricing.auctions import Auctions, AuctionTerms, BadInput, Market, read_auctions, read_market
from training.pricing.simulation import FEW, Decided, fitted, simulate


def write_decisions(path: Path, decided: Decided) -> None:
    """All of it or nothing: it appears by one rename.

    Raises:
        OSError: it cannot be written there.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("w", encoding="ascii", newline="") as file:
            file.write("won,lambda\n")
            file.writelines(
                f"{won:d},{lambda_!r}\n"
                for won, lambda_ in zip(decided.won.tolist(), decided.lambda_.tolist(), strict=True)
            )
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def summary(auctions: Auctions, market: Market, won: Flags) -> list[str]:
    """Lines for people: each brand while they are few, portfolios, and all."""
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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.simulate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--auctions", type=Path, metavar="FILE", help="csv or csv.gz, in order of t_s")
    parser.add_argument("--out", type=Path, metavar="DECISIONS.csv", help="what to write")
    parser.add_argument("--target-roas", type=float, metavar="T")
    parser.add_argument("--budget-micros", type=float, metavar="B", help="of each brand, over the horizon")
    parser.add_argument("--lambda0", type=float, metavar="X", help="last night's λ (default: cold, λ = target)")
    parser.add_argument("--feedback", choices=("predicted", "realised"), default="predicted")
    parser.add_argument("--horizon-s", type=float, metavar="S", help="length of the budget day (default: the last t_s)")
    parser.add_argument("--brands", type=Path, metavar="brands.json", help="terms of several brands and portfolios")
    parser.add_argument("--fit-lambda", type=Path, metavar="FILE", help="print λ0 from an earlier file; start from it")
    chosen = parser.parse_args(arguments)
    try:
        return _command(chosen)
    except (BadInput, LedgerError) as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"cannot write {chosen.out}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130


def _command(chosen: argparse.Namespace) -> int:
    started = time.monotonic()
    terms = _terms(chosen)
    _check_files(chosen)
    auctions = None if chosen.auctions is None else read_auctions(chosen.auctions)
    horizon_s = chosen.horizon_s
    if horizon_s is None and auctions is not None:
        horizon_s = float(auctions.t_s[-1]) or 1.0
    found: dict[str, float] = {}
    if chosen.fit_lambda is not None:
        found = fitted(chosen.fit_lambda, terms, chosen.brands, horizon_s)
        if not found:
            raise BadInput(f"{chosen.fit_lambda}: too few opportunities to fit λ")
        print(next(iter(found.values())) if len(found) == 1 else json.dumps(found), flush=True)
    if auctions is None:
        return 0
    market = read_market(chosen.brands, auctions.names, terms)
    lambda0 = [found.get(name, given) for name, given in zip(market.names, market.lambda0, strict=True)]
    market = replace(market, lambda0=lambda0)
    decided = simulate(auctions, market, horizon_s, chosen.feedback == "realised", _to_stderr)
    write_decisions(chosen.out, decided)
    for line in summary(auctions, market, decided.won):
        _to_stderr(line)
    _to_stderr(f"{len(auctions):,} auctions in {time.monotonic() - started:.1f} s → {chosen.out}")
    return 0


def _check_files(chosen: argparse.Namespace) -> None:
    """
    Raises:
        BadInput: files that do not go together, or an --out that cannot be written or would be read.
    """
    if (chosen.auctions is None) != (chosen.out is None):
        raise BadInput("--auctions and --out go together")
    if chosen.auctions is None and chosen.fit_lambda is None:
        raise BadInput("--auctions and --out are needed, or --fit-lambda")
    if chosen.fit_lambda is not None and chosen.lambda0 is not None:
        raise BadInput("--lambda0 and --fit-lambda: one of them")
    if chosen.out is not None and chosen.out.is_dir():
        raise BadInput(f"--out {chosen.out} is a folder")
    if chosen.out is not None and not chosen.out.absolute().parent.is_dir():
        raise BadInput(f"--out {chosen.out}: there is no folder {chosen.out.parent}")
    if chosen.out is not None and chosen.out.exists() and not chosen.out.is_file():
        raise BadInput(f"--out {chosen.out} is not a file")
    given = [path for path in (chosen.auctions, chosen.fit_lambda, chosen.brands) if path is not None and path.exists()]
    if chosen.out is not None and chosen.out.exists() and any(chosen.out.samefile(path) for path in given):
        raise BadInput(f"--out {chosen.out} would overwrite what is read")


def _terms(chosen: argparse.Namespace) -> AuctionTerms | None:
    """What the options say of every brand that no document names; None when they say nothing."""
    for name, least_allowed in (
        ("target_roas", False),
        ("budget_micros", False),
        ("lambda0", True),
        ("horizon_s", False),
    ):
        value = getattr(chosen, name)
        if value is not None and not (math.isfinite(value) and (value > 0.0 or (least_allowed and value == 0.0))):
            bound = "0 or more" if least_allowed else "above 0"
            raise BadInput(f"--{name.replace('_', '-')} {value} is not a finite number {bound}")
    if chosen.target_roas is None:
        if chosen.brands is None:
            raise BadInput("--target-roas is needed, or --brands")
        return None
    budget = None
    if chosen.budget_micros is not None:
        budget = math.floor(chosen.budget_micros)
        if not 0 < budget <= MONEY_MOST:
            raise BadInput(f"--budget-micros {chosen.budget_micros:g} is not between 1 and {MONEY_MOST}")
    return AuctionTerms(target_roas=chosen.target_roas, daily_budget_micros=budget, lambda0=chosen.lambda0)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
