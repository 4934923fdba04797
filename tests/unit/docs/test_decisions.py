"""Every decision says why, what, what follows and what was measured."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "decisions"
RECORDS = sorted(FOLDER.glob("[0-9]*.md"))
HEADINGS = ["## Context", "## Decision", "## Consequences", "## Figures"]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_has_its_four_parts(path):
    text = path.read_text()
    number = int(path.name.split("-")[0])
    assert re.match(rf"# {number}\. .+\n\n\d{{4}}-\d\d-\d\d(, .+)?\. (In force|Replaced by \d+)\.\n", text)
    assert [line for line in text.splitlines() if line.startswith("## ")] == HEADINGS
    parts = re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]
    assert all(len(part.split()) > 20 for part in parts)
    assert 30 <= len(text.splitlines()) <= 60


def test_the_list_names_every_record_by_its_title():
    page = (FOLDER / "README.md").read_text()
    listed = re.findall(r"\| \[(\d+)\]\((\S+)\) \| (.+?) \|", page)
    assert listed == [
        (str(number), path.name, path.read_text().split("\n")[0].split(". ", 1)[1])
        for number, path in enumerate(RECORDS, start=1)
    ]
    assert all(f"\n{heading}\n" in page for heading in HEADINGS), "the template"
