"""Content that never changes while the server runs: packed once, with an ETag, so that browsers fetch it once."""

from __future__ import annotations

import functools
import gzip
import hashlib

from starlette.requests import Request
from starlette.responses import Response

FOREVER = "public, max-age=31536000, immutable"
"""For what has its digest in its address."""
ASK_EACH_TIME = "no-cache"
"""Kept by browsers, which ask each time whether it is still the same."""


class StaticContent:
    """
    Args:
        packed: the content, packed by gzip.
        headers: further ones of every response.
    """

    def __init__(self, packed: bytes, media_type: str, caching: str, headers: dict[str, str] | None = None) -> None:
        self._packed, self._media_type = packed, media_type
        self.digest = hashlib.sha256(gzip.decompress(packed)).hexdigest()[:16]
        self._headers = {
            "Cache-Control": caching,
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
            **(headers or {}),
        }

    @classmethod
    def of(cls, plain: bytes, media_type: str, caching: str, headers: dict[str, str] | None = None) -> StaticContent:
        """From content that is not packed yet."""
        return cls(gzip.compress(plain, mtime=0), media_type, caching, headers)

    @functools.cached_property
    def _plain(self) -> bytes:
        return gzip.decompress(self._packed)

    def response(self, request: Request) -> Response:
        """200, packed if the client can unpack it; 304 if the client has it already; no body for HEAD."""
        is_packed = _takes_gzip(request.headers.get("accept-encoding", ""))
        tag = f'"{self.digest}{"-gzip" if is_packed else ""}"'
        headers = self._headers | {"ETag": tag}
        if _names(request.headers.get("if-none-match", ""), tag):
            return Response(status_code=304, headers=headers)
        if is_packed:
            headers["Content-Encoding"] = "gzip"
        body = self._packed if is_packed else self._plain
        headers["Content-Length"] = str(len(body))
        return Response(b"" if request.method == "HEAD" else body, headers=headers, media_type=self._media_type)


def _takes_gzip(accepted: str) -> bool:
    """
    >>> [_takes_gzip(text) for text in ("br, gzip", "x-gzip;q=0.5", "*", "gzip;q=0, *", "identity", "")]
    [True, True, True, False, False, False]
    """
    weights = {}
    for part in accepted.lower().split(","):
        name, _, weight = part.partition(";")
        weights[name.strip().removeprefix("x-")] = weight.replace(" ", "")
    weight = weights.get("gzip", weights.get("*", "q=0"))
    return weight.rstrip("0").rstrip(".") not in ("q=", "q=0")


def _names(tags: str, tag: str) -> bool:
    """Whether an If-None-Match names a tag; weak ones count (RFC 9110, 13.1.2).

    >>> [_names(text, '"a"') for text in ('"b", W/"a"', "*", '"ab"', "")]
    [True, True, False, False]
    """
    return any(one.strip().removeprefix("W/") in (tag, "*") for one in tags.split(","))
