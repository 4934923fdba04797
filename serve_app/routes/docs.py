"""/openapi.json, the contract for programs, and /docs, the same for people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

from starlette.requests import Request
from starlette.responses import Response

from serve_app.http.json_response import encode
from serve_app.http.openapi import Operation, document
from serve_app.http.problem_details import not_found
from serve_app.http.static_content import ASK_EACH_TIME, FOREVER, StaticContent

TITLE, VERSION = "Paceline", "0.1.0"
DESCRIPTION = """\
Paceline decides which brand's bid gets a partner's slot, holds its cost in the brand's budget, and learns from the \
results that you report.

**To try it**, print a token with `.venv/bin/paceline token --scope admin` (the `ready` line of `make run` ends with \
one, too), press *Authorize* and paste it. Then open a route, press *Try it out* and *Execute*: the examples fit the \
simulated market that Paceline starts with.

- **Score** = predicted revenue × strategy multiplier − λ × predicted cost.
- **Money** is in micros of the brand's currency: 1,000,000 are one unit. Amounts are integers; expected values per \
impression are numbers with a fraction.
- **Times** are RFC 3339 with an offset, such as `2026-01-31T12:00:00Z`. **Ids** are 1 to 64 characters of \
`A-Z a-z 0-9 . _ : -`.
- **Errors** are `application/problem+json` (RFC 9457). Unknown fields are refused, so that a misspelt name never \
becomes a default. There are no rate limits; a server with too much to do answers 503 with `Retry-After`.
- Without a token: `/healthz`, `/readyz`, this page; and `/metrics` from this machine.
"""
TOKEN = "What `.venv/bin/paceline token --scope admin` prints. This browser keeps it until you press *Logout*."
FOLDER = Path(__file__).resolve().parent / "docs_page"
PACKED = ("swagger-ui-bundle.js", "swagger-ui.css")
"""Swagger UI, made by `tools/vendor_swagger_ui.sh`."""
OWN = ("page.js", "page.css")
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of the page: nothing runs or loads but this server's own files, whatever a field of the document holds."""


class DocsRoutes:
    """
    Args:
        operations: the documented routes, in order.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._document = StaticContent.of(
            encode(document(TITLE, VERSION, DESCRIPTION, TOKEN, operations)), "application/json", ASK_EACH_TIME
        )
        self._files: dict[str, StaticContent] = {}
        addresses = {}
        for name in (*PACKED, *OWN):
            stem, suffix = Path(name).stem, Path(name).suffix
            content = (
                StaticContent((FOLDER / "vendor" / f"{name}.gz").read_bytes(), MEDIA_TYPES[suffix], FOREVER)
                if name in PACKED
                else StaticContent.of((FOLDER / name).read_bytes(), MEDIA_TYPES[suffix], FOREVER)
            )
            addressed = f"{stem}.{content.digest}{suffix}"
            self._files[addressed] = content
            addresses[re.sub(r"\W", "_", name)] = f"docs/{addressed}"
        page = Template((FOLDER / "index.html").read_text(encoding="utf-8")).substitute(title=TITLE, **addresses)
        headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
        self._page = StaticContent.of(page.encode(), "text/html", ASK_EACH_TIME, headers)

    async def root(self, _request: Request) -> Response:
        """To the page. The address is relative: it also holds behind a proxy with a prefix."""
        return Response(status_code=307, headers={"Location": "docs"})

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI document."""
        return self._document.response(request)

    async def docs(self, request: Request) -> Response:
        """Swagger UI over it."""
        return self._page.response(request)

    async def file(self, request: Request) -> Response:
        """What the page loads. Raises: Problem, 404, it loads no such file."""
        content = self._files.get(request.path_params["name"])
        if content is None:
            raise not_found("file; /docs says which there are")
        return content.response(request)
