"""Thousands of short lives of the ledger, each a function of its seed. A failure prints the seed that replays it.

`tests/profile.py` says how many; 10,000 take a quarter of an hour of one core.
"""

import pytest

from tests.faults.books import MysqlBooks
from tests.faults.simulation import run
from tests.profile import HISTORIES

CHUNK = 50  # seeds a test: enough tests for every worker
ON_MYSQL = 30


@pytest.mark.parametrize("first", range(0, HISTORIES, CHUNK))
def test_no_history_breaks_a_promise(first):
    for seed in range(first, min(first + CHUNK, HISTORIES)):
        run(seed)


def test_a_history_is_a_function_of_its_seed():
    steps: list[list[str]] = []
    for _ in range(2):
        steps.append([])
        run(7, watch=steps[-1].append)
    assert steps[0] == steps[1] and len(steps[0]) > 36


@pytest.mark.parametrize("seed", range(ON_MYSQL))
def test_nor_does_one_on_mysql(seed, mysql_url):
    books = MysqlBooks(mysql_url)
    try:
        run(seed, books)
    finally:
        books.close()
