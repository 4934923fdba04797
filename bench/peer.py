"""Trains and starts the peer: what one would write by hand with FastAPI, uvicorn and LightGBM."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from bench.load import SHARED
from bench.system import DATA, System
from serve_app import token
from serve_app.launcher.ports import free_ports

PEER = SHARED / "bench" / "peer_fastapi.py"
TUNED, IDIOMATIC = "tuned peer (msgspec)", "idiomatic peer (pydantic)"
READY_S = 240.0


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[System, System]]:
    """The running peer's tuned route and its idiomatic one."""
    model, secret = folder / "peer.txt", secrets.token_hex(32)
    if not model.exists():
        subprocess.run([sys.executable, str(PEER), "train", str(DATA), str(model)], check=True)
    port = free_ports(1, salt=os.getpid() + 1)[0]
    command = [sys.executable, "-m", "uvicorn", "peer_fastapi:app", "--port", str(port), "--workers", "2"]
    environ = os.environ | {"PEER_MODEL": str(model), "PEER_SECRET": secret, "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen([*command, "--no-access-log", "--log-level", "warning"], cwd=PEER.parent, env=environ)
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{url}/docs")
                break
            if time.monotonic() > until or process.poll() is not None:
                raise RuntimeError(f"the peer did not answer at {url}/docs within {READY_S:g} s, or ended")
            time.sleep(0.2)
        bearer = token.make(secret, "admin", [], [], 24 * 3600, "bench")
        yield (
            System(TUNED, f"{url}/api/score", bearer, process.pid),
            System(IDIOMATIC, f"{url}/api/plain", bearer, process.pid),
        )
    finally:
        process.terminate()
        process.wait()
