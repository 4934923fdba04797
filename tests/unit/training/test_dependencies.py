"""What is imported is declared, not left to what happens to come along."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
OURS = ("paceline", "serve_app", "training", "ledger", "db")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def named(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=~! ]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def imported(*folders: str) -> set[str]:
    """Distributions that the folders' modules import by name."""
    modules: set[str] = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                modules.add(node.module.split(".")[0])
    outside = modules - set(sys.stdlib_module_names) - {*OURS, "bench", "tests", "tools"}
    known = packages_distributions()
    return {known[module][0].lower().replace("_", "-") for module in outside if module in known}


@pytest.mark.parametrize(
    ("folders", "declared"),
    [
        (OURS, named(PROJECT["dependencies"])),
        (("tests", "bench", "tools"), named(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"])),
    ],
    ids=["programs", "tests"],
)
def test_every_import_is_declared(folders, declared):
    assert imported(*folders) - declared == set()


def test_what_only_tests_import_is_not_installed_for_programs():
    by_name = {"cryptography"}  # what MySQL's driver and the tokens load by themselves
    tests_only = imported("tests") - imported(*OURS) - by_name
    assert tests_only & named(PROJECT["dependencies"]) == set()
