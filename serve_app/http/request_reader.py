"""How a route begins: who asks (401), what they send (413, 408), whether their token may do that (403)."""

from __future__ import annotations

from starlette.requests import Request

from serve_app.http.auth import Authenticator, Caller
from serve_app.http.request_body import read_body
from serve_app.settings import HttpSettings


class RequestReader:
    """The checks of every route but POST /api/score, in their order."""

    def __init__(self, authenticator: Authenticator, http: HttpSettings) -> None:
        self._authenticator, self._http = authenticator, http

    async def caller(self, request: Request, *scopes: str) -> Caller:
        """Who asks.

        Raises:
            Unauthorized: 401, no token that counts.
            Problem: 403, a token with none of the scopes.
        """
        caller = await self._authenticator.caller(request.headers.get("authorization"))
        caller.require(*scopes)
        return caller

    async def caller_and_body(self, request: Request, *scopes: str) -> tuple[Caller, bytes]:
        """Who asks, and what they send.

        Raises:
            Unauthorized: 401, no token that counts.
            Problem: 413, the body is too large; 408, it is late; 403, a token with none of the scopes.
            ClientDisconnect: nobody is there any more.
        """
        caller = await self._authenticator.caller(request.headers.get("authorization"))
        body = await read_body(request.scope, request.receive, self._http.body_most_bytes, self._http.body_timeout_s)
        caller.require(*scopes)
        return caller, body
