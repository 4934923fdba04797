"""The README tells what the code does."""

from __future__ import annotations

from pathlib import Path

from serve_app.settings import table

README = (Path(__file__).resolve().parents[3] / "README.md").read_text()


def test_the_table_of_settings_is_the_generated_one() -> None:
    """After a change of settings: python -m serve_app.settings, between the two marks."""
    shown = README.split("<!-- settings -->")[1].split("<!-- /settings -->")[0].strip()
    assert shown == table()


def test_every_setting_is_explained() -> None:
    assert [line for line in table().splitlines() if line.endswith("|  |")] == []
