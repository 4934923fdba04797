"""JSON encoding of responses."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

encode = msgspec.json.Encoder().encode


def json_response(content: Any) -> Response:
    """A 200 response with `content` as its body."""
    return Response(encode(content), media_type="application/json")
