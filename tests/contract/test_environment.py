"""`make venv` in a small repository with the real Makefile, tools/environment.py and uv, and an index of its own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from uv import find_uv_bin

from tests.contract.package_index import PYPROJECT, Index

ROOT = Path(__file__).resolve().parents[2]
BASE = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
MAIN = 'def main():\n    print("the repository\'s own")\n'


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """`fast` needs `deep`; `tool` is for development; `uv` is a program that calls the real one."""
    index = Index(tmp_path_factory.mktemp("index"))
    index.add("fast", "deep", bytes_=2 << 20)
    index.add("deep")
    index.add("tool")
    index.add("late")
    index.add("uv", version="0.9.99", program=f'#!/bin/sh\nexec {find_uv_bin()} "$@"\n')
    return index.folder


@pytest.fixture
def index(packages) -> Iterator[Index]:
    with Index(packages).served() as index:
        yield index


class Clone:
    def __init__(self, folder: Path, index: Index) -> None:
        self.folder = folder
        self.lock = folder / "requirements.lock"
        self.project = folder / "pyproject.toml"
        programs = folder.parent / "programs"
        programs.mkdir()
        (programs / "uv").symlink_to(find_uv_bin())
        (programs / "python3.11").symlink_to(BASE)  # the first that the Makefile looks for, whatever its version
        self.variables = {
            "HOME": str(folder.parent),
            "PATH": f"{programs}:/usr/bin:/bin",
            "UV_CACHE_DIR": str(folder.parent / "cache"),
            "UV_DEFAULT_INDEX": index.url,
            "UV_HTTP_RETRIES": "0",
            "PIP_INDEX_URL": index.url,
            "PIP_RETRIES": "0",
        }

    def start(self, target: str, **variables: str) -> subprocess.Popen[bytes]:
        """In a process group of its own, with SIGINT ignored, as a script's `make … &` has it."""
        command = ["/bin/sh", "-c", f"trap '' INT; exec make {target} 2>&1"]
        # From a pipe, what is said could be read only when all that was started has ended.
        self.said = self.folder.parent / f"said-{time.monotonic_ns()}"
        with self.said.open("w") as out:
            return subprocess.Popen(
                command, cwd=self.folder, env={**self.variables, **variables}, stdout=out, process_group=0
            )

    def make(self, target: str = "venv", **variables: str) -> tuple[int, str]:
        """make's exit code and what was said."""
        code = self.start(target, **variables).wait(120)
        return code, self.said.read_text()

    def installed(self) -> set[str]:
        return set(self.answer_of("python", "-c", FOUND).split())

    def answer_of(self, program: str, *arguments: str) -> str:
        """What a program of `.venv` prints, called from a folder that has nothing to do with it."""
        command = [self.folder / ".venv" / "bin" / program, *arguments]
        return str(subprocess.check_output(command, text=True, cwd="/", env=self.variables))

    def wait_for(self, text: str, said: Path | None = None) -> None:
        wait_until(lambda: text in (said or self.said).read_text())

    def processes(self) -> list[int]:
        """Those that name this folder."""
        found = []
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if str(self.folder).encode() in place.read_bytes():
                    found.append(int(place.parent.name))
            except OSError:  # has ended
                continue
        return found


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


FOUND = """
import importlib.util
print(*(name for name in ("fast", "deep", "tool", "late", "paceline") if importlib.util.find_spec(name)))
"""


