"""`python -m training.pricing.evaluate`, `paceline evaluate`: decisions against their optimum (`optimum.py`)."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from db.command_line import Command, Json, commands, run, writing
from db.errors import UserError

HELP = """Compare the decisions of a simulation with the best that were possible.

Best is what somebody would have won who knew all auctions ahead: the most predicted revenue under every brand's and
portfolio's ROAS target and budget. Prints a JSON document: of_optimum (1.0 is the best), how near every limit was kept,
and each portfolio's share. With --make-market, writes a made-up file of auctions to try it on.

Examples:
  paceline evaluate --make-market market/ --seed 7
  paceline simulate --auctions market/auctions.csv.gz --brands market/brands.json --out decisions.csv
  paceline evaluate decisions.csv --auctions market/auctions.csv.gz --brands market/brands.json

Exit codes:
  0  printed, or written
  2  a wrong option, or a file that cannot be used
"""

app = commands()


class _Evaluate(Command):
    failure_code = 2


@app.command("evaluate", cls=_Evaluate, help=HELP)
def evaluate_(
    decisions: Annotated[
        Path | None, typer.Argument(metavar="DECISIONS", help="What `paceline simulate --out` wrote.")
    ] = None,
    auctions: Annotated[Path | None, typer.Option(metavar="FILE", help="The auctions that were decided.")] = None,
    brands: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Terms of brands and portfolios, as for `paceline simulate`.")
    ] = None,
    solver: Annotated[
        Literal["cuts", "highs"],
        typer.Option(
            help="How the best is found: by sorting, or by the HiGHS solver, which is slow and says the same."
        ),
    ] = "cuts",
    make_market: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write auctions.csv.gz and brands.json there, and end.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed makes the same market.")] = 0,
    market_brands: Annotated[int, typer.Option(metavar="N", min=1, help="Brands of the market.")] = 100,
    market_portfolios: Annotated[int, typer.Option(metavar="N", min=1, help="Portfolios of the market.")] = 20,
    market_rows: Annotated[int, typer.Option(metavar="N", min=1, help="Auctions of each of its brands.")] = 10_000,
    as_json: Json = False,
) -> None:
    if make_market is not None:
        from training.pricing.optimum import write_market
        from training.pricing.synthetic_market import make_market as made

        with writing(make_market):
            write_market(make_market, *made(seed, market_brands, market_portfolios, market_rows))
        if as_json:
            print(
                json.dumps(
                    {"auctions": str(make_market / "auctions.csv.gz"), "brands": str(make_market / "brands.json")}
                )
            )
        return
    if decisions is None or auctions is None or brands is None:
        raise UserError("DECISIONS, --auctions and --brands are needed, or --make-market; see --help")
    print(json.dumps(_evaluated(decisions, auctions, brands, solver), indent=None if as_json else 1))


def _evaluated(decisions: Path, auctions: Path, brands: Path, solver: str) -> dict[str, Any]:
    from training.pricing.auctions import read_auctions, read_market
    from training.pricing.optimum import evaluate, read_won

    known = read_auctions(auctions)
    return evaluate(known, read_market(brands, known.names), read_won(decisions, len(known)), solver)


def main(arguments: Sequence[str] | None = None) -> int:
    return run(app, "python -m training.pricing.evaluate", arguments)


if __name__ == "__main__":
    sys.exit(main())
