"""Builds the OpenAPI document from the models that validate requests and describe responses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from db.fields import ID_IN_WORDS, ID_PATTERN
from serve_app.http.problem_details import ProblemBody

PROBLEMS = {
    "400": "The request is not valid HTTP",
    "401": "The bearer token is missing, expired or not valid; `detail` says which",
    "403": "The token's scope does not allow this route",
    "404": "It does not exist, or belongs to another caller",
    "409": "It conflicts with an earlier request or with the present state; `detail` says how",
    "413": "The body is larger than the server accepts",
    "422": "The body, the path or the query has mistakes; `errors` points to each of them",
    "429": "Too many requests; try again after `Retry-After` seconds",
    "503": "The server cannot answer just now; try again after `Retry-After` seconds",
}
ID_SCHEMA = {"type": "string", "pattern": f"^{ID_PATTERN}$"}
REFERENCE = "#/components/schemas/{model}"


class Operation(NamedTuple):
    """One documented route. `problems`: the statuses that it answers beside 401, 403, 422 and 503."""

    method: str
    path: str
    summary: str
    answer: type[BaseModel]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    problems: tuple[str, ...] = ()


def document(title: str, version: str, description: str, operations: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes, ready for JSON."""
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
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
        "security": [{"bearer": []}],
    }


def _operation(operation: Operation, reference: dict[Any, Any], components: dict[str, Any]) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": reference[ProblemBody]}}
    statuses = ("401", "403", "422", "503", *operation.problems)
    entry: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": "_".join([operation.method, *re.findall(r"\w+", operation.path)]),
        "responses": {
            "200": {"description": "OK", "content": {"application/json": {"schema": reference[operation.answer]}}},
            **{status: {"description": PROBLEMS[status], "content": problem} for status in sorted(set(statuses))},
        },
    }
    parameters: list[dict[str, Any]] = [
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
        parameters += [
            {
                "name": name,
                "in": "query",
                "required": name in schema.get("required", ()),
                "description": field.get("description", ""),  # pages show this one, not the schema's own
                "schema": field,
            }
            for name, field in schema["properties"].items()
        ]
    if parameters:
        entry["parameters"] = parameters
    if operation.body is not None:
        entry["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": reference[operation.body]}},
        }
    return entry
