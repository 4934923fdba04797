"""Runs the suite's layers: `python -m tests unit|all|coverage [pytest's arguments]`.

Layers that start no system share the cores through pytest-xdist; tests/cluster needs every core for itself and comes
afterwards, one test at a time. Pytest's arguments reach both runs, and a run that they leave without a test is no
failure as long as the other had one.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest

UNIT = (
    "tests/unit",
    "tests/servers",
    "tests/__main__.py",
    "paceline",
    "serve_app",
    "training",
    "ledger",
    "db",
    "bench",
)
"""Besides its own tests, the examples in docstrings."""
CONTRACT, FAULTS, CLUSTER = ("tests/contract",), ("tests/faults",), ("tests/cluster",)
LAYERS = (*UNIT, *CONTRACT, *FAULTS, *CLUSTER)

PARALLEL = ("-n", "logical", "--maxprocesses=8", "--dist=worksteal")
COVERAGE = ("--cov", "--cov-report=term")

RUNS: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "unit": [(UNIT, PARALLEL)],
    "all": [((*UNIT, *CONTRACT, *FAULTS), PARALLEL), (CLUSTER, ())],
    "coverage": [((*UNIT, *CONTRACT), (*PARALLEL, *COVERAGE))],
}
"""What is asked for -> runs of pytest, one after the other: their layers, and how they are run."""

NOTHING_RAN = pytest.ExitCode.NO_TESTS_COLLECTED
GOES_ON = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, NOTHING_RAN)


def leaving_out(layers: Sequence[str]) -> list[str]:
    """Pytest's options for `layers` only; `--deselect` where a path among the arguments overrules `--ignore`."""
    others = [layer for layer in LAYERS if layer not in layers]
    return [option for layer in others for option in (f"--ignore={layer}", f"--deselect={layer}/")]


def outcome(codes: Sequence[int]) -> int:
    """One exit code of several: the first failure's; "no tests" only where no run had any.

    >>> outcome([0, 5]), outcome([5, 5]), outcome([1, 0]), outcome([5, 1])
    (0, 5, 1, 1)
    """
    failed = [code for code in codes if code not in (pytest.ExitCode.OK, NOTHING_RAN)]
    if failed:
        return failed[0]
    return int(pytest.ExitCode.OK if pytest.ExitCode.OK in codes else NOTHING_RAN)


def run(arguments: Sequence[str]) -> int:
    """Pytest's exit code. Ctrl-C reaches pytest from the terminal and is its affair; SIGTERM is handed on."""
    with subprocess.Popen([sys.executable, "-m", "pytest", *arguments]) as pytest_process:
        signal.signal(signal.SIGTERM, lambda *_: pytest_process.terminate())
        while True:
            try:
                return pytest_process.wait()
            except KeyboardInterrupt:
                continue


def main(suite: str, arguments: Sequence[str]) -> int:
    codes: list[int] = []
    for layers, how in RUNS[suite]:
        codes.append(run([*how, *leaving_out(layers), *arguments]))
        if codes[-1] not in GOES_ON:  # interrupted, or the arguments are wrong
            break
    return outcome(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
