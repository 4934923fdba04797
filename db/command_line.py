"""What all commands share: how help looks, how options are read, and how a failure is told.

A command module imports only this and the standard library; what does the work is imported by the function that needs
it. So `paceline --help` and the shell's completion answer without pandas, Ray or LightGBM.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import difflib
import json
import os
import re
import select
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from db.errors import UserError, database_cure, file_error, in_a_line

INTERRUPTED, READER_GONE = 130, 141
"""Exit codes as a shell gives them to a program that SIGINT or SIGPIPE has ended."""
COLUMNS = re.compile(r"(\S+(?: \S+)*) {2,}(\S.*)")
OURS = ("paceline", "serve_app", "training", "ledger", "db")
IN_PLAIN_WORDS = {
    r"Input should be a valid integer.*": "should be a whole number",
    r"Input should be a valid number.*": "should be a number",
    "Input should be greater than or equal to": "should be at least",
    "Input should be less than or equal to": "should be at most",
    "Input should": "should",
}
"""What Typer says about a value that is none."""
HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


class _Failed(Exception):
    """A command has failed. `line`: why, for the person who typed it; None: stdout is closed, so print nothing."""

    def __init__(self, line: str | None, code: int) -> None:
        super().__init__(line, code)
        self.line, self.code = line, code


class Command(TyperCommand):
    """A command whose help is plain text and whose failures are lines."""

    usage_code: ClassVar[int] = 2
    """Exit code of a mistyped option or argument."""
    failure_code: ClassVar[int] = 1

    def __init__(self, name: str | None, **settings: Any) -> None:
        settings["context_settings"] = HELP_OPTIONS | (settings.get("context_settings") or {})
        super().__init__(name, **settings)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _format_help(self, ctx, formatter)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Without Typer's braces: FILE is needed, [FILE] is not."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def invoke(self, ctx: Any) -> Any:
        """
        Raises:
            _Failed: for everything but a wrong option, `typer.Exit` and an exit.
        """
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except typer.TyperException as error:
            if getattr(error, "ctx", ctx) is None:
                error.ctx = ctx  # type: ignore[attr-defined]  # a usage error that the command itself has found
            raise
        except KeyboardInterrupt as error:
            raise _Failed(f"interrupted; {error}" if str(error) else "interrupted", INTERRUPTED) from None
        except Exception as error:
            if isinstance(error, BrokenPipeError) and _is_reader_gone():
                raise _Failed(None, READER_GONE) from None
            raise _Failed(explained(error), self.failure_code) from None


class Group(TyperGroup):
    """Commands under one name."""

    usage_code: ClassVar[int] = 2

    def __init__(self, **settings: Any) -> None:
        settings["context_settings"] = HELP_OPTIONS | (settings.get("context_settings") or {})
        super().__init__(**settings)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _format_help(self, ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """A line or more for each; nothing of its first sentence is left out, however narrow the terminal."""
        found = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        rows = [(name, (each.help or "").split("\n")[0].rstrip(".")) for name, each in found if not each.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def commands(help: str | None = None, *, completion: bool = False) -> typer.Typer:
    """An app that commands are added to.

    Args:
        help: what a group of commands is for; one command alone says so itself.
        completion: whether it can install itself in a shell.
    """
    return typer.Typer(
        cls=Group, help=help, add_completion=completion, rich_markup_mode=None, pretty_exceptions_enable=False
    )


def run(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        name: what was typed before the arguments, as help and errors show it.
        arguments: None: the process's own.

    Returns:
        The exit code. Every failure has been told in a line on stderr, and with `--json` as `{"error": …}` on stdout.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given[: given.index("--") if "--" in given else None]
    try:
        code = typer.main.get_command(app).main(given, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except _Failed as error:
        return _fail(error.line, error.code, as_json)
    except typer.Abort:
        return _fail("interrupted", INTERRUPTED, as_json)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        return _fail(_usage_error(error, name), getattr(context and context.command, "usage_code", 2), as_json)
    except BrokenPipeError:
        return _fail(None, READER_GONE, as_json=False)
    return code if isinstance(code, int) else 0


def _fail(line: str | None, code: int, as_json: bool) -> int:
    try:
        if line is not None:
            print(line, file=sys.stderr)
        if as_json and line is not None:
            print(json.dumps({"error": "; ".join(line.splitlines())}), flush=True)
    except BrokenPipeError:
        line = None
    if line is None:
        _discard_output()
    return code


def say(line: str) -> None:
    """Print a line at once. If stdout is closed, print nothing and go on."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        _discard_output()


