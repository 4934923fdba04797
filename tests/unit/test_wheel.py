"""What of Paceline is installed: by a wheel the command alone, in `.venv` the repository itself."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from uv import find_uv_bin

ROOT = Path(__file__).resolve().parents[2]


def uv(*arguments: str | Path) -> None:
    subprocess.run([find_uv_bin(), "--offline", "--quiet", *arguments], check=True, cwd=ROOT)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--wheel", "--out-dir", folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    uv("venv", "--python", sys.executable, tmp_path / "venv")
    return tmp_path / "venv"


def install(environment: Path, *what: str | Path) -> None:
    uv("pip", "install", "--python", environment, "--no-deps", *what)


def test_a_wheel_has_one_top_level_package(wheel):
    names = {Path(name).parts[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"paceline"}


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """From a folder that has nothing to do with it, and without this test run's own PYTHONPATH."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([program, *arguments], cwd="/", env=variables, capture_output=True, text=True)


def test_an_installed_wheel_says_that_paceline_runs_from_its_repository(wheel, environment):
    install(environment, wheel)
    done = run(environment / "bin" / "paceline", "run")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "runs from a clone of its repository" in line
    assert "make run" in line


def test_an_editable_install_finds_the_repository_from_any_folder(environment):
    install(environment, "--editable", ROOT)
    found = "import db, ledger, paceline, serve_app, training; print(db.__path__[0])"
    done = run(environment / "bin" / "python", "-c", found)
    assert (done.stdout.strip(), done.returncode) == (str(ROOT / "db"), 0)
    assert "runs from a clone" not in run(environment / "bin" / "paceline").stderr
