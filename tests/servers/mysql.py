"""A real MySQL 8.0 or newer: a given one, the machine's own, or a Debian root kept in the cache.

MariaDB does not count: its upserts, JSON and collations differ where Paceline cares. Where no MySQL can be had
the tests fail and say what to do; a skipped money test is a passed one to whoever reads the summary.
"""

import fcntl
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import pymysql
from sqlalchemy.engine import URL, make_url

from tests.servers import debian
from tests.servers.process import (
    ServerUnavailable,
    cache_folder,
    find_program,
    free_port,
    locked,
    spawn,
    stop,
    tail,
)

GIVEN_URL = "PACELINE_TEST_MYSQL_URL"
OLDEST = (8, 0)
START_PATIENCE_S = 60.0
ADVICE = (
    f"The tests need MySQL 8.0 or newer: set {GIVEN_URL}=mysql+aiomysql://user:password@host:port/ "
    "(an account that may create databases), or put mysqld on PATH, or run as root on Debian."
)


class MySqlServer:
    """A MySQL server for one test session: a context manager; what it made is gone when it closes.

    Args:
        buffer_pool: of a server of our own; small, for a test's data are.
    """

    def __init__(self, buffer_pool: str = "64M") -> None:
        self._local: _LocalServer | None = None
        self._created: list[str] = []
        if given := os.environ.get(GIVEN_URL):
            self._server = _given_server(given)
        else:
            self._local = _LocalServer(find_installation(), buffer_pool)
            self._server = self._local.start()
        try:
            self.version = self._checked_version()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def url(self, database: str) -> str:
        """The `mysql+aiomysql://` address of a database on this server."""
        return self._server.set(database=database).render_as_string(hide_password=False)

    def create_database(self) -> str:
        """Make an empty utf8mb4 database with a name of its own; returns its address."""
        name = f"paceline_test_{secrets.token_hex(6)}"
        self._execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
        self._created.append(name)
        return self.url(name)

    def drop_database(self, url: str) -> None:
        name = make_url(url).database
        if name not in self._created:
            raise ValueError(f"{name} was not made by these tests")
        self._execute(f"DROP DATABASE IF EXISTS `{name}`")
        self._created.remove(name)

    def close(self) -> None:
        if self._local is not None:
            self._local.close()  # its databases go with its folder
            self._local = None
        else:
            for name in list(self._created):
                self.drop_database(self.url(name))
        self._created.clear()

    def _checked_version(self) -> str:
        [[version]] = self._execute("SELECT VERSION()")
        if "mariadb" in version.lower() or _version_numbers(version) < OLDEST:
            raise ServerUnavailable(f"{version} is not MySQL 8.0 or newer. {ADVICE}")
        return str(version)

    def _execute(self, statement: str) -> list[tuple[str, ...]]:
        return execute(self._server, statement)


def connect(url: URL) -> "pymysql.connections.Connection[pymysql.cursors.Cursor]":
    """A plain connection for administration, autocommitting."""
    return pymysql.connect(
        host=url.host or "127.0.0.1",
        port=url.port or 3306,
        user=url.username,
        password=url.password or "",
        database=url.database or None,
        charset="utf8mb4",
        connect_timeout=5,
        autocommit=True,
    )


def execute(url: URL, statement: str) -> list[tuple[str, ...]]:
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


