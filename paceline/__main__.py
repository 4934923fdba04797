"""`paceline`, installed as `.venv/bin/paceline`; `python -m paceline` is the same.

Nothing but the standard library is imported before the repository's folders are seen beside this one.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("serve_app", "training", "ledger", "db")
NOT_A_REPOSITORY = (
    f"paceline: {ROOT} has no {', '.join(FOLDERS)}: Paceline runs from a clone of its repository, not from an "
    "installed wheel. Clone it and run `make run` there; other commands are in its .venv/bin/paceline."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code, 1 where this is not Paceline's repository."""
    if not all((ROOT / folder / "__init__.py").is_file() for folder in FOLDERS):
        print(NOT_A_REPOSITORY, file=sys.stderr)
        return 1
    try:
        if arguments is None and sys.argv[1:2] == ["run"]:
            from serve_app.launcher.signals import heed_stop_signals

            heed_stop_signals()  # before anything that takes long to import
        from db.command_line import run
        from paceline.commands import build
    except ModuleNotFoundError as error:
        print(
            f"paceline: {sys.executable} has no {error.name}; run `make venv`, and use .venv/bin/paceline",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return 130
    return run(build(), "paceline", arguments)


if __name__ == "__main__":
    sys.exit(main())
