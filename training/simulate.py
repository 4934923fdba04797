"""`python -m training.simulate`, `paceline simulate`: the live controller and ledger code on a file of auctions."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from db.command_line import Command, Json, commands, progress, run, writing
from db.errors import UserError

if TYPE_CHECKING:
    from training.pricing.auctions import Auctions, AuctionTerms, Market
    from training.pricing.simulation import Decided
    from training.progress import Say

HELP = """Replay recorded auctions to see which bids a budget and a target would win.

The target is a ROAS: revenue divided by cost.

The code that runs live decides the auctions one after the other under a simulated
clock. An auction is won if its predicted revenue is at least λ times its predicted cost and the budgets can hold that
cost; then its cost_micros is paid. Below the target it also needs slack: what was won before has earned that much more
than the target. Needs no running system.

Columns of FILE, in order of t_s (seconds since the budget day began; money in micros, millionths of the currency unit):
t_s, brand_id, predicted_revenue_micros, predicted_cost_micros, revenue_micros, cost_micros. --out has a row for each:
won (1 or 0) and the lambda that decided.

Each brand stands alone with the same target and budget, unless --brands says more; what it leaves out may be null:

  {"brands": {"b1": {"target_roas": 2, "daily_budget_micros": 5000000,
                     "portfolio_id": "p1", "lambda0": 0.9}},
   "portfolios": {"p1": {"target_roas": 1.5, "daily_budget_micros": 8000000}}}

The summary goes to stderr. stdout has the λ0 of --fit-lambda and nothing else: a number for one brand, an object by
brand_id for several.

Examples:
  paceline simulate --auctions today.csv --target-roas 6 --budget-micros 40000000 --out decisions.csv
  paceline simulate --auctions today.csv.gz --brands brands.json --out decisions.csv
  paceline simulate --fit-lambda yesterday.csv --target-roas 6 --budget-micros 40000000

Exit codes:
  0    written, or λ0 printed
  2    a wrong option, or a file that cannot be used; nothing was written
  130  stopped by Ctrl-C; nothing was written
