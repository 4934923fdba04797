"""Every command: its help, and what is typed wrong, does nothing but say so."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from paceline.commands import build

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


MODULES = (
    Form("db.migrate"),
    Form("ledger.audit"),
    Form("serve_app.run"),
    Form("serve_app.settings"),
    Form("serve_app.token", complete=("--scope", "admin")),
    Form("training.backtest", complete=("--csv", "x", "--from", "2026-01-01", "--to", "2026-01-02", "--out", "out")),
    Form("training.etl", ("gather",)),
    Form("training.etl", ("import",), ("x",)),
    Form("training.model.verify", complete=("1", "999999999")),
    Form("training.nightly", usage_code=1),
    Form("training.pricing.evaluate", complete=("--make-market", "market")),
    Form("training.registry"),
    Form("training.simulate", complete=("--auctions", "x", "--target-roas", "2", "--out", "out")),
)
NAMES = {
    "db.migrate": "migrate",
    "ledger.audit": "audit",
    "serve_app.run": "run",
    "serve_app.settings": "settings",
    "serve_app.token": "token",
    "training.backtest": "backtest",
    "training.model.verify": "verify",
    "training.nightly": "night",
    "training.pricing.evaluate": "evaluate",
    "training.registry": "registry",
    "training.simulate": "simulate",
}
FORMS = (
    *MODULES,
    *(form._replace(module="paceline", arguments=form.arguments or (NAMES[form.module],)) for form in MODULES),
    *(form._replace(module="paceline", arguments=("etl", *form.arguments)) for form in MODULES if form.arguments),
    Form("paceline"),
    Form("paceline", ("etl",)),
)
GROUP: Any = typer.main.get_command(build())
PROGRAMS = {name: f"{name}.cli" for name in ("training.etl", "training.nightly", "training.registry")} | {
    "serve_app.settings": "serve_app.show_settings",
    "paceline": "paceline.__main__",
}
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
    ("wrong", "named"), [(["--nonsense"], "--nonsense"), (["--jsn"], "--jsn"), (["a", "b"], "argument|command 'a'")]
)
def test_what_is_typed_wrong_is_a_line_and_does_nothing(form, wrong, named, here, capsys):
    assert typed(form, *form.complete, *wrong) == form.usage_code
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(named, err)
    assert err.endswith(" --help\n")
    assert err.count("\n") == 1
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("typed_", "said"),
    [
        (["run", "--port", "eighty"], "invalid value for '--port': should be a whole number;"),
        (["run", "--port", "0"], "invalid value for '--port': should be at least 1;"),
        (["run", "--port", "70000"], "invalid value for '--port': should be at most 65535;"),
        (["simulate", "--target-roas", "six"], "invalid value for '--target-roas': should be a number;"),
        (["simulate", "--target", "6"], "no such option: --target; did you mean --target-roas?"),
        (["simulate", "--bogus"], "no such option: --bogus;"),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(typed_, said, here, capsys):
    assert typed(Form("paceline"), *typed_) == 2
    assert said in capsys.readouterr().err
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


@pytest.mark.parametrize("module", sorted({form.module for form in FORMS} - {"serve_app.settings"}))
def test_the_module_can_be_run_and_its_help_loads_nothing_heavy(module, here):
    """As a process of its own: what the shell's completion waits for."""
    words = (
        "import runpy, sys; sys.argv[1:] = ['--help']\n"
        f"try: runpy.run_module({module!r}, run_name='__main__')\n"
        "finally: print('loaded', *sorted(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, env=child(), timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"Usage: {module if module == 'paceline' else f'python -m {module}'} " in done.stdout
    assert {"numpy", "pandas", "ray", "lightgbm", "numba", "sqlalchemy"} & set(done.stderr.split()) == set()


def test_no_command_is_missing():
    """Whatever a module runs as a program is a command above, but for former names."""
    programs = set()
    for package in ("paceline", "serve_app", "training", "ledger", "db"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if '__name__ == "__main__"' in path.read_text():
                programs.add(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__"))
    assert programs - {"training.verify"} == {form.module for form in FORMS}
    assert {form.arguments[:1] for form in FORMS if form.module == "paceline"} - {()} == {
        (name,) for name in GROUP.commands
    }


def every_example():
    commands = [GROUP, *GROUP.commands.values(), *GROUP.commands["etl"].commands.values()]
    return sorted({line.strip() for each in commands for line in each.help.split("\n") if " paceline " in f" {line}"})


@pytest.mark.parametrize("example", [line for line in every_example() if re.match(r"paceline |\S+=", line)])
def test_every_example_in_a_help_can_be_typed(example, here):
    words = shlex.split(re.sub(r"\)$", "", re.split(" [|<] ", re.sub(r".*(?<!/)\bpaceline ", "", example))[0]))
    GROUP.commands[words[0]].make_context(words[0], words[1:])  # raises what typing it would


COMPLETION = {
    "bash": {"COMP_WORDS": "paceline ba", "COMP_CWORD": "1"},
    "zsh": {"_TYPER_COMPLETE_ARGS": "paceline ba"},
    "fish": {"_TYPER_COMPLETE_ARGS": "paceline ba", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}


@pytest.mark.parametrize("shell", COMPLETION)
def test_shells_complete_a_command_without_loading_anything_heavy(shell, here):
    words = (
        "import sys\nfrom paceline.__main__ import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)\n"
    )
    environ = child() | COMPLETION[shell] | {"_PACELINE_COMPLETE": f"complete_{shell}"}
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, env=environ, timeout=60)
    assert "backtest" in done.stdout and "audit" not in done.stdout
    assert {"numpy", "pandas", "ray", "lightgbm", "numba", "sqlalchemy"} & set(done.stderr.split()) == set()


def test_bash_completes_what_was_installed(tmp_path):
    """As somebody would do it: once, in a home folder, for the shells that begin after it."""
    program = tmp_path / "bin" / "paceline"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom paceline.__main__ import main\nraise SystemExit(main())\n")
    program.chmod(0o755)
    environ = child() | {"HOME": str(tmp_path), "PATH": f"{program.parent}:{os.environ['PATH']}"}
    script = "paceline --install-completion; true"
    installed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environ, timeout=60)
    assert "bash completion installed" in installed.stdout, installed.stderr
    script = ". ~/.bashrc; COMP_WORDS=(paceline simulate --targ); COMP_CWORD=2; "
    script += "_paceline_completion paceline; echo ${COMPREPLY[@]}"
    completed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environ, timeout=60)
    assert completed.stdout == "--target-roas\n", completed.stderr


def child() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, env=child() | environ, timeout=60
    )


