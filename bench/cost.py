"""Measures the CPU and memory that a system's processes use."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

ROLES = {
    "Ingress": r"ray::ServeReplica:paceline:Ingress",
    "Predictor": r"ray::ServeReplica:paceline:Predictor",
    "HAProxy": r"haproxy",
    "ledger": r"ray::LedgerActor",
    "Redis": r"redis-server",
    "Serve's controller and proxies": r"ray::(ServeController|ProxyActor|HAProxyManager)",
    "supervisor (make run)": r"serve_app\.run",
}
"""By a process's title."""
OTHERS = "Ray: GCS, raylet, dashboard, agents"


class Process(NamedTuple):
    pid: int
    started: float  # an id may be given twice
    title: str

    @property
    def role(self) -> str:
        return next((role for role, title in ROLES.items() if re.fullmatch(title, self.title)), OTHERS)


def running(pids: Iterable[int]) -> list[Process]:
    """The processes that have not ended."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            found.append(Process(pid, process.create_time(), title(process.cmdline() or [""])))
    return found


def title(words: list[str]) -> str:
    """A short name for a process, made from its command line.

    >>> title(["ray::ServeReplica:paceline:Ingress.handle", ""]), title(["/usr/bin/redis-server unixsocket:/tmp/s"])
    ('ray::ServeReplica:paceline:Ingress', 'redis-server')
    >>> title(["/bin/python3.11", "-u", "/ray/monitor.py", "--x"]), title(["python", "-m", "serve_app.run"])
    ('monitor.py', 'serve_app.run')
    >>> title(["python", "-B", "-c", "from multiprocessing.spawn import main; main()"])
    'multiprocessing.spawn'
    """
    first = words[0].split(" ")[0]
    if first.startswith("ray::"):  # the method that runs just now follows
        return first.split(".")[0]
    program = Path(first).name
    if not program.startswith("python"):
        return program
    script = next((word for word in words[1:] if not word.startswith("-") or word == "-c"), program)
    if script == "-c":
        imported = re.search(r"from ([\w.]+) import", words[words.index("-c") + 1])
        return imported[1] if imported else program
    return Path(script).name


def cpu_s(processes: Iterable[Process]) -> dict[Process, float]:
    """Seconds of CPU by process until now, each with its ended children, so that nothing is counted twice or lost."""
    found = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            now = psutil.Process(process.pid)
            if now.create_time() == process.started:
                found[process] = sum(now.cpu_times()[:4])  # user, system, and both of its children
    return found


def spent_s(before: Mapping[Process, float], after: Mapping[Process, float]) -> dict[str, float]:
    """Seconds of CPU between two measurements, by role."""
    spent: Counter[str] = Counter()
    for process, seconds in after.items():
        spent[process.role] += seconds - before.get(process, 0.0)  # type: ignore[assignment]
    for process, seconds in before.items():
        if process not in after:  # its parent's have grown by what it had before, too
            spent[process.role] -= seconds  # type: ignore[assignment]
    return dict(spent)


def uss_mib(processes: Iterable[Process]) -> dict[Process, float]:
    """USS in MiB: memory that only this process has, and that would be free after its end."""
    found = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            found[process] = psutil.Process(process.pid).memory_full_info().uss / 2**20
    return found


def cpu_model() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1] if found else "unknown"
