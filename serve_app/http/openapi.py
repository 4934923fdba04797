"""Builds the OpenAPI document from the models that validate requests and describe responses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from db.fields import ID_IN_WORDS, ID_PATTERN
from serve_app.http.problem_details import ProblemBody
from serve_app.schemas.examples import Examples


class Told(NamedTuple):
    """What an error response means, with an example of its `type` and `detail`."""

    description: str
    kind: str
    detail: str


PROBLEMS = {
    "401": Told(
        "The bearer token is missing, expired or not valid; `detail` says which",
        "unauthorized",
        "the token has expired: get a new one",
    ),
    "403": Told(
        "The token's scope does not allow this route", "forbidden", "this route needs a token with scope admin"
    ),
    "404": Told("It does not exist, or belongs to another caller", "not-found", "no such brand"),
    "408": Told(
        "The body has not arrived in time; send it again",
        "timeout",
        "the body did not arrive within 10 s; send it again",
    ),
    "409": Told(
        "It conflicts with an earlier request or with the present state; `detail` says how",
        "request-id-reused",
        "request_id try-1 was used with another body; give each request its own id",
    ),
    "412": Told(
        "It is not, or no longer, what `If-Match` or `If-None-Match` says",
        "precondition-failed",
        "brand shop-a: If-Match: it has changed since you read it; GET it and try again",
    ),
    "413": Told(
        "The body is larger than the server accepts",
        "too-large",
        "the body is larger than 10,485,760 bytes; divide it into several requests",
    ),
    "415": Told(
        "The body of a PATCH is of a type that is not understood; `Accept-Patch` says which are",
        "unsupported-media-type",
        "a PATCH is application/merge-patch+json or application/json, not application/json-patch+json",
    ),
    "422": Told(
        "The body, the path or the query has mistakes; `errors` points to each of them",
        "invalid",
        "/bids/0/price_micros: Input should be a valid integer",
    ),
    "500": Told(
        "An unexpected error; quote `instance` when you report it",
        "internal",
        "unexpected error in the server; its log has the cause under this instance",
    ),
    "503": Told(
        "The server cannot answer just now; try again after `Retry-After` seconds",
        "ledger-unavailable",
        "the ledger, which keeps brands and budgets, cannot be reached just now; try again",
    ),
}
MISTAKE = {"pointer": "/bids/0/price_micros", "message": "Input should be a valid integer", "code": "int_type"}
ALWAYS = ("401", "403", "500", "503")
ID_SCHEMA = {"type": "string", "pattern": f"^{ID_PATTERN}$"}
PATCH_TYPES = ("application/merge-patch+json", "application/json")
ETAG = {"description": "Tells these settings from others; send it as `If-Match`.", "schema": {"type": "string"}}
PRECONDITIONS = {
    "If-Match": "Change them only if they are still those with this ETag; `*`: only if it exists. Else 412.",
    "If-None-Match": "`*`: only if it does not exist yet. Else 412.",
}
REFERENCE = "#/components/schemas/{model}"


class Operation(NamedTuple):
    """One documented route.

    `tag`: its heading. `problems`: the statuses that it answers beside those of every route, those of a body (408, 413)
    and that of mistakes in a body or a query (422). `is_settings`: its answer has an ETag, and its body, if it has one,
    may hold all that the answer holds.
    """

    method: str
    path: str
    summary: str
    answer: type[BaseModel]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    problems: tuple[str, ...] = ()
    tag: str = ""
    description: str = ""
    examples: Examples | None = None
    is_settings: bool = False

    @property
    def statuses(self) -> list[str]:
        """All but 200 that it answers."""
        of_body = ("408", "413") if self.body else ()
        of_mistakes = ("422",) if self.body or self.query else ()
        return sorted({*ALWAYS, *of_body, *of_mistakes, *self.problems})


def document(title: str, version: str, description: str, token: str, operations: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes, ready for JSON. `token`: how to get one."""
    bodies = {operation.body for operation in operations if operation.body} | {
        operation.query for operation in operations if operation.query
    }
    answers = {operation.answer for operation in operations} | {ProblemBody}
    pairs: list[tuple[type[BaseModel], Any]] = [(model, "validation") for model in bodies]
    pairs += [(model, "serialization") for model in answers]
    schemas, definitions = models_json_schema(
        sorted(pairs, key=lambda pair: pair[0].__name__), by_alias=True, ref_template=REFERENCE
    )
    reference: dict[Any, Any] = {model: schema for (model, _), schema in schemas.items()}
    components = definitions["$defs"]
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, reference, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": description},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": token}
            },
        },
        "security": [{"bearer": []}],
    }


