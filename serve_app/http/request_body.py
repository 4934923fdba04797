"""Reads a request's body, up to a size and within a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from serve_app.http.headers import header
from serve_app.http.problem_details import Problem


async def read_body(scope: Scope, receive: Receive, most_bytes: int, timeout_s: float) -> bytes:
    """The whole body.

    Raises:
        Problem: 413, it is larger than `most_bytes`; 408, it has not arrived after `timeout_s`.
        ClientDisconnect: the client closed the connection.
    """
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > most_bytes:
        raise _too_large(most_bytes)
    first = StartedAwaitable(receive())  # mostly the whole body, which came with the headers
    parts: list[bytes] = []
    size = 0

    def took(message: Message) -> bool:
        """Keep a part of the body; whether it was the last one."""
        nonlocal size
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > most_bytes:
            raise _too_large(most_bytes)
        parts.append(part)
        return not message.get("more_body", False)

    if first.is_done and took(first.result):
        return parts[0]
    try:
        async with asyncio.timeout(timeout_s):
            is_whole = not first.is_done and took(await first)
            while not is_whole:
                is_whole = took(await receive())
    except TimeoutError:
        raise Problem(
            408, f"the body did not arrive within {timeout_s:g} s; send it again", "timeout", {"Connection": "close"}
        ) from None
    return b"".join(parts)


class StartedAwaitable:
    """An awaitable that has been started: if its result is there at once, no timeout is needed, which costs 5 µs."""

    __slots__ = ("_steps", "_waits_for", "is_done", "result")

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self._steps: Any = awaitable.__await__()
        self.is_done = False
        self.result: Any = None
        try:
            self._waits_for = next(self._steps)
        except StopIteration as done:
            self.is_done, self.result = True, done.value

    def __await__(self) -> Generator[Any, Any, Any]:
        """Continue from where it waits."""
        try:
            while True:
                try:
                    sent = yield self._waits_for
                except BaseException as error:
                    self._waits_for = self._steps.throw(error)
                else:
                    self._waits_for = self._steps.send(sent)
        except StopIteration as done:
            return done.value


def _too_large(most_bytes: int) -> Problem:
    detail = f"the body is larger than {most_bytes:,} bytes; divide it into several requests"
    return Problem(413, detail, "too-large", {"Connection": "close"})
