"""Middleware around Serve's own handling, by Serve's official hook: spares Serve and uvicorn work on the hot route.

The environment of the replicas names it,
`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve_app.http.response_coalescing:middlewares`, and says
`RAY_SERVE_THROUGHPUT_OPTIMIZED=1` beside it: what a request waits for must be of the loop that serves it. Without both
everything works as well, only slower.
"""

from __future__ import annotations

from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

SCORE = "/api/score"
UNWATCHED = (b"x-request-disconnect-disabled", b"?1")
"""Serve's own header: no two tasks that wait for the client's leaving. `ScoreEndpoint` looks for it where it waits."""


def middlewares() -> list[Middleware]:
    return [Middleware(ResponseCoalescer)]


class ResponseCoalescer:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == SCORE and scope["method"] == "POST":
            scope["headers"] = [*scope["headers"], UNWATCHED]
            cycle: Any = getattr(send, "__self__", None)  # uvicorn's: one request and its response
            if hasattr(cycle, "transport"):
                cycle.transport = HeadWithBody(cycle.transport)
        await self._app(scope, receive, send)


class HeadWithBody:
    """A transport that keeps the first write for the second: an answer's head and body leave in one system call.

    uvicorn writes them apart, and HAProxy would wake up for each. Only for methods whose answers have a body: of a HEAD
    there is no second write.
    """

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        if self._head is None and not data.startswith(b"HTTP/1.1 100"):  # the client waits for that one
            self._head = data
            return
        if self._head:
            data, self._head = self._head + data, b""
        self._transport.write(data)

    def close(self) -> None:
        if self._head:
            self.write(b"")
        self._transport.close()

    def is_closing(self) -> bool:
        return bool(self._transport.is_closing())
