"""The checks with which a route begins: the token (401), the body (413, 408), the token's scope (403)."""

from __future__ import annotations

from starlette.requests import Request

from serve_app.http.auth import Authenticator, Caller
from serve_app.http.jwks import Health
from serve_app.http.request_body import read_body
from serve_app.settings import HttpSettings


class RequestReader:
    """The checks of every route but POST /api/score, in this order."""

    def __init__(self, authenticator: Authenticator, http: HttpSettings) -> None:
        self._authenticator, self._http = authenticator, http

    @property
    def keys(self) -> Health:
        """How the token keys are."""
        return self._authenticator.health

    async def caller(self, request: Request, *scopes: str) -> Caller:
        """Who sent the request.

        Raises:
            Unauthorized: 401, the token is missing or not valid.
            Problem: 403, the token has none of the scopes; 503, the token keys cannot be read.
        """
        caller = await self._authenticator.caller(request.headers.get("authorization"))
        caller.require(*scopes)
        return caller

    async def caller_and_body(self, request: Request, *scopes: str) -> tuple[Caller, bytes]:
        """(who sent the request, its body).

        Raises:
            Unauthorized: 401, the token is missing or not valid.
            Problem: 413, the body is too large; 408, it did not arrive in time; 403, the token has none of the scopes;
                503, the token keys cannot be read.
            ClientDisconnect: the client closed the connection.
        """
        caller = await self._authenticator.caller(request.headers.get("authorization"))
        body = await read_body(request.scope, request.receive, self._http.body_most_bytes, self._http.body_timeout_s)
        caller.require(*scopes)
        return caller, body
