"""`python -m serve_app.settings`, `paceline settings`: every setting, as docs/settings.md has them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from db.command_line import Command, Json, commands, run

app = commands()


@app.command("settings", cls=Command)
def settings(as_json: Json = False) -> None:
    """Print every setting with its default and what it is, as tables in Markdown.

    A setting is an environment variable. The tables show defaults, not what is set just now.

    Examples:
      paceline settings
      paceline settings | grep LEDGER
      paceline settings --json

    Exit codes:
      0  printed
      2  a wrong option
    """
    from serve_app.settings import Settings, table

    if not as_json:
        print(table())
        return
    found = {}
    for variable, (section, field) in Settings.variables().items():
        about = Settings.sections()[section].model_fields[field]
        words = " ".join((about.description or "").split())
        found[variable] = {"default": about.get_default(call_default_factory=True), "description": words}
    print(json.dumps(found, default=str))


def main(arguments: Sequence[str] | None = None) -> int:
    return run(app, "python -m serve_app.settings", arguments)
