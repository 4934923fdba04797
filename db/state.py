"""The state folder, in which one system keeps all files that outlive its processes (`STATE`, default `.state`)."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from db.environment import BadSetting


@dataclass(frozen=True, slots=True)
class State:
    """Paths inside the folder. Creating a `State` changes nothing on disk."""

    root: Path

    @classmethod
    def here(cls) -> State:
        """The folder that the environment names: `PACELINE_STATE`, else `STATE`, else `.state`."""
        named = (os.environ.get(name, "").strip() for name in ("PACELINE_STATE", "STATE"))
        return cls(Path(next(filter(None, named), ".state")).resolve())

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


def secret_file(path: Path) -> str:
    """The secret in a file, which is created on first use, readable for its owner only.

    Returns:
        64 hexadecimal digits, or what the owner has put there, without white space around it.

    Raises:
        BadSetting: the file exists, but holds no text.
        OSError: it cannot be read or created.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
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
