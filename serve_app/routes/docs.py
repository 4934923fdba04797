"""/openapi.json, the contract for programs, and /docs, the same for people."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from serve_app.http.json_response import encode
from serve_app.http.openapi import Operation, document

TITLE, VERSION = "Paceline", "0.1.0"
DESCRIPTION = (
    "Paceline scores bids as predicted revenue × strategy multiplier − λ × predicted cost, reserves the winners' "
    "predicted cost in their brands' budgets, and learns from the results that you report.\n\n"
    "Money is in micros of the brand's currency: 1,000,000 micros are one unit. Amounts are integers; expected values "
    "per impression are numbers with a fraction. Times are RFC 3339 with an offset, such as 2026-01-31T12:00:00Z. "
    "Ids are 1 to 64 characters of A-Z a-z 0-9 . _ : -. Unknown fields are refused, so that a misspelt name never "
    "becomes a default. Errors are `application/problem+json` (RFC 9457)."
)
PAGE = f"""\
<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1.0">
<title>{TITLE}</title>
<link rel="stylesheet" href="https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({{
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  layout: "BaseLayout",
  deepLinking: true,
  showExtensions: true,
  showCommonExtensions: true,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
}})
</script>
</body>
</html>
"""


class DocsRoutes:
    """
    Args:
        operations: the documented routes, in order.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._document = encode(document(TITLE, VERSION, DESCRIPTION, operations))

    async def openapi(self, _request: Request) -> Response:
        """The OpenAPI document."""
        return Response(self._document, media_type="application/json")

    async def docs(self, _request: Request) -> Response:
        """Swagger UI over it."""
        return HTMLResponse(PAGE)