@pytest.fixture
def clone(tmp_path, index) -> Clone:
    folder = tmp_path / "clone"
    (folder / "tools").mkdir(parents=True)
    (folder / "paceline").mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / "tools" / "environment.py", folder / "tools")
    (folder / "paceline" / "__init__.py").touch()
    (folder / "paceline" / "__main__.py").write_text(MAIN)
    project = PYPROJECT.format(name="paceline", version="0.1", needs='"fast"', module="paceline")
    extras = '[project.optional-dependencies]\ndev = ["tool", "uv"]\n'
    command = '[project.scripts]\npaceline = "paceline.__main__:main"\n'
    clone = Clone(folder, index)
    clone.project.write_text(project.replace("[build-system]", f"{extras}{command}[build-system]"))
    resolve = (
        "pip compile --quiet --universal --generate-hashes --all-extras --no-header --no-annotate --python-version 3.11"
    )
    command_line = [find_uv_bin(), *resolve.split(), "--python", str(BASE), "pyproject.toml", "-o", str(clone.lock)]
    subprocess.run(
        command_line, check=True, cwd=folder, env={**clone.variables, "UV_CACHE_DIR": str(tmp_path / "other")}
    )
    index.asked.clear()
    return clone


def test_it_installs_what_is_asked_for_and_then_has_nothing_to_do(clone, index):
    code, said = clone.make()
    assert (code, clone.installed()) == (0, {"fast", "deep", "paceline"}), said
    assert clone.answer_of("paceline") == "the repository's own\n"
    assert list((clone.folder / ".venv").rglob("fast/__pycache__/__init__.*.pyc"))

    before = {path: path.stat().st_mtime_ns for path in (clone.folder / ".venv").rglob("*")}
    index.asked.clear()
    assert clone.make() == (0, "")
    assert {path: path.stat().st_mtime_ns for path in (clone.folder / ".venv").rglob("*")} == before
    assert index.asked == []

    assert clone.make("venv-dev")[0] == 0
    assert clone.installed() == {"fast", "deep", "tool", "paceline"}
    assert clone.make() == (0, "")


def test_what_is_in_uvs_cache_is_installed_without_a_network(clone):
    assert clone.make()[0] == 0
    shutil.rmtree(clone.folder / ".venv")
    code, said = clone.make(UV_OFFLINE="1")
    assert (code, clone.installed()) == (0, {"fast", "deep", "paceline"}), said


@pytest.mark.parametrize("package", ["fast", "deep"], ids=["named in pyproject.toml", "needed by another"])
@pytest.mark.parametrize("cached", [False, True])
def test_a_package_with_another_hash_is_not_installed(clone, package, cached):
    if cached:
        assert clone.make()[0] == 0
        shutil.rmtree(clone.folder / ".venv")
    lock = clone.lock.read_text()
    spoilt = lock.index("sha256:", lock.index(f"{package}=="))
    clone.lock.write_text(f"{lock[:spoilt]}sha256:{'0' * 64}{lock[spoilt + 71 :]}")
    code, said = clone.make(UV_NO_VERIFY_HASHES="1")
    assert code == 2
    assert "environment: a package is not the one that requirements.lock pins" in said
    assert clone.installed() <= {"paceline"}
    clone.lock.write_text(lock)
    assert clone.make()[0] == 0


def test_a_new_dependency_is_locked_first(clone):
    assert clone.make("venv-dev")[0] == 0
    clone.project.write_text(clone.project.read_text().replace('"fast"', '"fast", "late"'))
    code, said = clone.make("venv-dev")
    assert code == 2
    assert "requirements.lock does not cover pyproject.toml, `make lock` renews it" in said
    code, said = clone.make("lock")
    assert (code, "late==1.0" in clone.lock.read_text()) == (0, True), said
    assert "://" not in clone.lock.read_text()
    assert clone.make("venv-dev")[0] == 0
    assert "late" in clone.installed()


def test_formatting_rules_in_pyproject_are_no_reason_to_install(clone):
    assert clone.make()[0] == 0
    clone.project.write_text(f"{clone.project.read_text()}\n[tool.ruff]\nline-length = 100\n")
    assert clone.make() == (0, "")


def test_a_moved_clone_gets_a_new_environment(clone):
    assert clone.make()[0] == 0
    clone.folder = clone.folder.rename(clone.folder.with_name("moved"))
    code, said = clone.make()
    assert code == 0
    assert "was moved from elsewhere" in said
    assert clone.answer_of("paceline") == "the repository's own\n"


