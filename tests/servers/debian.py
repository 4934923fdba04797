"""Programs from Debian for the tests: whole in a root of their own, or one package unpacked."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.servers.process import ServerUnavailable, find_program

APT_FOLDER = Path("/etc/apt")


def announce(text: str) -> None:
    """The first run downloads for a while, and silence looks like a hang."""
    print(text, file=sys.stderr, flush=True)


def archive_mirror(apt_folder: Path = APT_FOLDER) -> str | None:
    """The Debian archive that this machine already uses, or None to let debootstrap choose.

    Reads deb822 (`URIs:`) and one-line (`deb [options] URI suite …`) sources.
    """
    for uri in _source_uris(apt_folder):
        if re.match(r"(https?|ftp|file)://?.*/debian(/|$)", uri):
            return uri.rstrip("/")
    return None


def build_root(root: Path, packages: Iterable[str]) -> None:
    """Make `root` a minimal Debian (unstable) with `packages`; it appears complete or not at all.

    The caller holds a lock. Leftovers of an interrupted build are removed.
    """
    debootstrap = _debootstrap()
    for leftover in root.parent.glob(f"{root.name}.partial-*"):
        remove_root(leftover)
    partial = root.with_name(f"{root.name}.partial-{os.getpid()}")
    command = [str(debootstrap), "--variant=minbase", f"--include={','.join(packages)}", "sid", str(partial)]
    if mirror := archive_mirror():
        command.append(mirror)
    try:
        _run(command, "debootstrap failed")
        for ballast in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
            shutil.rmtree(partial / ballast, ignore_errors=True)
        _unmount_below(partial)
        partial.rename(root)
    except BaseException:
        remove_root(partial)
        raise


def remove_root(root: Path) -> None:
    """Delete a root, mounts first: an interrupted debootstrap leaves /proc mounted inside."""
    _unmount_below(root)
    shutil.rmtree(root, ignore_errors=True)


def unpack_package(package: str, folder: Path) -> None:
    """Download one package of this machine's own release and unpack it into `folder`, as any user."""
    if not (find_program("apt-get") and find_program("dpkg")):
        raise ServerUnavailable(f"{package}: not on PATH, and without apt-get it cannot be fetched; install it")
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if subprocess.run(["apt-get", "download", package], cwd=partial, capture_output=True).returncode != 0:
            if os.geteuid() == 0:
                _run(["apt-get", "update"], "apt-get update failed")
            _run(["apt-get", "download", package], f"{package}: cannot be fetched; install it", cwd=partial)
        for archive in partial.glob("*.deb"):
            _run(["dpkg", "-x", str(archive), str(partial)], f"{archive.name} cannot be unpacked")
            archive.unlink()
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _source_uris(apt_folder: Path) -> Iterator[str]:
    parts = apt_folder / "sources.list.d"
    for file in [apt_folder / "sources.list", *sorted(parts.glob("*.list"))]:
        if file.is_file():
            yield from re.findall(r"^\s*deb\s+(?:\[[^\]]*\]\s*)?(\S+)", file.read_text(), re.MULTILINE)
    for file in sorted(parts.glob("*.sources")):
        for uris in re.findall(r"^URIs:[ \t]*(.+)$", file.read_text(), re.MULTILINE | re.IGNORECASE):
            yield from uris.split()


def _debootstrap() -> Path:
    if found := find_program("debootstrap"):
        return found
    if os.geteuid() == 0 and find_program("apt-get"):
        _run(["apt-get", "update"], "apt-get update failed")
        _run(["apt-get", "install", "--yes", "--no-install-recommends", "debootstrap"], "cannot install debootstrap")
        if found := find_program("debootstrap"):
            return found
    raise ServerUnavailable("debootstrap is missing; as root: apt-get install debootstrap")


def _run(command: list[str], failure: str, cwd: Path | None = None) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        last_words = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise ServerUnavailable(f"{failure}:\n{last_words}")


def _unmount_below(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted(mounts, reverse=True):
        if Path(mount).is_relative_to(folder):
            subprocess.run(["umount", "--lazy", mount], check=False)