@dataclass(frozen=True, slots=True)
class Installation:
    """Where a mysqld is, and how to run it."""

    mysqld: Path
    """As mysqld's own file system names it."""
    root: Path | None = None
    """The Debian root to run in; None: the machine itself."""

    def command(self, *options: str) -> list[str]:
        chroot = ["chroot", str(self.root)] if self.root else []
        user = ["--user=root"] if os.geteuid() == 0 else []
        return [*chroot, str(self.mysqld), "--no-defaults", *user, *options]

    def version(self) -> str:
        """What `mysqld --version` says, or "" if it cannot run."""
        chroot = ["chroot", str(self.root)] if self.root else []
        try:
            done = subprocess.run([*chroot, str(self.mysqld), "--version"], capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout if done.returncode == 0 else ""

    def is_mysql(self) -> bool:
        version = self.version()
        return "mariadb" not in version.lower() and _version_numbers(version) >= OLDEST

    def outside(self, path: Path) -> Path:
        """Where the machine sees a path that mysqld sees as `path`."""
        return self.root / path.relative_to("/") if self.root else path


def find_installation() -> Installation:
    """The machine's MySQL, else the one in the cached Debian root, building it on first use.

    Raises:
        ServerUnavailable: there is neither, with what to do about it.
    """
    if (found := find_program("mysqld")) and (own := Installation(found)).is_mysql():
        return own
    root = cache_folder() / "mysql-root"
    cached = Installation(Path("/usr/sbin/mysqld"), root)
    if os.geteuid() != 0:
        raise ServerUnavailable(f"{ADVICE} (No mysqld on PATH is MySQL, and a Debian root needs root.)")
    with locked(root.with_suffix(".lock")):
        if not cached.is_mysql():
            debian.announce("building a Debian root with MySQL for the tests, once (about a minute) …")
            debian.remove_root(root)
            try:
                debian.build_root(root, ["mysql-server-core"])
            except ServerUnavailable as error:
                raise ServerUnavailable(f"{ADVICE}\n{error}") from None
            if not cached.is_mysql():
                raise ServerUnavailable(f"{ADVICE} (The Debian root holds no MySQL that runs: {cached.version()!r})")
    return cached


class _LocalServer:
    """One mysqld with its own data, port and socket."""

    def __init__(self, installation: Installation, buffer_pool: str) -> None:
        self._installation = installation
        self._buffer_pool = buffer_pool
        self._process: subprocess.Popen[bytes] | None = None
        # Inside a Debian root /tmp is the root's own. Short, for a socket's path has 107 bytes at most.
        parent = installation.outside(Path("/tmp" if installation.root else tempfile.gettempdir()))
        with locked(cache_folder() / "mysql-runs.lock"):
            _remove_abandoned(parent)
            self._folder = Path(tempfile.mkdtemp(prefix="paceline-mysql-", dir=parent))
            self._claim = _claim(self._folder)

    def start(self) -> URL:
        """Returns the address of the administrator, with a password made up for this run."""
        try:
            data = self._folder / "data"
            shutil.copytree(_template(self._installation), data)
            for _ in range(3):  # another process may take the port between our look and mysqld's
                if server := self._try_start(data):
                    return self._with_password(server)
            raise ServerUnavailable(f"mysqld does not start:\n{tail(self._folder / 'log')}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._process is not None:
            stop(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._claim.close()

    def _try_start(self, data: Path) -> URL | None:
        port = free_port()
        folder = _inside(self._installation, self._folder)
        socket = f"{folder}/sock"
        self._process = spawn(
            self._installation.command(
                f"--datadir={_inside(self._installation, data)}",
                f"--port={port}",
                f"--socket={socket}",
                f"--pid-file={folder}/pid",
                "--bind-address=127.0.0.1",
                "--mysqlx=OFF",
                "--secure-file-priv=NULL",
                *LEAN,
                f"--innodb-buffer-pool-size={self._buffer_pool}",
                # A test's data need not survive the machine, only mysqld.
                "--innodb-flush-log-at-trx-commit=2",
                "--skip-innodb-doublewrite",
            ),
            self._folder / "log",
        )
        server = URL.create("mysql+aiomysql", "root", None, "127.0.0.1", port)
        patience_ends = time.monotonic() + START_PATIENCE_S
        while self._process.poll() is None and time.monotonic() < patience_ends:
            try:
                if execute(server, "SELECT @@socket") == [(socket,)]:  # ours, not a neighbour's on the same port
                    return server
            except pymysql.err.OperationalError:
                pass
            time.sleep(0.05)
        stop(self._process)
        return None

    def _with_password(self, server: URL) -> URL:
        """A real one, so that the tests log in the way that production does (caching_sha2_password)."""
        password = secrets.token_hex(16)
        execute(server, f"ALTER USER 'root'@'localhost' IDENTIFIED BY '{password}'")
        return server.set(password=password)


LEAN = (
    "--skip-log-bin",
    "--performance-schema=OFF",
    "--loose-innodb-redo-log-capacity=16M",  # loose: MySQL 8.0.30 brought it
    "--innodb-log-buffer-size=4M",
)


def _template(installation: Installation) -> Path:
    """A data directory as `mysqld --initialize-insecure` leaves it, made once and copied from then on."""
    name = "paceline-template-" + re.sub(r"[^\w.]+", "-", installation.version().split("Ver")[-1]).strip("-")
    parent = installation.outside(Path("/var/lib")) if installation.root else cache_folder()
    template = parent / name
    with locked(parent / f"{name}.lock"):
        if not template.exists():
            partial = parent / f"{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(mode=0o750)
            done = subprocess.run(
                installation.command("--initialize-insecure", f"--datadir={_inside(installation, partial)}", *LEAN),
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                raise ServerUnavailable(f"mysqld --initialize failed:\n{done.stderr[-2000:]}")
            partial.rename(template)
    return template


def _inside(installation: Installation, path: Path) -> Path:
    """Where mysqld sees a path of the machine."""
    return Path("/") / path.relative_to(installation.root) if installation.root else path


def _claim(folder: Path) -> IO[str]:
    """Mark a folder as in use for as long as the returned file is open; the kernel lets go if we are killed."""
    claim = (folder / "claim").open("w")
    fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return claim


def _remove_abandoned(parent: Path) -> None:
    """Delete what killed test runs left behind."""
    for folder in parent.glob("paceline-mysql-*"):
        try:
            claim = _claim(folder)
        except OSError:
            continue  # in use, or somebody else's
        with claim:
            shutil.rmtree(folder, ignore_errors=True)


def _given_server(url: str) -> URL:
    given = make_url(url)
    if given.get_backend_name() != "mysql":
        raise ServerUnavailable(f"{GIVEN_URL} must begin with mysql+aiomysql://")
    return given.set(drivername="mysql+aiomysql")


def _version_numbers(text: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else ()
