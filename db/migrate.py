"""`python -m db.migrate`, `paceline migrate`: bring a database to this version's tables, or say why it cannot be."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from db.command_line import Command, Json, StateFolder, commands, run

app = commands()


@app.command("migrate", cls=Command)
def migrate(state: StateFolder = None, as_json: Json = False) -> None:
    """Bring the database to the tables that this version of Paceline works with.

    Run it once before the first start on MySQL, and after each upgrade. `paceline run` and `paceline import` do it by
    themselves. A database that is up to date is left as it is; one of a newer version is refused and left alone.

    Examples:
      paceline migrate
      paceline migrate --state /srv/paceline
      PACELINE_DATABASE_URL=mysql+aiomysql://user@host/paceline paceline migrate

    Exit codes:
      0  the database is at the newest migration
      1  it cannot be used, and the error says why; nothing was changed
      2  a wrong option
    """
    from db.environment import without_password
    from db.schema import upgrade
    from db.settings import database_settings

    url = database_settings().url
    assert url is not None
    before, after = upgrade(url)
    shown = str(without_password(url))
    if as_json:
        print(json.dumps({"database": shown, "before": before, "after": after}))
    elif before == after:
        print(f"{shown} is at migration {after}, the newest")
    else:
        print(f"{shown} is now at migration {after}, the newest" + (f"; it was at {before}" if before else ""))


def main(arguments: Sequence[str] | None = None) -> int:
    return run(app, "python -m db.migrate", arguments)


if __name__ == "__main__":
    sys.exit(main())
