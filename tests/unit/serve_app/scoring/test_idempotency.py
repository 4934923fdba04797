"""The same request gets the same answer, for a while, within bounds."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.scoring import idempotency
from serve_app.scoring.idempotency import IdempotencyCache, IdempotencyEntry


def remember(known: IdempotencyCache, name: str, content: bytes) -> IdempotencyEntry:
    entry = IdempotencyEntry(f"hash-{name}", 0.0, content)
    known.begin(("sub", name), entry)
    return entry


async def test_an_answer_is_kept_for_its_time_and_per_caller() -> None:
    now = 0.0
    known = IdempotencyCache(120, 10, clock=lambda: now)
    entry = remember(known, "r", b"answer")
    assert known.find(("sub", "r")) is entry
    assert known.find(("another", "r")) is None
    now = 121.0
    assert known.find(("sub", "r")) is None


async def test_work_under_way_is_found_and_then_its_answer() -> None:
    known = IdempotencyCache(120, 10, clock=lambda: 0.0)
    go = asyncio.Event()

    async def work() -> bytes:
        await go.wait()
        return b"answer"

    entry = IdempotencyEntry("hash", 0.0, work=asyncio.create_task(work()))
    known.begin(("sub", "r"), entry)
    assert known.find(("sub", "r")) is entry
    assert entry.content is None
    go.set()
    assert entry.work is not None
    await entry.work
    await asyncio.sleep(0)
    assert entry.content == b"answer"


async def test_a_failure_is_forgotten_so_that_it_can_be_tried_again() -> None:
    known = IdempotencyCache(120, 10, clock=lambda: 0.0)

    async def work() -> bytes:
        raise RuntimeError("no")

    task = asyncio.create_task(work())
    known.begin(("sub", "r"), IdempotencyEntry("hash", 0.0, work=task))
    assert known.find(("sub", "r")) is not None
    with pytest.raises(RuntimeError):
        await task
    await asyncio.sleep(0)
    assert known.find(("sub", "r")) is None


async def test_memory_is_bounded_by_number_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    known = IdempotencyCache(120, 3, clock=lambda: 0.0)
    for i in range(5):
        remember(known, str(i), b"x")
    assert [known.find(("sub", str(i))) is not None for i in range(5)] == [False, False, True, True, True]
    monkeypatch.setattr(idempotency, "ANSWERS_MOST_BYTES", 100)
    for i in range(5, 8):
        remember(known, str(i), b"x" * 60)
    assert known.find(("sub", "6")) is None
    assert known.find(("sub", "7")) is not None
