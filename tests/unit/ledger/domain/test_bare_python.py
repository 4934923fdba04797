"""The rules of money need nothing that is installed: whoever wants to check a sum by hand can."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
NEED_PYDANTIC = {"settings"}
MODULES = sorted(path.stem for path in (ROOT / "ledger" / "domain").glob("*.py") if not path.stem.startswith("_"))


@pytest.mark.parametrize("name", [name for name in MODULES if name not in NEED_PYDANTIC])
def test_a_rule_of_money_runs_where_nothing_is_installed(name):
    program = (
        f"import ledger.domain.{name}; import sys; print(sorted(set(sys.modules) & {{'ray', 'pydantic', 'numpy'}}))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_there_nothing_is_installed():
    done = subprocess.run([sys.executable, "-I", "-S", "-c", "import pydantic"], capture_output=True, text=True)
    assert "No module named 'pydantic'" in done.stderr
