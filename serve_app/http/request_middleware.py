"""What every request passes first and last: its name, its errors, its line in the log."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Generator
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.http.access_log import AccessLog
from serve_app.http.problem_details import Problem, unavailable

errors_logger = logging.getLogger("paceline.errors")


def header(scope: Scope, name: bytes) -> bytes | None:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


class RequestMiddleware:
    """Wraps an ASGI application: X-Request-ID in and out, problems instead of tracebacks.

    Args:
        log: gets a line for each request.
        most: requests at a time; the next ones are sent away with 503.
        names: give the answer its X-Request-ID. Serve does that by itself, from the same header of the request.
    """

    def __init__(self, app: ASGIApp, log: AccessLog, names: bool = True, most: int = 1024) -> None:
        self._app, self._log, self._names, self._most = app, log, names, most
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = header(scope, b"x-request-id") or uuid.uuid4().hex.encode()
        status = 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._names:
                    message["headers"] = [*message.get("headers", ()), (b"x-request-id", name)]
            await send(message)

        began = time.perf_counter()
        scope["app"] = self  # makes the router raise for a wrong method instead of answering text
        self._inside += 1
        try:
            if self._inside > self._most:
                raise unavailable("too many requests at a time; try again", "overloaded")
            await self._app(scope, receive, named)
        except ClientDisconnect:
            status = 499
        except asyncio.CancelledError:
            status = status or 499
            raise
        except Exception as error:
            problem = _problem(error, name.decode("latin-1"))
            if status:
                raise  # the answer had begun: all that is left is to break the connection
            await problem.response(name.decode("latin-1"))(scope, receive, named)
        finally:
            self._inside -= 1
            seconds = time.perf_counter() - began
            self._log.add(scope["method"], scope["path"], status, seconds, name, header(scope, b"traceparent"))


def _problem(error: Exception, name: str) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return Problem(error.status_code, error.detail, headers=error.headers)
    if isinstance(error, TimeoutError):
        return unavailable("that took too long; try again")
    errors_logger.error("request %s failed", name, exc_info=error)
    return Problem(500, "something went wrong here; the log has it under this instance", "internal")


async def read_body(scope: Scope, receive: Receive, most_bytes: int, timeout_s: float) -> bytes:
    """
    Raises:
        Problem: 413, more than `most_bytes`; 408, not all there after `timeout_s`.
        ClientDisconnect: nobody is there any more.
    """
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > most_bytes:
        raise too_large(most_bytes)
    first = Begun(receive())  # mostly all of the body: it came with the head
    parts: list[bytes] = []
    size = 0

    def took(message: Message) -> bool:
        """Whether this was the last part."""
        nonlocal size
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > most_bytes:
            raise too_large(most_bytes)
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
            408, f"the body did not arrive within {timeout_s:g} s", "timeout", {"Connection": "close"}
        ) from None
    return b"".join(parts)


class Begun:
    """Something awaitable that has been begun: what is there at once needs no timeout, which would cost 5 µs."""

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
        """Go on from where it waits."""
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


def too_large(most_bytes: int) -> Problem:
    return Problem(413, f"the body is larger than {most_bytes} bytes", "too-large", {"Connection": "close"})
