"""No server in this layer: `make test-unit` needs nothing but the environment, and a minute."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NoReturn

import pytest


@pytest.fixture(scope="session")
def mysql_server() -> NoReturn:
    pytest.fail("a unit test starts no MySQL; its place is tests/contract")


@pytest.fixture(scope="session")
def redis_server() -> NoReturn:
    pytest.fail("a unit test starts no Redis; its place is tests/contract")


@pytest.fixture(scope="package", autouse=True)
def no_ray() -> Iterator[None]:
    yield
    if ray := sys.modules.get("ray"):
        assert not ray.is_initialized(), "a unit test has started Ray; its place is tests/cluster"
