"""Make `.venv` in the repository root what the lock files say: python tools/environment.py [--dev]

Only the standard library, for it runs before anything is installed. Safe to run twice at once (one waits), after an
interruption (a half-made environment is made anew) and beside a running system (nothing to do means nothing touched).
"""

import argparse
import fcntl
import hashlib
import importlib.util
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

SUPPORTED = ((3, 11), (3, 12))
ROOT = Path(__file__).resolve().parents[1]
REPORT_EVERY_S = 10.0


class SetupFailed(Exception):
    """Something that the person at the keyboard has to see to; the text says what."""


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--dev", action="store_true", help="also what tests, checks and benchmarks need")
    arguments.add_argument("--exact", action="store_true", help="of this Python's version; without it, any supported")
    chosen = arguments.parse_args()
    if sys.version_info[:2] not in SUPPORTED:
        print(f"Python 3.11 or 3.12 is needed, this is {sys.version.split()[0]}", file=sys.stderr)
        return 1
    locks = [ROOT / "requirements.lock", *([ROOT / "requirements-dev.lock"] if chosen.dev else [])]
    try:
        with only_one_at_a_time(ROOT / ".venv.lock"):
            prepare(Environment(ROOT / ".venv"), locks, exact=chosen.exact)
    except (SetupFailed, OSError) as error:
        print(f"environment: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("environment: interrupted; the next run starts it afresh", file=sys.stderr)
        return 130
    return 0


class Environment:
    """A virtual environment and what we noted in it.

    `.installing` is there while pip works: found later, it tells of an interruption, after which nothing in the
    folder can be trusted. `.installed-<lock>` holds the hash of what was installed, and where: programs in `bin/`
    name their interpreter by its whole path, so that a moved clone needs a new environment.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self._installing = folder / ".installing"

    def fault(self, exact: bool) -> str | None:
        """Why it must be made anew, or None."""
        if not self.folder.exists():
            return "missing"
        if self._installing.exists():
            return "left half-made"
        version = answer_of([str(self.python), "-c", "import sys; print(*sys.version_info[:2])"])
        if version is None:
            return "broken"
        if tuple(map(int, version.split())) not in ((sys.version_info[:2],) if exact else SUPPORTED):
            return f"of Python {version.replace(' ', '.')}"
        for stamp in self.folder.glob(".installed-*"):
            if stamp.read_text().split(maxsplit=1)[1:] != [str(self.folder)]:
                return "moved from elsewhere"
        return None

    def create(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self._installing.touch()
        # Debian's python3.11 has no ensurepip unless python3-venv is there; then the caller's pip does the work.
        venv.create(self.folder, with_pip=importlib.util.find_spec("ensurepip") is not None)
        self._installing.unlink()

    def has(self, lock: Path) -> bool:
        stamp = self._stamp(lock)
        return stamp.exists() and stamp.read_text() == self._mark(lock)

    def install(self, lock: Path) -> None:
        self._installing.touch()
        environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
        options = ["--require-hashes", "--no-deps", "--no-compile", "--progress-bar", "off"]
        run_pip([*self._pip(), "install", *options, "-r", str(lock)], environment, count_requirements(lock))
        self._compile()
        self._stamp(lock).write_text(self._mark(lock))
        self._installing.unlink()

    def _compile(self) -> None:
        """On all cores, where pip would take one; left undone, every process would where bytecode is not written.

        Whether it succeeds does not matter: some packages carry templates that are not Python.
        """
        command = [str(self.python), "-m", "compileall", "-q", "-j", "0", "-x", "/tests?/", str(self.folder / "lib")]
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)

    def _pip(self) -> list[str]:
        if answer_of([str(self.python), "-m", "pip", "--version"]):
            return [str(self.python), "-m", "pip"]
        if answer_of([sys.executable, "-m", "pip", "--version"]):
            return [sys.executable, "-m", "pip", "--python", str(self.python)]
        raise SetupFailed(f"{sys.executable} has neither ensurepip nor pip (Debian, Ubuntu: install python3-venv)")

    def _stamp(self, lock: Path) -> Path:
        return self.folder / f".installed-{lock.name}"

    def _mark(self, lock: Path) -> str:
        return f"{hashlib.sha256(lock.read_bytes()).hexdigest()} {self.folder}"


def prepare(environment: Environment, locks: list[Path], exact: bool) -> None:
    if fault := environment.fault(exact):
        of_version = f"Python {sys.version_info.major}.{sys.version_info.minor}"
        say(f"making {environment.folder.name} with {of_version}" + ("" if fault == "missing" else f" (was {fault})"))
        environment.create()
    for lock in locks:
        if not environment.has(lock):
            say(f"installing {count_requirements(lock)} packages from {lock.name} …")
            began = time.monotonic()
            environment.install(lock)
            say(f"installed in {time.monotonic() - began:.0f} s")


def run_pip(command: list[str], environment: dict[str, str], total: int) -> None:
    """Run pip with a line of news every ten seconds, and its last words if it fails."""
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    heard: list[str] = []
    began, next_report, unpacking, fetched = time.monotonic(), REPORT_EVERY_S, False, 0
    try:
        while True:
            try:
                line = lines.get(timeout=1.0)
                if line is None:
                    break
                heard.append(line)
                fetched += line.startswith(("Collecting ", "Requirement already", "Ignoring "))
                unpacking |= line.startswith("Installing collected")
            except queue.Empty:
                pass
            elapsed_s = time.monotonic() - began
            if elapsed_s >= next_report:
                next_report += REPORT_EVERY_S
                say(f"  {elapsed_s:.0f} s: " + ("unpacking" if unpacking else f"downloading, {fetched} of {total}"))
        status = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if status != 0:
        last_words = [line for line in heard if "ERROR" in line or "error" in line.lower()][-10:] or heard[-10:]
        raise SetupFailed("pip could not install the packages:\n  " + "\n  ".join(map(str.rstrip, last_words)))


def _pump(stream: IO[str], lines: "queue.SimpleQueue[str | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def count_requirements(lock: Path) -> int:
    return len(re.findall(r"^[A-Za-z0-9][\w.\[\],-]*\s*==", lock.read_text(), re.MULTILINE))


def answer_of(command: list[str]) -> str | None:
    """What a command prints, or None if it cannot."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@contextmanager
def only_one_at_a_time(path: Path) -> Iterator[None]:
    """The kernel lets go of the lock when we end, however we end."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another make to finish the environment …")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
