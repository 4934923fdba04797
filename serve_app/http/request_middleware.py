"""Wraps every request: X-Request-ID, error responses, a line in the access log, a limit on concurrent requests."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.http.access_log import AccessLog
from serve_app.http.headers import header
from serve_app.http.problem_details import Problem, Unauthorized, unavailable

errors_logger = logging.getLogger("paceline.errors")


class RequestMiddleware:
    """Wraps an ASGI application; what it raises becomes a problem response, never a traceback.

    Args:
        log: gets a line for each request.
        most: requests at a time; further ones are answered with 503.
        adds_request_id: put X-Request-ID into the response. Ray Serve does that by itself, from the request's header.
    """

    def __init__(self, app: ASGIApp, log: AccessLog, adds_request_id: bool = True, most: int = 1024) -> None:
        self._app, self._log, self._adds_request_id, self._most = app, log, adds_request_id, most
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = header(scope, b"x-request-id") or uuid.uuid4().hex.encode()
        status, refused = 0, ""

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._adds_request_id:
                    message["headers"] = [*message.get("headers", ()), (b"x-request-id", name)]
            await send(message)

        began = time.perf_counter()
        scope["app"] = self  # makes the router raise for a wrong method instead of answering text
        self._inside += 1
        try:
            if self._inside > self._most:
                raise unavailable("this replica has too many requests at once; try again", "overloaded")
            await self._app(scope, receive, named)
        except ClientDisconnect:
            status = 499
        except asyncio.CancelledError:
            status = status or 499
            raise
        except Exception as error:
            problem = _problem(error, name.decode("latin-1"))
            refused = problem.code if isinstance(problem, Unauthorized) else ""
            if status:
                raise  # the response has begun: all that can be done is to close the connection
            await problem.response(name.decode("latin-1"))(scope, receive, named)
        finally:
            self._inside -= 1
            seconds = time.perf_counter() - began
            self._log.add(scope["method"], scope["path"], status, seconds, name, header(scope, b"traceparent"), refused)


def _problem(error: Exception, name: str) -> Problem:
    """The response for an error that no handler has turned into one. `name`: the request's X-Request-ID."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return Problem(error.status_code, error.detail, headers=error.headers)
    if isinstance(error, TimeoutError):
        return unavailable("the request took too long; try again")
    errors_logger.error("request %s failed with an unexpected error and was answered with 500", name, exc_info=error)
    return Problem(500, "unexpected error in the server; its log has the cause under this instance", "internal")
