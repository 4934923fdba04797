"""The same request gets the same answer, for a while, within bounds."""

from __future__ import annotations

import asyncio

import pytest

from serve_app import repeats
from serve_app.repeats import Remembered, Repeats


def remember(known: Repeats, name: str, answer: asyncio.Future[bytes]) -> Remembered:
    entry = Remembered(f"hash-{name}", 0.0)
    entry.answer = answer
    known.begin(("sub", name), entry)
    return entry


async def done(content: bytes) -> asyncio.Future[bytes]:
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    future.set_result(content)
    await asyncio.sleep(0)
    return future


async def test_an_answer_is_kept_for_its_time_and_per_caller() -> None:
    now = 0.0
    known = Repeats(120, 10, clock=lambda: now)
    entry = remember(known, "r", await done(b"answer"))
    assert known.find(("sub", "r")) is entry
    assert known.find(("another", "r")) is None
    now = 121.0
    assert known.find(("sub", "r")) is None


async def test_a_failure_is_forgotten_so_that_it_can_be_tried_again() -> None:
    known = Repeats(120, 10, clock=lambda: 0.0)
    failed: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    remember(known, "r", failed)
    assert known.find(("sub", "r")) is not None
    failed.set_exception(RuntimeError("no"))
    await asyncio.sleep(0)
    assert known.find(("sub", "r")) is None


async def test_memory_is_bounded_by_number_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Repeats(120, 3, clock=lambda: 0.0)
    for i in range(5):
        remember(known, str(i), await done(b"x"))
    await asyncio.sleep(0)
    assert [known.find(("sub", str(i))) is not None for i in range(5)] == [False, False, True, True, True]
    monkeypatch.setattr(repeats, "ANSWERS_MOST_BYTES", 100)
    for i in range(5, 8):
        remember(known, str(i), await done(b"x" * 60))
        await asyncio.sleep(0)
    assert known.find(("sub", "6")) is None
    assert known.find(("sub", "7")) is not None
