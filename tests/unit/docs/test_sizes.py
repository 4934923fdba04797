"""No file and no function of the product grows beyond what can be looked over."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 450, 60
FILES = [
    path
    for package in ("paceline", "serve_app", "training", "ledger", "db")
    for path in sorted((ROOT / package).rglob("*.py"))
    if "versions" not in path.parts  # a migration is a list, and never changed again
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_can_be_looked_over(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES_OF_A_FILE
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in found}
    assert {name: number for name, number in lines.items() if number > MOST_LINES_OF_A_FUNCTION} == {}