def test_a_broken_interpreter_is_replaced(clone):
    assert clone.make()[0] == 0
    python = clone.folder / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3.11")
    code, said = clone.make()
    assert code == 0
    assert "was broken" in said


def test_two_at_once_wait_for_each_other_and_tell_what_they_wait_for(clone, index):
    index.flowing.clear()
    first, first_said = clone.start("venv"), clone.said
    clone.wait_for("installing", first_said)
    second = clone.start("venv")
    clone.wait_for("waiting for another make")
    clone.wait_for("10 s: downloading fast (2.0MiB)", first_said)
    assert clone.processes() != []
    index.flowing.set()
    assert (first.wait(60), second.wait(60)) == (0, 0)
    assert "installing" not in clone.said.read_text()


@pytest.mark.parametrize(
    ("number", "group", "code"),
    [(signal.SIGINT, True, 2), (signal.SIGTERM, False, -signal.SIGTERM), (signal.SIGHUP, True, None)],
    ids=["Ctrl-C", "kill make", "terminal closed"],
)
def test_an_interruption_leaves_nothing_and_the_next_run_repairs(clone, index, number, group, code):
    index.flowing.clear()
    made = clone.start("venv")
    wait_until(lambda: any(path.endswith(".whl") for path in index.asked))
    (os.killpg if group else os.kill)(made.pid, number)
    assert code in (made.wait(10), None)
    clone.wait_for("environment: interrupted")
    wait_until(lambda: clone.processes() == [])
    index.flowing.set()
    said = clone.make()
    assert said[0] == 0
    assert "was left half-made" in said[1]
    assert clone.installed() == {"fast", "deep", "paceline"}


def test_after_a_kill_the_next_run_waits_for_what_was_left_and_repairs(clone, index):
    index.flowing.clear()
    made = clone.start("venv")
    wait_until(lambda: any(path.endswith(".whl") for path in index.asked))
    os.killpg(made.pid, signal.SIGKILL)
    made.wait(10)
    assert clone.processes() != []  # uv goes on
    again = clone.start("venv")
    clone.wait_for("waiting for another make")
    index.flowing.set()
    assert again.wait(60) == 0
    assert "was left half-made" in clone.said.read_text()
    assert clone.installed() == {"fast", "deep", "paceline"}


def test_without_uv_pip_installs_the_locked_one(clone):
    (clone.folder.parent / "programs" / "uv").unlink()
    code, said = clone.make()
    assert (code, clone.installed()) == (0, {"fast", "deep", "paceline"}), said
    assert "installing uv with pip" in said
    assert (clone.folder / ".venv" / "bin" / "uv").exists()


def test_uv_itself_is_hash_checked(clone):
    (clone.folder.parent / "programs" / "uv").unlink()
    lock = clone.lock.read_text()
    spoilt = lock.index("sha256:", lock.index("uv=="))
    clone.lock.write_text(f"{lock[:spoilt]}sha256:{'0' * 64}{lock[spoilt + 71 :]}")
    code, said = clone.make()
    assert code == 2
    assert "environment: a package is not the one that requirements.lock pins" in said
    assert not (clone.folder / ".venv" / "bin" / "uv").exists()


def test_a_uv_that_is_too_old_is_not_used(clone):
    old = clone.folder.parent / "programs" / "uv"
    old.unlink()
    old.write_text("#!/bin/sh\necho uv 0.4.30\n")
    old.chmod(0o755)
    code, said = clone.make()
    assert code == 0
    assert "installing uv with pip" in said


def test_pips_index_holds_where_uv_has_none(clone, index):
    del clone.variables["UV_DEFAULT_INDEX"]
    assert clone.make()[0] == 0
    assert any(path.endswith(".whl") for path in index.asked)


