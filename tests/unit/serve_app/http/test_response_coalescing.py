"""Head and body of the hot route's answers leave together, behind a real uvicorn."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from serve_app.http.response_coalescing import SCORE, HeadWithBody, ResponseCoalescer

BODY = b"x" * 20_000


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers as the query says."""
    how = scope["query_string"]
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    unwatched = str((b"x-request-disconnect-disabled", b"?1") in scope["headers"]).encode()
    headers = [(b"x-unwatched", unwatched), (b"x-got", b"%d" % len(body))]
    if how != b"chunked":
        headers.append((b"content-length", b"%d" % len(BODY)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if how == b"broken":
        raise RuntimeError("after the head")
    for start in range(0, len(BODY), 5000):
        more = start + 5000 < len(BODY)
        await send({"type": "http.response.body", "body": BODY[start : start + 5000], "more_body": more})


class Recorded:
    """A transport that notes what it is told."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def test_the_first_write_waits_for_the_second() -> None:
    transport = Recorded()
    joined = HeadWithBody(transport)
    joined.write(b"head")
    assert transport.writes == []
    for part in (b"body", b"more", b""):
        joined.write(part)
    assert transport.writes == [b"headbody", b"more", b""]
    joined.close()
    assert joined.is_closing() and transport.writes == [b"headbody", b"more", b""]


def test_a_head_without_a_body_is_not_lost_and_an_interim_answer_does_not_wait() -> None:
    transport = Recorded()
    joined = HeadWithBody(transport)
    joined.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert transport.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    joined.write(b"head")
    joined.close()
    assert transport.writes[1:] == [b"head"] and transport.closed


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(ResponseCoalescer(application), lifespan="off", log_config=None))
        task = asyncio.create_task(server.serve([listening]))
        while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.01)
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await task


@pytest.mark.parametrize("path", [SCORE, "/api/brands"])
@pytest.mark.parametrize("how", ["", "chunked", "broken"])
async def test_answers_are_the_same_with_and_without(path: str, how: str) -> None:
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(1 if how == "broken" else 2):  # the connection is kept
            writer.write(f"POST {path}?{how} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n".encode() + b"abcd")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert head.startswith(b"HTTP/1.1 200 OK") and b"x-got: 4" in head
            assert (b"x-unwatched: True" in head) == (path == SCORE)
            if how == "broken":
                assert await asyncio.wait_for(reader.read(), 10) == b""
            elif how == "chunked":
                assert (await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)).count(b"x") == len(BODY)
            else:
                assert await asyncio.wait_for(reader.readexactly(len(BODY)), 10) == BODY
        writer.close()


async def test_a_head_is_answered_where_there_is_no_body() -> None:
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):  # the connection is kept
            writer.write(f"HEAD {SCORE} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 200 OK")
        writer.close()


async def test_a_client_that_waits_to_continue_is_told_to() -> None:
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST {SCORE} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        writer.write(head.encode())
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 100")
        writer.write(b"abcd")
        assert b"x-got: 4" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert await asyncio.wait_for(reader.readexactly(len(BODY)), 10) == BODY
        writer.close()
