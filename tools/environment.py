"""Make `.venv` what pyproject.toml asks for, as requirements.lock pins it.

    python tools/environment.py [--exact] [EXTRA …]

Needs only the standard library: uv does the work, and pip installs uv where PATH has none that fits. Two runs at once
are safe (one waits), and so are an interruption (a half-made environment is made anew) and a running system beside it
(nothing to do means that nothing is touched). --exact: of this Python's version, where otherwise any supported does.
"""

from __future__ import annotations

import ast
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NoReturn

SUPPORTED = ((3, 11), (3, 12))
REPORT_EVERY_S = 10.0
ROOT = Path(__file__).resolve().parents[1]
LOCK, PROJECT, VENV = ROOT / "requirements.lock", ROOT / "pyproject.toml", ROOT / ".venv"
PYTHON, BASE_PYTHON = f"{VENV}/bin/python", f"{sys.base_prefix}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"

STAMP = VENV / ".installed"
"""Written last, so that without it the environment is half-made. Three lines: the digest of what was asked for, the
folder (programs in `bin/` name their interpreter by its whole path: a moved clone needs a new one), the extras."""

PIP_TO_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
}
CAUSES = {
    "no trusted hash was provided": "requirements.lock does not cover pyproject.toml, `make lock` renews it",
    "Hash mismatch|DO NOT MATCH THE HASHES": "a package is not the one that requirements.lock pins",
    "No space left on device": "no space left on the disk, the packages take 1.3 GB",
    "invalid peer certificate|CERTIFICATE_VERIFY": "the package index's certificate is not trusted, see SSL_CERT_FILE",
    "dns error|rror sending request|onnect|timed out|from versions: none": "the package index {index} does not answer: "
    "check the network, or set UV_DEFAULT_INDEX (without uv: PIP_INDEX_URL) to a mirror",
}

CURES = {
    errno.ENOSPC: "free some space, the packages take 1.3 GB",
    errno.EACCES: "this clone belongs to another user; make a clone of your own, or change its rights",
    errno.EROFS: "make a clone on a disk that can be written",
    errno.ENOENT: "restore it with `git checkout`",
}


class SetupFailed(Exception):
    """The environment cannot be made; the text says why, and what to do."""