def _operation(operation: Operation, reference: dict[Any, Any], components: dict[str, Any]) -> dict[str, Any]:
    examples = operation.examples
    entry: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "operationId": "_".join([operation.method, *re.findall(r"\w+", operation.path)]),
        "responses": {
            "200": {
                "description": "OK",
                "content": _json(reference[operation.answer], examples and examples.answer),
                **({"headers": {"ETag": ETAG}} if operation.is_settings else {}),
            },
            **{status: _problem(status, reference) for status in operation.statuses},
        },
    }
    if parameters := _parameters(operation, components):
        entry["parameters"] = parameters
    if operation.body is not None:
        schema = reference[operation.body]
        if operation.is_settings:
            schema = _change(operation, operation.body, components)
        content = _json(schema, examples and examples.body)
        if operation.method == "patch":
            content = dict.fromkeys(PATCH_TYPES, content["application/json"])
        entry["requestBody"] = {"required": True, "content": content}
    return {name: value for name, value in entry.items() if value not in ("", [""])}


def _change(operation: Operation, body: type[BaseModel], components: dict[str, Any]) -> dict[str, Any]:
    """What a PUT or PATCH of settings may hold: they, and what the answer adds to them, which changes nothing."""
    own, shown = (components[model.__name__]["properties"] for model in (body, operation.answer))
    left_out = ("default",) if operation.method == "patch" else ()  # it stays as it is
    settings = {name: {key: of for key, of in field.items() if key not in left_out} for name, field in own.items()}
    added = {name: field | {"readOnly": True} for name, field in shown.items() if name not in own}
    name = f"{operation.answer.__name__}{operation.method.title()}"
    components[name] = {
        "title": name,
        "description": f"{operation.summary}. What is only read may be there, and changes nothing.",
        "type": "object",
        "properties": settings | added,
        "additionalProperties": False,
    }
    return {"$ref": REFERENCE.format(model=name)}


def _json(schema: dict[str, Any], example: dict[str, Any] | None) -> dict[str, Any]:
    return {"application/json": {"schema": schema, **({} if example is None else {"example": example})}}


def _problem(status: str, reference: dict[Any, Any]) -> dict[str, Any]:
    told = PROBLEMS[status]
    example: dict[str, Any] = {
        "type": f"urn:paceline:{told.kind}",
        "title": HTTPStatus(int(status)).phrase,
        "status": int(status),
        "detail": told.detail,
        "instance": "5f0c4b1e9a7d4c3f8e21b6d0a9c7e514",
    }
    if status == "422":
        example["errors"] = [MISTAKE]
    content = {"application/problem+json": {"schema": reference[ProblemBody], "example": example}}
    return {"description": told.description, "content": content}


def _parameters(operation: Operation, components: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {
            "name": part[1:-1],
            "in": "path",
            "required": True,
            "description": ID_IN_WORDS,
            "schema": ID_SCHEMA,
        }
        for part in operation.path.split("/")
        if part.startswith("{")
    ]
    if operation.query is not None:
        schema = components[operation.query.__name__]
        found += [
            {
                "name": name,
                "in": "query",
                "required": name in schema.get("required", ()),
                "description": field.get("description", ""),  # pages show this one, not the schema's own
                "schema": field,
            }
            for name, field in schema["properties"].items()
        ]
    if operation.is_settings and operation.body is not None:
        found += [
            {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
            for name, text in PRECONDITIONS.items()
        ]
    examples = operation.examples.parameters if operation.examples else {}
    return [one | ({"example": examples[one["name"]]} if one["name"] in examples else {}) for one in found]
