"""The README's first steps, typed as they stand there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT, System

pytestmark = pytest.mark.usefixtures("audited")


def test_the_first_request_of_the_readme_wins_and_is_settled(system: System, tmp_path: Path) -> None:
    chapter = (ROOT / "README.md").read_text().split("## The first request")[1].split("\n## ")[0]
    script = "\n".join(re.findall(r"```sh\n(.*?)```", chapter, re.DOTALL))
    script = script.replace("PORT=8000", f"PORT={system.port}").replace(
        "/tmp/answer.json", str(tmp_path / "answer.json")
    )
    programs = {"python": system.python, "paceline": f"{system.python} -m paceline"}
    script = re.sub(r"\.venv/bin/(python|paceline)", lambda found: programs[found[1]], script)
    script = script.replace("r-1", "readme-1")
    done = subprocess.run(["bash", "-eu", "-c", script], cwd=ROOT, env=system.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"status": "won"' in done.stdout
    assert '"accepted":1' in done.stdout
    assert '"settled":590' in done.stdout
    assert '"predicted_roas":' in done.stdout
    assert "brand_roas_current{" in done.stdout
    token = done.stdout.rpartition("}")[2].strip()  # what curl prints ends without a line end
    assert token.count(".") == 2, "the last command makes a partner's token"
