"""The state folder, in which one system keeps all files that outlive its processes (`STATE`, default `.state`)."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from db.environment import BadSetting

OURS = (
    *("paceline.db*", "models", "reports", "registry", "night", "history", "redis", "logs"),
    *("jwt_secret", "model_key", "ray_token", "lock", "*.lock", "run.json"),
)
"""What Paceline writes into a state folder."""


@dataclass(frozen=True, slots=True)
class State:
    """Paths inside the folder. Creating a `State` changes nothing on disk."""

    root: Path

    @classmethod
    def here(cls) -> State:
        """The folder that the environment names: `PACELINE_STATE`, else `STATE`, else `.state`."""
        named = (os.environ.get(name, "").strip() for name in ("PACELINE_STATE", "STATE"))
        return cls(Path(next(filter(None, named), ".state")).resolve())

    def make(self) -> None:
        """The folder, if there is none yet; it and what this process writes from now on is for its user alone.

        Raises:
            OSError: it cannot be made.
        """
        keep_private()
        self.root.mkdir(parents=True, exist_ok=True)

    def close_to_others(self) -> None:
        """Take other users' rights from what lies in the folder: a version before gave what the umask gave.

        Only from what is Paceline's, since the folder may be one that holds other things, too; and never from a folder
        that is everybody's, as /tmp is.
        """
        if not self.root.stat().st_mode & stat.S_ISVTX:
            _close(self.root)
        for name in OURS:
            for path in self.root.glob(name):
                for each in _all_below(path):
                    _close(each)

    @property
    def database(self) -> Path:
        return self.root / "paceline.db"

    @property
    def models(self) -> Path:
        """One directory for each model version."""
        return self.root / "models"

    @property
    def reports(self) -> Path:
        """A page and its figures for each version that a night has made."""
        return self.root / "reports"

    @property
    def registry(self) -> Path:
        """The Git repository that receives each published `roas_model.json`, unless another one is configured."""
        return self.root / "registry"

    @property
    def night(self) -> Path:
        """The finished steps of a night that is not over."""
        return self.root / "night"

    @property
    def jwt_secret(self) -> Path:
        return self.root / "jwt_secret"

    @property
    def model_key(self) -> Path:
        """Signs model manifests."""
        return self.root / "model_key"

    @property
    def ray_token(self) -> Path:
        return self.root / "ray_token"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def run(self) -> Path:
        """Ports and addresses of the system that runs on this folder, or ran last."""
        return self.root / "run.json"

    @property
    def scratch(self) -> Path:
        """Sockets and Ray's session. The path is short, and not under TMPDIR, because HAProxy allows 97 bytes for a
        socket's path, of which Ray takes 57 for a node's name."""
        digest = hashlib.sha256(str(self.root).encode()).hexdigest()[:8]
        return Path("/tmp") / f"pl-{digest}"

    @property
    def redis_socket(self) -> Path:
        return self.scratch / "redis.sock"

    def running(self) -> dict[str, Any]:
        """The content of `run.json`; empty if nothing ever ran here."""
        try:
            content = json.loads(self.run.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def keep_private() -> None:
    """What this process, and those that it starts, writes from now on is for its user alone: files 600, folders 700."""
    os.umask(0o077)


def _all_below(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir() and not path.is_symlink():
        for folder, folders, files in os.walk(path):
            yield from (Path(folder, name) for name in (*folders, *files))


def _close(path: Path) -> None:
    with suppress(FileNotFoundError):
        found = path.lstat()
        if not stat.S_ISLNK(found.st_mode) and found.st_mode & 0o077 and found.st_uid == os.geteuid():
            path.chmod(stat.S_IMODE(found.st_mode) & ~0o077)


def secret_file(path: Path) -> str:
    """The secret in a file, which is created on first use, readable for its owner only.

    Returns:
        64 hexadecimal digits, or what the owner has put there, without white space around it.

    Raises:
        BadSetting: the file exists, but holds no text.
        OSError: it cannot be read or created.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 600
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):  # another process was first; its secret counts
                os.link(draft, path)
        finally:
            os.unlink(draft)
    try:
        secret = path.read_text().strip()
    except UnicodeDecodeError:
        secret = ""
    if not secret:
        raise BadSetting([f"{path} holds no key; delete it, and a new one is made"])
    return secret
