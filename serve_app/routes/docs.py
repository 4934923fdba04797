"""The contract for people and programs: /docs, /openapi.json."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from serve_app.http.json_response import encode
from serve_app.http.openapi import Operation, document

TITLE, VERSION = "Paceline", "0.1.0"
DESCRIPTION = (
    "Scores bids by revenue × multiplier − λ × cost, holds the winners' predicted cost in their brands' budgets, "
    "and learns from the results. Money is integer micros of the brand's currency."
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