"""

app = commands()


class _Simulate(Command):
    failure_code = 2


@dataclass(frozen=True, slots=True)
class Chosen:
    """The options."""

    auctions: Path | None
    out: Path | None
    target_roas: float | None
    budget_micros: float | None
    lambda0: float | None
    feedback: str
    horizon_s: float | None
    brands: Path | None
    fit_lambda: Path | None
    as_json: bool


@app.command("simulate", cls=_Simulate, help=HELP)
def simulate_(
    auctions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Auctions as CSV or CSV.gz; goes with --out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Decisions to write, as CSV.")] = None,
    target_roas: Annotated[
        float | None, typer.Option(metavar="T", help="Revenue ÷ cost that each brand wants.")
    ] = None,
    budget_micros: Annotated[
        float | None, typer.Option(metavar="B", help="Budget of each brand over the horizon.  [default: no limit]")
    ] = None,
    lambda0: Annotated[
        float | None, typer.Option(metavar="X", help="λ to begin with, last night's.  [default: the target]")
    ] = None,
    feedback: Annotated[
        Literal["predicted", "realised"],
        typer.Option(
            metavar="WHICH", help="The revenue of won auctions that the controller learns from: predicted or realised."
        ),
    ] = "predicted",
    horizon_s: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds of the budget day.  [default: the last t_s]")
    ] = None,
    brands: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Terms of several brands and portfolios, as JSON.")
    ] = None,
    fit_lambda: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Print λ0 from an earlier file of auctions, and begin with it.")
    ] = None,
    as_json: Json = False,
) -> None:
    from ledger.domain.errors import LedgerError

    try:
        _run(
            Chosen(auctions, out, target_roas, budget_micros, lambda0, feedback, horizon_s, brands, fit_lambda, as_json)
        )
    except LedgerError as error:
        raise UserError(str(error)) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was written") from None


def _run(chosen: Chosen) -> None:
    started = time.monotonic()
    terms = _terms(chosen)
    _check_files(chosen)
    from training.pricing.auctions import BadInput, read_auctions
    from training.pricing.simulation import fitted

    auctions = None if chosen.auctions is None else read_auctions(chosen.auctions)
    horizon_s = chosen.horizon_s
    if horizon_s is None and auctions is not None:
        horizon_s = float(auctions.t_s[-1]) or 1.0
    found: dict[str, float] = {}
    if chosen.fit_lambda is not None:
        found = fitted(chosen.fit_lambda, terms, chosen.brands, horizon_s)
        if not found:
            raise BadInput(f"{chosen.fit_lambda}: too few opportunities to fit λ")
        if not chosen.as_json:
            print(next(iter(found.values())) if len(found) == 1 else json.dumps(found), flush=True)
    said: dict[str, Any] = {"lambda0": found or None}
    if auctions is not None and horizon_s is not None:
        with progress(quiet=chosen.as_json) as say:
            market, decided = _decided(chosen, auctions, terms, found, horizon_s, say)
        said |= _told(chosen, auctions, market, decided, time.monotonic() - started)
    if chosen.as_json:
        print(json.dumps(said))


def _decided(
    chosen: Chosen,
    auctions: Auctions,
    terms: AuctionTerms | None,
    found: dict[str, float],
    horizon_s: float,
    say: Say,
) -> tuple[Market, Decided]:
    from training.pricing.auctions import read_market
    from training.pricing.decisions import write_decisions
    from training.pricing.simulation import simulate

    market = read_market(chosen.brands, auctions.names, terms)
    lambda0 = [found.get(name, given) for name, given in zip(market.names, market.lambda0, strict=True)]
    market = replace(market, lambda0=lambda0)
    decided = simulate(auctions, market, horizon_s, chosen.feedback == "realised", say)
    assert chosen.out is not None
    with writing(chosen.out):
        write_decisions(chosen.out, decided)
    return market, decided


def _told(chosen: Chosen, auctions: Auctions, market: Market, decided: Decided, seconds: float) -> dict[str, Any]:
    """The figures of a run for JSON; without --json, a summary goes to stderr."""
    from training.pricing.decisions import summary

    won = decided.won
    if not chosen.as_json:
        for line in summary(auctions, market, won):
            print(line, file=sys.stderr)
        print(f"{len(auctions):,} auctions in {seconds:.1f} s → {chosen.out}", file=sys.stderr)
    return {
        "auctions": len(auctions),
        "won": int(won.sum()),
        "predicted_revenue_micros": float(auctions.predicted_revenue[won].sum()),
        "revenue_micros": float(auctions.revenue[won].sum()),
        "cost_micros": float(auctions.cost[won].sum()),
        "seconds": round(seconds, 2),
        "out": str(chosen.out),
    }


def _check_files(chosen: Chosen) -> None:
    """
    Raises:
        UserError: files that do not go together, or an --out that cannot be written or would be read.
    """
    if (chosen.auctions is None) != (chosen.out is None):
        raise UserError("--auctions and --out go together")
    if chosen.auctions is None and chosen.fit_lambda is None:
        raise UserError("--auctions and --out are needed, or --fit-lambda; see --help")
    if chosen.fit_lambda is not None and chosen.lambda0 is not None:
        raise UserError("--lambda0 and --fit-lambda: give one of them")
    if chosen.out is not None and chosen.out.is_dir():
        raise UserError(f"--out {chosen.out} is a folder; name a file")
    if chosen.out is not None and not chosen.out.absolute().parent.is_dir():
        raise UserError(f"--out {chosen.out}: there is no folder {chosen.out.parent}")
    if chosen.out is not None and chosen.out.exists() and not chosen.out.is_file():
        raise UserError(f"--out {chosen.out} is not a file")
    given = [path for path in (chosen.auctions, chosen.fit_lambda, chosen.brands) if path is not None and path.exists()]
    if chosen.out is not None and chosen.out.exists() and any(chosen.out.samefile(path) for path in given):
        raise UserError(f"--out {chosen.out} would overwrite what is read")


def _terms(chosen: Chosen) -> AuctionTerms | None:
    """What the options say of every brand that no document names; None when they say nothing.

    Raises:
        UserError: a number that cannot be, or no target.
    """
    for name, value, least_allowed in (
        ("target-roas", chosen.target_roas, False),
        ("budget-micros", chosen.budget_micros, False),
        ("lambda0", chosen.lambda0, True),
        ("horizon-s", chosen.horizon_s, False),
    ):
        if value is not None and not (math.isfinite(value) and (value > 0.0 or (least_allowed and value == 0.0))):
            bound = "0 or more" if least_allowed else "above 0"
            raise UserError(f"--{name} {value} is not a finite number {bound}")
    if chosen.target_roas is None:
        if chosen.brands is None:
            raise UserError("--target-roas is needed, or --brands; see --help")
        return None
    from ledger.domain.budget import MONEY_MOST
    from training.pricing.auctions import AuctionTerms

    budget = None
    if chosen.budget_micros is not None:
        budget = math.floor(chosen.budget_micros)
        if not 0 < budget <= MONEY_MOST:
            raise UserError(f"--budget-micros {chosen.budget_micros:g} is not between 1 and {MONEY_MOST}")
    return AuctionTerms(target_roas=chosen.target_roas, daily_budget_micros=budget, lambda0=chosen.lambda0)


def main(arguments: Sequence[str] | None = None) -> int:
    return run(app, "python -m training.simulate", arguments)


if __name__ == "__main__":
    sys.exit(main())
