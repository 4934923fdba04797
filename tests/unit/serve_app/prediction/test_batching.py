"""Many askers, few calls, no answer to the wrong one."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence

import pytest

from serve_app.prediction.batching import Batcher, CallLost


class Recorder:
    """Answers each number with its double, one call at a time, when it is told to."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.gate = asyncio.Event()

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.calls.append(list(items))
        await self.gate.wait()
        if 13 in items:
            raise LookupError("13")
        return [2 * item for item in items]


def coalescer(
    recorder: Recorder, most: int = 100, in_flight: int = 1, abandoned: list[int] | None = None
) -> Batcher[int, int]:
    return Batcher(
        recorder, lambda _: 1, most, in_flight, None if abandoned is None else lambda item, _: abandoned.append(item)
    )


async def test_requests_that_arrive_during_a_call_share_the_next_one() -> None:
    recorder = Recorder()
    c = coalescer(recorder)
    tasks = [asyncio.create_task(c.submit(i)) for i in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    recorder.gate.set()
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8]
    assert recorder.calls == [[0], [1, 2, 3, 4]]


async def test_a_group_is_bounded_and_several_may_be_on_their_way() -> None:
    recorder = Recorder()
    recorder.gate.set()
    c = coalescer(recorder, most=2, in_flight=2)
    assert await asyncio.gather(*(c.submit(i) for i in range(7))) == [2 * i for i in range(7)]
    assert max(len(call) for call in recorder.calls) <= 2


async def test_an_error_reaches_its_group_alone_and_the_next_group_goes_on() -> None:
    recorder = Recorder()
    recorder.gate.set()
    c = coalescer(recorder, most=1)
    answers = await asyncio.gather(*(c.submit(i) for i in (1, 13, 3)), return_exceptions=True)
    assert answers[0] == 2 and answers[2] == 6
    assert isinstance(answers[1], LookupError)


async def test_an_asker_that_leaves_is_not_sent_or_its_answer_is_handed_back() -> None:
    recorder, abandoned = Recorder(), list[int]()
    c = coalescer(recorder, abandoned=abandoned)
    sent, waiting, stays = (asyncio.create_task(c.submit(i)) for i in (1, 2, 3))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    sent.cancel()
    waiting.cancel()
    recorder.gate.set()
    assert await stays == 6
    assert abandoned == [1], "its answer came after it had left"
    assert recorder.calls == [[1], [3]], "2 left before it was sent"
    for task in (sent, waiting):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_call_that_is_broken_off_fails_its_askers_and_frees_the_way() -> None:
    calls = 0

    async def cancelled_once(items: Sequence[int]) -> list[int]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise asyncio.CancelledError
        return list(items)

    c: Batcher[int, int] = Batcher(cancelled_once, lambda _: 1, 10)
    with pytest.raises(CallLost):
        await asyncio.wait_for(c.submit(1), 1)
    assert await asyncio.wait_for(c.submit(2), 1) == 2


async def test_a_call_does_not_run_in_the_context_of_one_of_its_askers() -> None:
    caller: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="nobody")

    async def who(items: Sequence[int]) -> list[str]:
        return [caller.get()] * len(items)

    c: Batcher[int, str] = Batcher(who, lambda _: 1, 10)
    caller.set("somebody")
    assert await c.submit(1) == "nobody"


async def test_too_few_answers_are_an_error() -> None:
    async def short(items: Sequence[int]) -> list[int]:
        return list(items[1:])

    c: Batcher[int, int] = Batcher(short, lambda _: 1, 10)
    with pytest.raises(RuntimeError, match="0 answers"):
        await c.submit(1)
