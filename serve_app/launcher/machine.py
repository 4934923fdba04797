"""What the machine gives: room, memory, open files. Ray, which needs them, tells of them late, if ever."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import psutil

from serve_app.launcher.errors import CannotRun
from serve_app.launcher.terminal import say

OPEN_FILES, LEAST_OPEN_FILES = 65_536, 4096
MOST_CONNECTIONS, OTHER_FILES = 4096, 2200
"""HAProxy does not start unless it may open two files for each connection, and these besides."""
WANTED_MEMORY_BYTES, WANTED_SHARED_BYTES = 2 << 30, 128 << 20
LEAST_FILES = 2000
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
SHARED_MEMORY = Path("/dev/shm")


def check_room(folder: Path, least_bytes: int) -> None:
    """Raises: CannotRun, the disk is nearly full, or can hold no more files."""
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if free < least_bytes:
        raise CannotRun(
            f"no disk space: {folder} has {free >> 20} MiB left, {least_bytes >> 20} MiB are needed; free some space"
        )
    if disk.f_files and disk.f_favail < LEAST_FILES:  # some file systems do not count
        raise CannotRun(
            f"no room for files: the disk of {folder} can hold {disk.f_favail} more files (`df -i`), {LEAST_FILES} "
            "are needed; remove some"
        )


def raise_open_files() -> None:
    """For this process and all that it starts: as many open files as are wanted and allowed.

    Raises:
        CannotRun: too few are allowed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    most = OPEN_FILES if hard == unlimited else min(hard, OPEN_FILES)
    if soft != unlimited and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if soft != unlimited and soft < LEAST_OPEN_FILES:
        raise CannotRun(
            f"a process may have only {soft} files open, {LEAST_OPEN_FILES} are needed; "
            f"raise the limit: ulimit -n {OPEN_FILES}"
        )


def connections() -> int:
    """How many callers HAProxy may have at a time: Ray's default, or what the limit of open files allows."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, (soft - OTHER_FILES) // 2)


def warn_of_little_memory() -> None:
    """Ray starts with little memory, but then ends processes, or keeps shared data on the disk."""
    free = min(psutil.virtual_memory().available, *filter(None, map(_limit, CGROUP_LIMITS)), 1 << 62)
    if free < WANTED_MEMORY_BYTES:
        say(
            f"warning: {free >> 20} MiB of memory are free, {WANTED_MEMORY_BYTES >> 20} MiB are wanted; "
            "the system may end processes of Paceline"
        )
    shared = os.statvfs(SHARED_MEMORY)
    if (size := shared.f_bavail * shared.f_frsize) < WANTED_SHARED_BYTES:
        say(
            f"warning: {SHARED_MEMORY} has {size >> 20} MiB, {WANTED_SHARED_BYTES >> 20} MiB are wanted; "
            "Ray keeps shared data on the disk (in a container: --shm-size=1g)"
        )


def _limit(file: Path) -> int | None:
    """Bytes that this container may use; None: it is in none, or may use all."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
