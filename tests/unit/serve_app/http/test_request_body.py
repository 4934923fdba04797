"""A body is read at once where it is there, and within its time where it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from serve_app.http.problem_details import Problem
from serve_app.http.request_body import StartedAwaitable, read_body

SCOPE = {"type": "http", "headers": []}
LEFT = {"type": "http.disconnect"}


def part(body: bytes, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def receiving(*messages: Message, waits_s: float = 0.0) -> Callable[[], Awaitable[Message]]:
    """They come one after the other, each after a wait if there is one; then nothing more comes."""
    coming = iter(messages)

    async def receive() -> Message:
        if waits_s:
            await asyncio.sleep(waits_s)
        if (message := next(coming, None)) is None:
            await asyncio.Event().wait()
        assert message is not None
        return message

    return receive


@pytest.mark.parametrize("waits_s", [0.0, 0.001])
@pytest.mark.parametrize("parts", [(b"",), (b"abc",), (b"a", b"", b"bc"), (b"a" * 50, b"b" * 50)])
async def test_a_body_is_all_of_its_parts(parts: tuple[bytes, ...], waits_s: float) -> None:
    messages = [part(one, more=number < len(parts)) for number, one in enumerate(parts, start=1)]
    assert await read_body(SCOPE, receiving(*messages, waits_s=waits_s), 100, 10.0) == b"".join(parts)


@pytest.mark.parametrize("waits_s", [0.0, 0.001])
@pytest.mark.parametrize("messages", [(LEFT,), (part(b"a", more=True), LEFT)])
async def test_nobody_is_there_any_more(messages: tuple[Message, ...], waits_s: float) -> None:
    with pytest.raises(ClientDisconnect):
        await read_body(SCOPE, receiving(*messages, waits_s=waits_s), 100, 10.0)


@pytest.mark.parametrize("waits_s", [0.0, 0.001])
async def test_too_much_is_refused_before_it_has_all_been_read(waits_s: float) -> None:
    endless = receiving(*[part(b"x" * 60, more=True)] * 2, waits_s=waits_s)
    with pytest.raises(Problem) as refused:
        await read_body(SCOPE, endless, 100, 10.0)
    assert refused.value.status == 413


@pytest.mark.parametrize("messages", [(), (part(b"a", more=True),), (part(b"a", more=True), part(b"b", more=True))])
async def test_what_does_not_come_is_not_waited_for(messages: tuple[Message, ...]) -> None:
    with pytest.raises(Problem) as late:
        await read_body(SCOPE, receiving(*messages), 100, 0.05)
    assert late.value.status == 408


async def test_drops_that_each_come_in_time_have_one_time_together() -> None:
    with pytest.raises(Problem) as late:
        await asyncio.wait_for(read_body(SCOPE, receiving(*[part(b"", more=True)] * 1000, waits_s=0.02), 100, 0.1), 5)
    assert late.value.status == 408


async def test_what_was_begun_goes_on_where_it_waits() -> None:
    said: list[str] = []

    async def work() -> str:
        for number in range(3):
            await asyncio.sleep(0)
            said.append(f"step {number}")
        return "done"

    begun = StartedAwaitable(work())
    assert not begun.is_done and not said
    assert await begun == "done" and said == ["step 0", "step 1", "step 2"]


async def test_what_was_begun_hears_of_its_cancelling_and_tells_its_errors() -> None:
    heard: list[Any] = []

    async def patient() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await StartedAwaitable(patient())
    assert heard == ["cancelled"]

    async def failing() -> None:
        await asyncio.sleep(0)
        raise KeyError("here")

    with pytest.raises(KeyError):
        await StartedAwaitable(failing())
