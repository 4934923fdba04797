"""JSON answers."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

encode = msgspec.json.Encoder().encode


def json_response(content: Any) -> Response:
    """200 with `content` as its body."""
    return Response(encode(content), media_type="application/json")
