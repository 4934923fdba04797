"""What is wrong with a state folder is said before anything is started, in a line, and nothing in it is changed."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import make_url

from db.errors import CannotMigrate, UserError
from db.schema import upgrade
from db.settings import DatabaseSettings
from db.sqlite_file import known_revisions, url_of
from db.state import State
from serve_app.launcher import machine, state_folder
from serve_app.launcher.errors import CannotRun
from serve_app.settings import Settings

ROOT = Path(__file__).resolve().parents[4]
ROOM = 1 << 40


@pytest.fixture
def state(tmp_path) -> State:
    found = State(tmp_path / "state")
    state_folder.make(found)
    return found


def prepare(state: State) -> None:
    state_folder.make(state)
    state_folder.check(state, Settings())


CODE = """
import sys
from pathlib import Path
from db.state import State
from serve_app.launcher import state_folder
from serve_app.launcher.errors import CannotRun
for folder in sys.argv[1:]:
    try:
        state_folder.make(State(Path(folder)))
        print("made")
    except CannotRun as error:
        print(error)
"""


def as_somebody(*folders: Path) -> list[str]:
    """What `make` says of each to a user without root's rights."""
    rights = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    command = [*rights, sys.executable, "-c", CODE, *map(str, folders)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_folder_is_made_with_those_above_it(tmp_path):
    prepare(State(tmp_path / "a" / "b"))
    prepare(State(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_is_no_folder(tmp_path, below):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(CannotRun, match=f"STATE={file}"):
        prepare(State(file / below))


@pytest.mark.parametrize("name", ["logs", "models", "redis", "history", "registry", "reports", "night"])
def test_a_file_where_a_folder_belongs_is_named(state, name):
    (state.root / name).touch()
    with pytest.raises(CannotRun, match=f"{name} is a file where a folder belongs; remove it"):
        prepare(state)


@pytest.mark.parametrize("name", ["lock", "run.json", "jwt_secret", "ray_token", "model_key"])
def test_a_folder_where_a_file_belongs_is_named(state, name):
    (state.root / name).mkdir()
    with pytest.raises(CannotRun, match=f"{name} is no file; remove it"):
        prepare(state)


def test_what_this_user_may_not_use_is_named_with_its_owner(tmp_path):
    modes = {"": 0o555, "logs": 0o555, "lock": 0o444, "model_key": 0o000}
    folders = [tmp_path / str(number) for number in range(len(modes))]
    spoilt = []
    for folder, (name, mode) in zip(folders, modes.items(), strict=True):
        (folder / "logs").mkdir(parents=True)
        for file in ("lock", "model_key"):
            (folder / file).touch(0o600)
        spoilt.append(folder / name)
        spoilt[-1].chmod(mode)
    readable = tmp_path / "readable"
    readable.mkdir()
    (readable / "model_key").touch(0o400)
    *said, of_readable = as_somebody(*folders, readable)
    me = state_folder.user_of(os.getuid())
    for path, line in zip(spoilt, said, strict=True):
        assert f"{path} of {me}; change that, or name another folder: STATE=" in line
        path.chmod(0o700)
    assert of_readable == "made"


def filled(state: State) -> Path:
    upgrade(url_of(state.database))
    with closing(sqlite3.connect(state.database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return state.database


def of_a_newer_version(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


def of_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (of_a_newer_version, "used by a newer Paceline. Run that version, or restore a backup"),
        (of_a_folder, "that is a folder; remove it"),
        (lambda file: os.truncate(file, 40_000), "malformed; it is damaged: put a backup of it in its place"),
        (lambda file: file.write_bytes(b"x" * 5000), "not a database; it is damaged"),
    ],
)
def test_a_database_that_cannot_be_used_is_named_and_left_alone(
    state: State, spoil: Callable[[Path], object], said: str
) -> None:
    file = filled(state)
    kept = file.read_bytes()
    spoil(file)
    spoilt = file.read_bytes() if file.is_file() else None
    with pytest.raises(CannotMigrate, match=said) as told:
        prepare(state)
    assert str(file) in str(told.value) or "newer" in said
    assert (file.read_bytes() if file.is_file() else None) == spoilt
    if file.is_dir():
        file.rmdir()
    file.write_bytes(kept)
    prepare(state)


def test_an_empty_database_is_as_good_as_none(state):
    state.database.touch()
    prepare(state)
    upgrade(url_of(state.database))
    prepare(state)


def test_alembic_knows_the_same_revisions(state):
    from alembic.script import ScriptDirectory

    from db.schema import config

    assert known_revisions() == {script.revision for script in ScriptDirectory.from_config(config("")).walk_revisions()}


@pytest.mark.parametrize(
    "name", ["a b", "ä ö", "100%", "a%20b", "a?b=c", "a#b", "a'b\"c", "a:b@c", "a\\b", "$HOME;[x]*"]
)
def test_a_folder_may_have_any_name(tmp_path, name):
    state = State(tmp_path / name)
    url = DatabaseSettings().at(state).url
    assert url is not None
    assert make_url(url).database == str(state.database)
    prepare(state)
    with closing(sqlite3.connect(state.database)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('9999')")
    with pytest.raises(CannotMigrate, match="newer"):
        prepare(state)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=100", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_without_room_is_named(small_disk, monkeypatch):
    with pytest.raises(CannotRun, match=f"no disk space: {small_disk} has . MiB left, 512 MiB are needed"):
        machine.check_room(small_disk, 512 << 20)
    with pytest.raises(CannotRun, match="can hold 99 more files"):
        machine.check_room(small_disk, 1 << 20)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(CannotRun, match=r"can only be read|may not read and write"):
        state_folder.make(State(small_disk))


def test_sockets_of_another_user_are_named(state, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    try:
        with pytest.raises(UserError, match=f"{state.scratch} belongs to"):
            state_folder.make_scratch(state)
    finally:
        state.scratch.rmdir()


def test_a_run_leaves_no_empty_folder_for_sockets(state):
    state_folder.make_scratch(state)
    (state.scratch / "ray").mkdir()
    state_folder.remove_empty_scratch(state)
    assert state.scratch.is_dir()
    (state.scratch / "ray").rmdir()
    state_folder.remove_empty_scratch(state)
    assert not state.scratch.exists()


def modes(folder: Path) -> dict[str, int]:
    found = {"": folder.lstat().st_mode & 0o777}
    return found | {
        str(path.relative_to(folder)): path.lstat().st_mode & 0o777
        for path in folder.rglob("*")
        if not path.is_symlink()
    }


def test_what_a_version_before_left_open_is_closed_to_others(tmp_path):
    root = tmp_path / "state"
    for folder in ("models/v1", "registry/.git/hooks", "redis", "logs", "mine"):
        (root / folder).mkdir(parents=True)
    ours = ["paceline.db", "paceline.db-wal", "models/v1/manifest.json", "redis/dump.rdb", "logs/ray.log", "run.json"]
    for file in (*ours, "mine/notes.txt"):
        (root / file).touch()
        (root / file).chmod(0o644)
    hook, outside = root / "registry/.git/hooks/hook", tmp_path / "outside"
    for path in (hook, outside):
        path.touch()
        path.chmod(0o755)
    (root / "models" / "v0").symlink_to(outside)
    for path in (root, *root.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    State(root).close_to_others()
    found = modes(root)
    assert {found[name] for name in ours} == {0o600}
    assert found["registry/.git/hooks/hook"] == 0o700, "what can be run still can"
    assert {found[name] for name in ("", "models", "models/v1", "registry/.git", "redis", "logs")} == {0o700}
    assert (found["mine"], found["mine/notes.txt"]) == (0o755, 0o644), "what is not Paceline's stays as it is"
    assert outside.stat().st_mode & 0o777 == 0o755, "a link is not followed"


def test_a_folder_that_is_everybodys_stays_so(tmp_path):
    tmp_path.chmod(0o1777)
    State(tmp_path).close_to_others()
    assert tmp_path.stat().st_mode & 0o7777 == 0o1777


MAKES = """
import os, sys
from pathlib import Path
os.umask(0o000)
from db.schema import upgrade
from db.sqlite_file import url_of
from db.state import State, secret_file
from serve_app.launcher import state_folder
state = State(Path(sys.argv[1]))
state_folder.make(state)
state.logs.mkdir()
upgrade(url_of(state.database))
secret_file(state.jwt_secret)
"""


def test_what_is_made_is_for_its_user_alone_whatever_the_umask(tmp_path):
    root = tmp_path / "state"
    subprocess.run([sys.executable, "-c", MAKES, str(root)], cwd=ROOT, check=True)
    found = modes(root)
    assert {"paceline.db", "jwt_secret", "logs"} <= found.keys()
    assert {name: oct(mode) for name, mode in found.items() if mode & 0o077} == {}
