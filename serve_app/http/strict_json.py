"""JSON objects that have one meaning only: no name twice, no number that is none."""

from __future__ import annotations

import json
import math
from typing import Any


def strict_object(content: bytes) -> dict[str, Any]:
    """
    Raises:
        ValueError: it is no JSON object, a name comes twice in one object, or a number is not finite.
        RecursionError: it is nested too deeply.

    >>> strict_object(b'{"a": 1}')
    {'a': 1}
    """
    found = json.loads(content, object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice in one JSON object")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large a number")
    return number
