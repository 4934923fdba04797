"""Middleware around Ray Serve's own request handling that saves Serve and uvicorn work on POST /api/score.

Serve loads it by its official hook, an environment variable of the replicas:
`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve_app.http.response_coalescing:middlewares`. It needs
`RAY_SERVE_THROUGHPUT_OPTIMIZED=1` beside it, so that requests run on the event loop that serves them. Without the two
variables everything works, only slower.
"""

from __future__ import annotations

from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

SCORE = "/api/score"
UNWATCHED = (b"x-request-disconnect-disabled", b"?1")
"""Serve's own header: it starts no tasks that watch for a disconnect. `ScoreEndpoint` watches where it waits."""


def middlewares() -> list[Middleware]:
    """What Serve's hook asks for."""
    return [Middleware(ResponseCoalescer)]


class ResponseCoalescer:
    """Applies both savings to POST /api/score and leaves other requests alone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == SCORE and scope["method"] == "POST":
            scope["headers"] = [*scope["headers"], UNWATCHED]
            cycle: Any = getattr(send, "__self__", None)  # uvicorn's object for one request and its response
            if hasattr(cycle, "transport"):
                cycle.transport = HeadWithBody(cycle.transport)
        await self._app(scope, receive, send)


class HeadWithBody:
    """A transport that holds the first write back for the second: a response's head and body leave in one system call.

    uvicorn writes them separately, and HAProxy would wake up for each. Only for methods whose responses have a body: a
    HEAD has no second write.
    """

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        if self._head is None and not data.startswith(
            b"HTTP/1.1 100"
        ):  # the client waits for it before it sends the body
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
