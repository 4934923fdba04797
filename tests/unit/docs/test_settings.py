"""docs/settings.md tells what the code does."""

import re
from pathlib import Path

from serve_app.settings import DEPLOYABLE, Settings, table

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "settings.md").read_text()


def test_the_tables_are_the_generated_ones():
    """After a change of settings: python -m serve_app.settings, between the two marks."""
    assert PAGE.split("<!-- settings -->")[1].split("<!-- /settings -->")[0].strip() == table()


def test_every_section_and_setting_is_explained():
    assert [line for line in table().splitlines() if line.endswith("|  |") or line == "None"] == []


def test_every_variable_that_the_page_names_is_one():
    examples = {"PACELINE_LEDGER_LEASE"}
    assert set(re.findall(r"PACELINE_[A-Z_]*[A-Z](?![A-Z_<])", PAGE)) - set(Settings.variables()) == examples
    assert f"({', '.join(f'`{name}`' for name in DEPLOYABLE)})" in " ".join(PAGE.split())