@pytest.mark.parametrize("module", ["ledger.audit", "training.registry"])
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


def test_an_interpreter_without_the_libraries_is_a_line():
    command = [sys.executable, "-S", "-m", "paceline", "run"]  # without site-packages
    done = subprocess.run(command, capture_output=True, text=True, env=child(), timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(" has no typer; run `make venv`, and use .venv/bin/paceline\n")
    assert done.stderr.count("\n") == 1


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


def test_progress_is_one_line_on_a_terminal_and_warnings_stay(monkeypatch):
    from db.command_line import progress

    reader, terminal = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(terminal, "w") as screen:
        monkeypatch.setattr(sys, "stderr", screen)
        with progress() as say:
            say("  1 of 2")
            say("warning: a row is odd")
            say("  2 of 2")
        with progress(quiet=True) as say:
            say("  not this")
        assert os.read(reader, 4096) == (b"\r\x1b[K1 of 2\r\x1b[Kwarning: a row is odd\r\n\r\x1b[K2 of 2\r\x1b[K")
    os.close(reader)


def test_progress_is_silent_in_a_pipe_but_for_warnings(capsys):
    from db.command_line import progress

    with progress() as say:
        say("  1 of 2")
        say("warning: a row is odd")
    assert capsys.readouterr() == ("", "warning: a row is odd\n")


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("form", [form for form in FORMS if form.module == "paceline"], ids=lambda form: form.typed)
def test_help_fits_the_terminal(form, width, here, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    assert typed(form, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > max(width, 80)] == []
    assert [line for line in lines if len(line) > width and '{"' not in line] == []


def test_ctrl_c_is_told_in_a_word(capsys):
    from db.command_line import Command, commands, run

    app = commands()

    @app.command("x", cls=Command)
    def x() -> None:
        raise KeyboardInterrupt

    assert run(app, "x", []) == 130
    assert capsys.readouterr().err == "interrupted\n"