def _discard_output() -> None:
    """Also what the interpreter flushes at its end has somewhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_reader_gone() -> bool:
    """Whether stdout leads to a pipe that nobody reads, as after `| head -1`."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _usage_error(error: typer.TyperException, name: str) -> str:
    """What was typed wrong and what may be typed instead, in a line.

    Args:
        name: the program's, where the error does not know its command.
    """
    context: Any = getattr(error, "ctx", None)
    path = context.command_path if context is not None else name
    words = re.sub(
        r"\. Did you mean '(\w+)'.*", r"; did you mean \1", " ".join(error.format_message().split()).rstrip(".")
    )
    for pattern, plain in IN_PLAIN_WORDS.items():
        words = re.sub(pattern, plain, words)
    typed = getattr(error, "option_name", None)
    if typed and context is not None and words.startswith("No such"):
        words = f"no such option: {typed}"
        known = [name for each in context.command.get_params(context) for name in _long_names(each)]
        near = difflib.get_close_matches(typed.lstrip("-"), [name.lstrip("-") for name in known], n=1)
        words += f"; did you mean --{near[0]}" if near else ""
    mark = "?" if "; did you mean" in words else ";"
    return f"{path}: {words[:1].lower()}{words[1:]}{mark} see {path} --help"


def _long_names(parameter: Any) -> list[str]:
    return [name for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--")]


def explained(error: Exception) -> str:
    """A failure in words for the person who typed the command. The traceback of a bug is printed first."""
    if line := told(error):
        return line
    traceback.print_exception(error)
    return f"this is a bug in Paceline: {type(error).__name__}: {in_a_line(error)}"


def told(error: Exception) -> str | None:
    """A failure in words for the person who typed the command; None: nobody foresaw it, and it is a bug."""
    from sqlalchemy.exc import SQLAlchemyError  # only now: it takes a quarter of a second

    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, SQLAlchemyError):
        return f"cannot use the database {_database()}: {in_a_line(error)}; {database_cure(in_a_line(error))}"
    if isinstance(error, TimeoutError) and not error.args:
        return f"the database {_database()} did not answer in time; {database_cure()}"
    if isinstance(error, OSError):
        return file_error(error)
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] not in OURS:
        return f"{sys.executable} has no {error.name}; run `make venv`, and use .venv/bin/python or .venv/bin/paceline"
    if isinstance(error, MemoryError):
        return "out of memory; stop other programs, or use a machine with more memory"
    return None


def _database() -> str:
    from db.environment import BadSetting, without_password
    from db.settings import database_settings

    try:
        return str(without_password(database_settings().url))
    except BadSetting:
        return ""


def _format_help(command: Any, ctx: Any, formatter: Any) -> None:
    """Purpose, usage, the rest of the text, options: in words, in whatever width the terminal has."""
    first, *rest = (command.help or "").split("\n\n")
    formatter.write_text(" ".join(first.split()))
    formatter.write_paragraph()
    command.format_usage(ctx, formatter)
    for paragraph in rest:
        formatter.write_paragraph()
        lines = paragraph.split("\n")
        words = [line for line in lines if not line.startswith("  ")]
        if words:
            formatter.write(textwrap.fill(" ".join(words), formatter.width, break_on_hyphens=False) + "\n")
        _write_indented([line[2:] for line in lines if line.startswith("  ")], formatter)
    command.format_options(ctx, formatter)


def _write_indented(lines: list[str], formatter: Any) -> None:
    """Lines of help that begin with two spaces: a table of two columns, commands, or an example of a file."""
    rows = [COLUMNS.match(line) for line in lines]
    with formatter.indentation():
        if rows and all(rows):
            formatter.write_dl([(row[1], row[2]) for row in rows if row])
            return
        for line in lines:
            is_long = re.search("paceline |make ", line) and len(line) > formatter.width - 2
            whole = re.sub(r"(--\S+) (?!-)", "\\1\xa0", line)  # an option stays with its value
            parts = textwrap.wrap(whole, formatter.width - 6, break_on_hyphens=False) if is_long else [line]
            formatter.write("  " + " \\\n      ".join(parts).replace("\xa0", " ") + "\n")


def use_state(folder: Path | None) -> Path | None:
    """An option's callback: `--state` counts for this process and for those that it starts.

    Raises:
        typer.BadParameter: it is the empty name.
    """
    if folder is not None:
        if not str(folder).strip():
            raise typer.BadParameter("a folder's name is expected")
        os.environ["PACELINE_STATE"] = str(folder.resolve())
    return folder


StateFolder = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="FOLDER",
        callback=use_state,
        help="Folder that keeps the database, models and keys.  [default: $STATE, else .state]",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one line of JSON and nothing else; a failure is a line with `error`.")
]


def date(text: str) -> dt.date:
    """
    >>> date("2026-01-31").isoformat()
    '2026-01-31'
    """
    try:
        return dt.datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a date such as 2026-01-31") from None


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of files in the block name this path where the system names none or a draft, as where the disk is full."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(".draft"):
            error.filename = str(path)
        raise


@contextlib.contextmanager
def progress(quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Gives a function that takes lines about work that goes on. A terminal shows the newest, written over the one
    before; a pipe or a file gets none. A line that begins with `warning: ` is printed on stderr in any case."""
    is_shown = not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def show(line: str) -> None:
        if line.startswith("warning: "):
            print(("\r\033[K" if is_shown else "") + line, file=sys.stderr, flush=True)
        elif is_shown:
            columns = shutil.get_terminal_size().columns
            print(f"\r\033[K{line.strip()[: columns - 1]}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if is_shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