def main(arguments: Sequence[str]) -> int:
    if sys.version_info[:2] not in SUPPORTED:
        print(f"environment: Python 3.11 or 3.12 is needed, this is {sys.version.split()[0]}", file=sys.stderr)
        return 1
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGINT too where a script's `make &` ignores it
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, stop)
    try:
        with (ROOT / ".venv.lock").open("w") as turn:
            wait_for(turn.fileno())
            prepare({argument for argument in arguments if argument != "--exact"}, exact="--exact" in arguments)
    except SetupFailed as error:
        print(f"environment: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        place = VENV / os.fspath(error.filename or "")  # a bare name is one that was to be removed from there
        cure = CURES.get(error.errno or 0, "remove it, and start again")
        print(f"environment: {place}: {error.strerror or error}; {cure}", file=sys.stderr)
        return 1
    return 0


def stop(number: int, _frame: object) -> NoReturn:
    print("environment: interrupted; the next run starts it afresh", file=sys.stderr)
    raise SystemExit(128 + number)


def wait_for(turn: int) -> None:
    """Lock the lock file. Children inherit the lock, so that a run after `kill -9` waits for a uv that still runs."""
    os.set_inheritable(turn, True)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another make to finish the environment …")
        fcntl.flock(turn, fcntl.LOCK_EX)


def prepare(extras: set[str], exact: bool) -> None:
    asked = digest()
    if found := fault(exact):
        say(
            f"making .venv with Python {sys.version_info[0]}.{sys.version_info[1]}"
            + (f" (was {found})" * VENV.exists())
        )
        make_empty()
    else:
        installed, _, kept = stamp()
        if installed == asked and extras <= set(kept.split()):
            return
        extras |= set(kept.split())
        STAMP.unlink()
    began = time.monotonic()
    install(sorted(extras))
    STAMP.write_text(f"{asked}\n{VENV}\n{' '.join(sorted(extras))}\n")
    say(f"installed in {time.monotonic() - began:.0f} s")


def make_empty() -> None:
    """Raises: SetupFailed, this Python cannot make environments."""
    try:
        import venv
    except ImportError:
        said = f"{BASE_PYTHON} has no module venv: install it (Debian, Ubuntu: apt install python3-venv)"
        raise SetupFailed(f"{said}, or name another Python with PYTHON=…") from None
    if VENV.is_dir() and not VENV.is_symlink():
        STAMP.unlink(missing_ok=True)  # first: whoever is killed now leaves what is known as half-made
        shutil.rmtree(VENV)
    else:
        VENV.unlink(missing_ok=True)
    venv.create(VENV, symlinks=True)  # without pip: Debian's python3.11 has no ensurepip unless python3-venv is there


def stamp() -> list[str]:
    """The three lines, or blank ones where they are not to be had."""
    lines = STAMP.read_text(errors="replace").splitlines() if STAMP.is_file() else []
    return lines if len(lines) == 3 else ["", "", ""]


def digest() -> str:
    """A digest of everything that the environment depends on, without settings of linters and tests."""
    import tomllib  # not before the version of Python is known to be one that has it

    project = tomllib.loads(PROJECT.read_text())
    asked = [project[table] for table in ("project", "build-system")]
    return hashlib.sha256(LOCK.read_bytes() + json.dumps(asked).encode()).hexdigest()


def fault(exact: bool) -> str | None:
    """Why `.venv` must be made again; None if it need not."""
    made_in = stamp()[1]
    if not made_in:
        return "left half-made"
    if made_in != str(VENV):
        return "moved from elsewhere"
    version = answer_of(PYTHON, "-c", "import sys; print(*sys.version_info[:2])")
    if version is None:
        return "broken"
    if tuple(map(int, version.split())) not in ((sys.version_info[:2],) if exact else SUPPORTED):
        return f"of Python {version.replace(' ', '.')}"
    return None


def install(extras: Sequence[str]) -> None:
    uv = find_uv()
    installs = [uv, "pip", "install", "--python", PYTHON, "--color", "never"]
    say("installing what requirements.lock pins …")
    variables = {**index_settings(), **os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    if answer_of(uv, "pip", "freeze", "--python", PYTHON) is None:
        say("uv's cache folder cannot be written: nothing that is downloaded is kept for the next time")
        variables["UV_CACHE_DIR"] = f"{VENV}/.cache"
    pinned = ["--require-hashes", "--requirements", str(PROJECT), "--constraints", str(LOCK)]
    pinned += [f"--extra={extra}" for extra in extras]
    try:
        run([*installs, *pinned, "--offline"], variables)  # where uv's cache has everything, no index has to answer
    except SetupFailed:
        run([*installs, *pinned], variables)
    run([*installs, "--offline", "--no-deps", "--editable", str(ROOT)], variables)
    shutil.rmtree(f"{VENV}/.cache", ignore_errors=True)
    # uv's --compile-bytecode takes the packages' own tests along, and 1.6 times as long. Left undone, every process
    # would compile for itself. Some files are templates, not Python, whence an exit code that says nothing.
    with suppress(SetupFailed):
        run([PYTHON, "-m", "compileall", "-q", "-j", "0", "-x", "/tests?/", f"{VENV}/lib"], os.environ)


def find_uv() -> str:
    """The uv of `.venv` or PATH whose version can build Paceline; else the locked one, installed with pip."""
    built_by = re.search(r"uv_build(>=(\d+)\.(\d+),<(\d+))", PROJECT.read_text())
    assert built_by
    low, high = (int(built_by[2]), int(built_by[3])), (int(built_by[4]), 0)
    for uv in (f"{VENV}/bin/uv", "uv"):
        version = re.match(r"uv (\d+)\.(\d+)", answer_of(uv, "--version") or "")
        if version and low <= (int(version[1]), int(version[2])) < high:
            return uv
    say("installing uv with pip …")
    pip = [BASE_PYTHON, "-m", "pip", "--python", PYTHON]
    if answer_of(*pip, "--version") is None:
        pip = [PYTHON, "-m", "pip"]
        if answer_of(PYTHON, "-m", "ensurepip") is None:
            tried = f"PATH has no uv{built_by[1]}, and {BASE_PYTHON} has neither pip nor ensurepip to install it with"
            raise SetupFailed(f"{tried} (Debian, Ubuntu: apt install python3-venv)")
    pin = re.search(r"^uv==.*\n( .*\n)+", LOCK.read_text(), re.MULTILINE)
    assert pin
    (VENV / "uv.txt").write_text(pin[0])
    options = ["--quiet", "--no-input", "--disable-pip-version-check", "--require-hashes", "--no-deps"]
    run([*pip, "install", *options, "--requirement", f"{VENV}/uv.txt"], {**os.environ, "PIP_USER": "0"})
    return f"{VENV}/bin/uv"


def index_settings() -> dict[str, str]:
    """pip's indexes for uv, which does not read pip's settings; none where uv has settings of its own."""
    own = (Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "uv/uv.toml", Path("/etc/uv/uv.toml"))
    if re.search(r"^UV_(\w*INDEX\w*|FIND_LINKS|CONFIG_FILE)$", "\n".join(os.environ), re.M) or any(
        map(Path.exists, own)
    ):
        return {}
    listed = answer_of(BASE_PYTHON, "-m", "pip", "config", "list") or ""
    of_pip = dict(re.findall(r"^(?:global|install)\.([\w-]+)=(.*)$", listed, re.MULTILINE))
    settings = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # as pip does; safe, for every file's hash is known
    for name, of_uv in PIP_TO_UV.items():
        variable = os.environ.get(f"PIP_{name.upper().replace('-', '_')}")
        if value := variable or ast.literal_eval(of_pip.get(name, "''")):
            settings[of_uv] = ("," if name == "find-links" else " ").join(value.split())
    return settings


def run(command: Sequence[str], variables: Mapping[str, str]) -> None:
    """Run a command, with a progress line every ten seconds.

    Raises:
        SetupFailed: its exit code was not 0; the text is one line.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=out, close_fds=False, process_group=0
        )
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    code = child.wait(REPORT_EVERY_S)
                    break
                said = "compiling modules to byte code" if "compileall" in command else news(text_of(out))
                say(f"  {time.monotonic() - began:.0f} s: {said}")
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)  # its own children, too
                child.wait()
        if code != 0:
            raise SetupFailed(explain(text_of(out), variables))


def text_of(out: IO[bytes]) -> str:
    """The output so far; read without moving the position at which the child writes."""
    return os.pread(out.fileno(), 1 << 20, 0).decode(errors="replace")


def news(said: str) -> str:
    """What uv is waiting for, from its output so far."""
    done = set(re.findall(r"^ +Downloaded (\S+)", said, re.MULTILINE))
    coming = [what for what, name in re.findall(r"^Downloading ((\S+).*)$", said, re.MULTILINE) if name not in done]
    more = f" and {len(coming) - 4} more" * (len(coming) > 4)
    return "unpacking" if "Prepared" in said else f"downloading {', '.join(coming[:4]) or '…'}{more}"


def explain(said: str, variables: Mapping[str, str]) -> str:
    """One line: the cause, and the program's own words."""
    indexes = (variables.get(name) for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"))
    index = re.sub(r"//[^/@]*@", "//", next(filter(None, indexes), "https://pypi.org/simple"))
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    first = next((at for at, line in enumerate(lines) if line.lower().startswith("error")), -2)
    own_words = "; ".join(lines[first:][:2])
    cause = next((cause for pattern, cause in CAUSES.items() if re.search(pattern, said)), None)
    return f"{cause.format(index=index)} ({own_words})" if cause else own_words


def answer_of(*command: str) -> str | None:
    """What a command prints, or None if it cannot."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
