"""What a page or a comment points at is there: files, commands, and the rooms of the house."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from paceline.commands import build

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("paceline", "serve_app", "training", "ledger", "db")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "tests/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PROGRAMS = [path for folder in PACKAGES for path in sorted((ROOT / folder).rglob("*.py"))]
MODULE = re.compile(r"\b(?:paceline|serve_app|training|ledger|db|tests|bench)/[\w/]+\.py\b")
SHORT = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.py)`")
DIAGRAM = re.compile(r"```mermaid\n(.*?)```", re.DOTALL)
IN_DIAGRAM = re.compile(r"\b([a-z_]+\.py)\b")
COMMAND = re.compile(r"python -m ((?:paceline|serve_app|training|ledger|db)[\w.]*)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TYPED = re.compile(r"(?:`|^|/bin/)paceline ((?:etl )?[a-z]+)", re.MULTILINE)
IMPORTED = re.compile(r"\bfrom ((?:paceline|serve_app|training|ledger|db|tests|bench)(?:\.\w+)*) import\b")
GROUP: Any = typer.main.get_command(build())
COMMANDS = {*GROUP.commands, *(f"etl {name}" for name in GROUP.commands["etl"].commands)}
FORMER = {"serve_app.entrance"}
ROOMS = [path.parent for path in PROGRAMS if path.name == "__init__.py" and "migrations" not in path.parts]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", PAGES + PROGRAMS, ids=name)
def test_every_file_that_is_named_is_there(path):
    text = path.read_text()
    missing = {named for named in MODULE.findall(text) if not (ROOT / named).exists()}
    drawn = [named for diagram in DIAGRAM.findall(text) for named in IN_DIAGRAM.findall(diagram)]
    for named in SHORT.findall(text) + drawn:
        near = (ROOT, path.parent, *path.parent.parents)
        folders = near if path.suffix == ".py" else (*near, *ROOMS)
        if named != "roas_model.json" and not any((folder / named).exists() for folder in folders):
            missing.add(named)
    assert missing == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page):
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    missing = {target for target in targets if not (page.parent / target.partition("#")[0]).exists()}
    for target in set(targets) - missing:
        file, _, heading = target.partition("#")
        if heading:
            titles = re.findall(r"^#+ (.+)$", ((page.parent / file) if file else page).read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            missing |= {target} if heading not in anchors else set()
    assert missing == set()


def test_the_list_of_pages_has_all_of_them():
    page = ROOT / "docs" / "README.md"
    listed = {(page.parent / target).resolve() for target in LINK.findall(page.read_text())}
    assert {path for path in PAGES if path.parent.name != "decisions"} - {page} <= listed


@pytest.mark.parametrize("path", PAGES + PROGRAMS, ids=name)
def test_every_command_that_is_named_can_be_called(path):
    for module in COMMAND.findall(path.read_text()):
        place = ROOT.joinpath(*module.strip(".").split("."))
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), module


@pytest.mark.parametrize("path", [page for page in PAGES if page.exists()] + PROGRAMS, ids=name)
def test_every_command_of_paceline_that_is_named_is_there(path):
    assert set(TYPED.findall(path.read_text())) - COMMANDS == set()


@pytest.mark.parametrize("folder", [*PACKAGES, "bench", "tests"])
def test_every_module_that_is_imported_is_there_in_strings_too(folder):
    """A benchmark or a test may start a program of a few lines: mypy does not look into it."""
    missing = {
        (name(path), module)
        for path in sorted((ROOT / folder).rglob("*.py"))
        for module in IMPORTED.findall(path.read_text())
        if module not in FORMER and not is_module(module)
    }
    assert missing == set()


def is_module(dotted: str) -> bool:
    place = ROOT.joinpath(*dotted.split("."))
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()


@pytest.mark.parametrize("room", [room for room in ROOMS if room.parent != ROOT], ids=name)
def test_the_architecture_page_says_of_every_room_what_the_room_says_of_itself(room):
    sentence = (ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or "").split("\n")[0]
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert f"| `{room.name}/` | {sentence} |" in page
