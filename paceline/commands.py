"""The commands of `paceline`: each is defined beside the code that it runs, and has its `python -m` form there."""

from __future__ import annotations

import typer

from db import migrate
from db.command_line import commands
from ledger import audit
from serve_app import show_settings, token
from serve_app.launcher import cli as launcher
from training import backtest, simulate
from training.etl import cli as etl
from training.model import verify
from training.nightly import cli as nightly
from training.pricing import evaluate
from training.registry import cli as registry

HELP = """Score bids for partner marketing, and keep every brand's ROAS at its target.

ROAS is revenue divided by cost. `paceline run` starts everything; the other commands work on the same state folder,
also while it runs. Every command has --help with examples, and --json for programs.

Examples:
  paceline run
  paceline token --scope admin
  paceline import performance.csv
  paceline night
"""


def build() -> typer.Typer:
    """All commands, in the order in which somebody meets them."""
    app = commands(HELP, completion=True)
    for each in (
        launcher.app,
        token.app,
        etl.app,
        nightly.app,
        backtest.app,
        simulate.app,
        evaluate.app,
        audit.app,
        registry.app,
        migrate.app,
        show_settings.app,
        verify.app,
    ):
        app.registered_commands += each.registered_commands
    app.add_typer(etl.app, name="etl", help=etl.HELP)
    return app
