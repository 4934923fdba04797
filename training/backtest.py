"""`python -m training.backtest`, `paceline backtest`: see `walk_forward.py`."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from db.command_line import Command, Json, commands, date, progress, run, writing
from db.errors import UserError

if TYPE_CHECKING:
    from training.settings import Engine

HELP = """Tell how well the model would have predicted past days.

Each day from --from to --to is predicted by trees that were trained on the days before it alone, as the night trains
them. Needs no running system and no state folder. Writes to the folder --out:

  predictions.csv  the rows of those days, with predicted_revenue_micros, predicted_ctr and predicted_cvr per impression
  report.json      the figures
  report.html      the same for people, with plots

Examples:
  paceline backtest --csv performance.csv --from 2026-01-01 --to 2026-01-31 --out backtest/
  paceline backtest --csv performance.csv --from 2026-01-31 --to 2026-01-31 --out backtest/ --engines lightgbm,xgboost

Exit codes:
  0  written
  1  the file cannot be used, or the folder cannot be written
  2  a wrong option
"""
ENGINES = ("lightgbm", "xgboost")

app = commands()


def engine_names(text: str) -> list[Engine]:
    """
    Raises:
        typer.BadParameter: some word names no library.

    >>> engine_names("xgboost,lightgbm,xgboost")
    ['xgboost', 'lightgbm']
    """
    names: list[Any] = list(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in ENGINES]:
        raise typer.BadParameter(f"no engine {unknown[0]!r}; there are {', '.join(ENGINES)}")
    return names


@app.command("backtest", cls=Command, help=HELP)
def backtest(
    file: Annotated[
        Path, typer.Option("--csv", metavar="FILE", help="Performance as CSV, CSV.gz or Parquet, as `paceline import`.")
    ],
    first: Annotated[dt.date, typer.Option("--from", parser=date, metavar="YYYY-MM-DD", help="First day, UTC.")],
    last: Annotated[dt.date, typer.Option("--to", parser=date, metavar="YYYY-MM-DD", help="Last day, UTC, included.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write; made if it is not there.")],
    engines: Annotated[
        Any,
        typer.Option(
            parser=engine_names,
            metavar="NAMES",
            help="Tree libraries to compare: the predictions are those of the better one.  "
            "[default: the one that PACELINE_MODEL_ENGINE names]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    if last < first:
        raise typer.BadParameter(f"{last} is before --from {first}", param_hint="--to")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder")
    from training.settings import model_settings
    from training.walk_forward import run as walk

    with progress(quiet=as_json) as say, writing(out):
        found = walk(file, first, last, out, model_settings(), say, engines or ())
    if as_json:
        names = ("from", "to", "overall", "engine", "engines", "days_without_history", "rows", "rejected", "seconds")
        print(json.dumps({name: found[name] for name in names} | {"out": str(out)}))
        return
    if len(found["engines"]) > 1:
        print(f"{found['engine']} is chosen, by Tweedie deviance")
    print(_in_a_line(found, out))


def _in_a_line(found: dict[str, Any], out: Path) -> str:
    overall = found["overall"]
    figures = f"{overall['rows']:,} rows, {found['seconds']:.1f} s → {out}"
    if None in overall.values():
        return figures
    fit = f"R² {overall['r2']:.3f}, calibration {overall['calibration']:.3f}, deviance {overall['deviance']:.4g}"
    return f"{fit}, {figures}"


def main(arguments: Sequence[str] | None = None) -> int:
    return run(app, "python -m training.backtest", arguments)


if __name__ == "__main__":
    sys.exit(main())