def test_pips_configuration_file_holds_where_uv_has_no_index(clone, index):
    del clone.variables["UV_DEFAULT_INDEX"], clone.variables["PIP_INDEX_URL"]
    configuration = clone.folder.parent / "pip.conf"
    configuration.write_text(f"[global]\nindex-url = {index.url}\n")
    code, said = clone.make(PIP_CONFIG_FILE=str(configuration))
    assert code == 0, said
    assert any(path.endswith(".whl") for path in index.asked)


def test_no_network_is_one_line(clone):
    code, said = clone.make(UV_DEFAULT_INDEX="http://127.0.0.1:9/simple")
    (line,) = [line for line in said.splitlines() if line.startswith("environment:")]
    assert code == 2
    assert line.startswith(
        "environment: the package index http://127.0.0.1:9/simple does not answer: check the network, or"
    )
    assert "UV_DEFAULT_INDEX" in line
    assert clone.make()[0] == 0


def test_no_network_without_uv_is_one_line(clone):
    (clone.folder.parent / "programs" / "uv").unlink()
    code, said = clone.make(UV_DEFAULT_INDEX="", PIP_INDEX_URL="http://me:secret@127.0.0.1:9/simple")
    assert code == 2
    assert "environment: the package index http://127.0.0.1:9/simple does not answer: check the network" in said
    assert "secret" not in said


@pytest.mark.parametrize("spoil", ["a file", "a link to nowhere", "a stamp without lines", "a stamp of rubbish"])
def test_whatever_stands_where_the_environment_belongs_is_replaced(clone, spoil):
    place = clone.folder / ".venv"
    if spoil == "a file":
        place.touch()
    elif spoil == "a link to nowhere":
        place.symlink_to("/nowhere/at/all")
    else:
        place.mkdir()
        (place / ".installed").write_bytes(b"\n" if spoil == "a stamp without lines" else b"\xff\x00" * 9)
    code, said = clone.make()
    assert (code, clone.installed()) == (0, {"fast", "deep", "paceline"}), said


WITHOUT_VENV = """#!/bin/sh
[ "$2" = -c ] && exec {base} "$@"
shift
exec {base} -I -c "import runpy, sys; sys.modules['venv'] = None; sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')" "$@"
"""


def test_a_python_that_cannot_make_environments_is_one_line(clone):
    python = clone.folder.parent / "programs" / "python"
    python.write_text(WITHOUT_VENV.format(base=BASE))
    python.chmod(0o755)
    code, said = clone.make(PYTHON=str(python))
    (line, _) = [line for line in said.splitlines() if not line.startswith("making")]
    assert code == 2
    assert "has no module venv: install it (Debian, Ubuntu: apt install python3-venv), or name another Python" in line


def test_a_clone_that_cannot_be_written_is_one_line_with_the_cure(clone):
    (clone.folder / ".venv.lock").mkdir()
    code, said = clone.make()
    assert code == 2
    assert said.splitlines()[0] == f"environment: {clone.folder}/.venv.lock: Is a directory; remove it, and start again"


def test_a_cache_that_cannot_be_written_is_done_without(clone):
    code, said = clone.make(UV_CACHE_DIR="/proc/nowhere")
    assert (code, clone.installed()) == (0, {"fast", "deep", "paceline"}), said
    assert not (clone.folder / ".venv" / ".cache").exists()


@pytest.mark.parametrize("python", ["/bin/false", "/nowhere/python3.11"])
def test_an_interpreter_that_does_not_fit_is_one_line(clone, python):
    code, said = clone.make(PYTHON=python)
    assert code == 2
    assert said.splitlines()[0] == (
        f"Python 3.11 or 3.12 is needed and was not found at {python}; PYTHON=/path/to/python3.11 make … names one"
    )


def test_the_lock_names_no_host_and_pins_every_package_with_its_hashes():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    packages = lock.split("\n")
    for number, line in enumerate(packages):
        if line and not line.startswith(" "):
            assert "==" in line
            assert "--hash=sha256:" in packages[number + 1], line
