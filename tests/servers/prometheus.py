"""promtool, which knows what Prometheus will make of our rules: on PATH, or from the Debian package in the cache."""

import subprocess
from pathlib import Path

from tests.servers import debian
from tests.servers.process import cache_folder, find_program, locked


def promtool() -> Path:
    """Raises ServerUnavailable, with what to do, where there is none."""
    if found := find_program("promtool"):
        return found
    folder = cache_folder() / "prometheus"
    program = folder / "usr/bin/promtool"
    with locked(folder.with_suffix(".lock")):
        if not _runs(program):
            debian.announce("fetching promtool for the tests, once …")
            debian.unpack_package("prometheus", folder)
    return program


def _runs(program: Path) -> bool:
    try:
        return subprocess.run([program, "--version"], capture_output=True).returncode == 0
    except OSError:
        return False
