"""Every command: its help, and what is typed wrong, does nothing but say so."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Form(NamedTuple):
    """One way of typing a command."""

    module: str
    arguments: tuple[str, ...] = ()
    complete: tuple[str, ...] = ()  # what it needs to run
    usage_code: int = 2

    @property
    def typed(self) -> str:
        return " ".join((self.module, *self.arguments))


FORMS = (
    Form("db.migrate"),
    Form("ledger.audit"),
    Form("training.backtest", complete=("--csv", "x", "--from", "2026-01-01", "--to", "2026-01-02", "--out", "out")),
    Form("training.etl", ("gather",)),
    Form("training.etl", ("import",), ("x",)),
    Form("training.model.verify", complete=("1", "999999999")),
    Form("training.nightly", usage_code=1),
    Form("training.pricing.evaluate", complete=("--make-market", "market")),
    Form("training.registry"),
    Form("training.simulate", complete=("--auctions", "x", "--target-roas", "2", "--out", "out")),
)
PROGRAMS = {name: f"{name}.cli" for name in ("training.etl", "training.nightly", "training.registry")}
every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.typed)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which a state folder and a database would be made, were they touched."""
    for name in [name for name in os.environ if name.startswith("PACELINE_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PACELINE_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/untouched.db")
    monkeypatch.setenv("PACELINE_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def typed(form: Form, *arguments: str) -> int:
    code = importlib.import_module(PROGRAMS.get(form.module, form.module)).main([*form.arguments, *arguments])
    assert isinstance(code, int)
    return code


@every_form
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_says_what_the_command_is_for_and_does_nothing(form, option, here, capsys):
    assert typed(form, option) == 0
    out, err = capsys.readouterr()
    first, _, rest = out.partition("\n")
    assert re.fullmatch(r"[A-Z][^_`]{20,77}\.", first), first
    assert rest.startswith("\nUsage: ")
    assert "\nExamples:\n  paceline " in out
    assert "  -h, --help " in out
    assert err == ""
    assert list(here.iterdir()) == []


@every_form
@pytest.mark.parametrize(
    ("wrong", "named"), [(["--nonsense"], "--nonsense"), (["--jsn"], "--jsn"), (["a", "b"], "extra argument")]
)
def test_what_is_typed_wrong_is_a_line_and_does_nothing(form, wrong, named, here, capsys):
    assert typed(form, *form.complete, *wrong) == form.usage_code
    out, err = capsys.readouterr()
    assert out == ""
    assert named in err
    assert err.endswith(" --help\n")
    assert err.count("\n") == 1
    assert list(here.iterdir()) == []


@every_form
def test_what_is_typed_wrong_is_json_where_json_is_asked_for(form, here, capsys):
    assert typed(form, "--json", "--nonsense") == form.usage_code
    assert "no such option" in json.loads(capsys.readouterr().out)["error"]


@pytest.mark.parametrize("form", [form for form in FORMS if form.complete], ids=lambda form: form.typed)
def test_what_is_missing_is_a_line_and_does_nothing(form, here, capsys):
    assert typed(form) == form.usage_code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert re.search("missing|needed", err) and err.endswith("--help\n")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("module", sorted({form.module for form in FORMS}))
def test_the_module_can_be_run_and_its_help_loads_nothing_heavy(module, here):
    """As a process of its own: what the shell's completion waits for."""
    words = (
        "import runpy, sys; sys.argv[1:] = ['--help']\n"
        f"try: runpy.run_module({module!r}, run_name='__main__')\n"
        "finally: print('loaded', *sorted(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, env=child(), timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"Usage: python -m {module} " in done.stdout
    assert {"numpy", "pandas", "ray", "lightgbm", "numba", "sqlalchemy"} & set(done.stderr.split()) == set()


def child() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, env=child() | environ, timeout=60
    )


@pytest.mark.parametrize("module", ["ledger.audit"])
@pytest.mark.parametrize("kind", ["nothing", "folder", "empty", "text", "unreadable"])
def test_a_database_that_cannot_be_read_is_a_line_and_stays_as_it_is(module, kind, tmp_path):
    state = tmp_path / "state"
    file = state / "paceline.db"
    if kind != "nothing":
        state.mkdir()
    if kind == "folder":
        file.mkdir()
    elif kind in ("empty", "text"):
        file.write_bytes(b"" if kind == "empty" else b"no database at all\n" * 100)
    elif kind == "unreadable":
        file.symlink_to(file)  # root may read everything else
    before = contents(tmp_path)
    done = run(module, "--json", "--state", str(state), PACELINE_DATABASE_URL="", PACELINE_STATE="")
    assert done.returncode != 0
    assert str(file) in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert json.loads(done.stdout) == {"error": done.stderr.strip()}
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("module", ["ledger.audit", "db.migrate"])
def test_a_server_that_is_not_there_is_a_line_without_the_password(module, tmp_path):
    done = run(module, "--json", PACELINE_DATABASE_URL="mysql+aiomysql://app:hunter2@127.0.0.1:1/x")
    assert done.returncode == (2 if module == "ledger.audit" else 1)
    assert "app:***@127.0.0.1:1" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    assert done.stderr.count("\n") == 1, done.stderr
    assert json.loads(done.stdout) == {"error": done.stderr.strip()}


def test_a_full_disk_is_told_with_the_name_of_what_was_written(capsys):
    from db.command_line import Command, commands, run, writing

    app = commands()

    @app.command("x", cls=Command)
    def x() -> None:
        with writing(Path("/dev/full")), Path("/dev/full").open("w") as file:
            file.write("y")

    assert run(app, "x", []) == 1
    assert capsys.readouterr().err == "/dev/full: no space left on device; free some space\n"


def test_a_reader_that_goes_away_ends_a_command_without_a_word(tmp_path):
    """As after `| head -1`; told apart from other pipes that break."""
    words = "import os; from db import migrate; from db.command_line import *\n"
    words += "app = commands()\n@app.command('x', cls=Command)\ndef x():\n for _ in range(9): print('y' * 9999)\n"
    words += "raise SystemExit(run(app, 'x'))\n"
    process = subprocess.Popen(
        [sys.executable, "-c", words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=child(), text=True
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(30) == 141


def test_a_failure_that_nobody_foresaw_keeps_its_traceback(capfd):
    from db.command_line import Command, commands, run

    app = commands()

    @app.command("x", cls=Command)
    def x() -> None:
        raise KeyError("y")

    assert run(app, "x", ["--json"]) == 2  # no such option
    assert run(app, "x", []) == 1
    _, err = capfd.readouterr()
    assert "Traceback" in err
    assert err.endswith("this is a bug in Paceline: KeyError: 'y'\n")


def test_ctrl_c_is_told_in_a_word(capsys):
    from db.command_line import Command, commands, run

    app = commands()

    @app.command("x", cls=Command)
    def x() -> None:
        raise KeyboardInterrupt

    assert run(app, "x", []) == 130
    assert capsys.readouterr().err == "interrupted\n"
