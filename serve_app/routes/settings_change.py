"""PUT and PATCH of settings: what a request asks for, and the ETag with which it says what it has seen."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NamedTuple

import msgspec
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from db.brands import ABOVE_TARGET, BrandSettings, PortfolioSettings, settings_tag
from ledger.domain.messages import Change
from serve_app.http.json_response import json_response
from serve_app.http.openapi import PATCH_TYPES
from serve_app.http.problem_details import Invalid, Problem


class Resource(NamedTuple):
    """What can be changed."""

    settings: type[BrandSettings | PortfolioSettings]
    shown: type[BaseModel]  # with the settings, what GET adds to them
    id_name: str


def change_of(resource: Resource, id_: str, request: Request, body: bytes, defaults: dict[str, Any]) -> Change:
    """What a PUT or PATCH asks for. What GET adds to the settings may be in its body, too, and is left out of account.

    Raises:
        Problem: 415, the body of a PATCH is of another type: JSON Patch, for one, would mean something else.
        Invalid: 422, with a pointer to each mistake.
    """
    is_patch, kind = request.method == "PATCH", request.headers.get("content-type", "").split(";")[0].strip().lower()
    if is_patch and kind and kind not in PATCH_TYPES:
        detail = f"a PATCH is {' or '.join(PATCH_TYPES)}, not {kind}"
        raise Problem(415, detail, "unsupported-media-type", {"Accept-Patch": ", ".join(PATCH_TYPES)})
    given = _object(body)
    if given.get(resource.id_name, id_) != id_:
        raise Invalid.at(f"/{resource.id_name}", f"it is not the one in the path, {id_}", "other_id")
    added = {field.alias or name for name, field in resource.shown.model_fields.items()}
    added -= resource.settings.model_fields.keys()
    change = Change(
        {name: value for name, value in given.items() if name not in added},
        None if is_patch else defaults,
        _tags(request, "if-match"),
        _tags(request, "if-none-match"),
        given.get("scheduled") is not None,
    )
    try:
        resource.settings.model_validate({**defaults, **change.given}, strict=True)
    except ValidationError as error:
        # These depend on what it has, which the ledger knows.
        wrong = [
            one for one in error.errors(include_url=False) if one["type"] not in ("currency_unknown", ABOVE_TARGET)
        ]
        if wrong:
            raise Invalid.of_items(wrong) from None
    return change


def shown(resource: Resource, content: dict[str, Any]) -> Response:
    """The settings as they are now, with their ETag."""
    scheduled = content.get("scheduled")
    tag = settings_tag(
        {name: content[name] for name in resource.settings.model_fields},
        scheduled and (scheduled["portfolio_id"], scheduled["timezone"], scheduled["from"]),
    )
    response = json_response(content)
    response.headers["ETag"] = f'"{tag}"'
    return response


def _object(body: bytes) -> dict[str, Any]:
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.extend(name for name, number in Counter(name for name, _ in pairs).items() if number > 1)
        return dict(pairs)

    try:
        given = msgspec.json.decode(body)
        json.loads(body, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # msgspec's errors, and text that is not UTF-8, are ValueErrors
        raise Invalid.at("", f"the body is not JSON: {error}", "json_invalid") from None
    if repeated:  # which of two budgets is meant?
        raise Invalid.at("", f"{repeated[0]!r:.80} is given more than once; give it once", "repeated")
    if not isinstance(given, dict):
        raise Invalid.at("", "the body must be a JSON object", "model_type")
    return given


def _tags(request: Request, header: str) -> tuple[str, ...]:
    """The strong tags that a header lists; a weak one never matches, nor does what an empty header has: one tag, ""."""
    lines = request.headers.getlist(header)
    return tuple(part.strip().strip('"') for part in ",".join(lines).split(",")) if lines else ()
