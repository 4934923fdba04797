"""What a system's processes cost: CPU and memory, from /proc."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
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
    started: int  # ticks since boot: an id may be given twice
    title: str

    @property
    def role(self) -> str:
        return next((role for role, title in ROLES.items() if re.fullmatch(title, self.title)), OTHERS)


def running(pids: Iterable[int]) -> list[Process]:
    """Those that have not ended."""
    found = []
    for pid in pids:
        try:
            words = (Path("/proc") / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
            found.append(Process(pid, int(_stat(pid)[19]), title(words)))
        except OSError:
            continue
    return found


def title(words: list[str]) -> str:
    """The short name by which a person knows a process, from its command line.

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
    """Seconds of CPU until now, those of children that have ended included: nobody's are counted twice or lost."""
    found = {}
    for process in processes:
        try:
            stat = _stat(process.pid)
        except OSError:
            continue
        if int(stat[19]) == process.started:
            found[process] = sum(int(ticks) for ticks in stat[11:15]) / TICKS_A_SECOND
    return found


def spent_s(before: Mapping[Process, float], after: Mapping[Process, float]) -> dict[str, float]:
    """Seconds of CPU between two looks, by role."""
    spent: Counter[str] = Counter()
    for process, seconds in after.items():
        spent[process.role] += seconds - before.get(process, 0.0)  # type: ignore[assignment]
    for process, seconds in before.items():
        if process not in after:  # its parent's have grown by what it had before, too
            spent[process.role] -= seconds  # type: ignore[assignment]
    return dict(spent)


def uss_mib(processes: Iterable[Process]) -> dict[Process, float]:
    """Memory that only this process has: what its end would give back."""
    found = {}
    for process in processes:
        try:
            text = (Path("/proc") / str(process.pid) / "smaps_rollup").read_text()
        except OSError:
            continue
        found[process] = sum(int(kb) for kb in re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", text, re.M)) / 1024
    return found


def cpu_model() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1] if found else "unknown"


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on: [11:15] are utime, stime, cutime, cstime; [19] is starttime."""
    return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
