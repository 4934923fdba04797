"""/openapi.json is valid, its examples work on a fresh simulated market, and its errors are those that are given."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from serve_app.http.openapi import PROBLEMS, Operation
from serve_app.routes.api import OPERATIONS
from tests.contract.http import World, request


async def document_of(world: World) -> dict[str, Any]:
    found: dict[str, Any] = (await world.anonymous().get("/openapi.json")).json()
    return found


def fits(document: dict[str, Any], media: dict[str, Any], value: Any) -> None:
    """Raises: ValidationError, the value is not what the document says of it."""
    OAS31Validator({**media["schema"], "components": document["components"]}).validate(value)


def path_of(operation: Operation) -> tuple[str, dict[str, Any]]:
    """An operation's path with its example's ids, and the rest of the example's parameters."""
    path, query = operation.path, dict(operation.examples.parameters)
    for name in [part[1:-1] for part in path.split("/") if part.startswith("{")]:
        path = path.replace(f"{{{name}}}", query.pop(name))
    return path, query


async def test_the_document_is_valid_and_so_are_its_examples(on_sqlite: World) -> None:
    document = await document_of(on_sqlite)
    validate(document)
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["tags"] and operation["summary"]
            bodies = [response["content"] for response in operation["responses"].values()]
            for content in [*bodies, operation.get("requestBody", {"content": {}})["content"]]:
                for media in content.values():
                    fits(document, media, media["example"])
            for parameter in operation.get("parameters", ()):
                assert "example" in parameter or not parameter["required"]
                if "example" in parameter:
                    fits(document, parameter, parameter["example"])


async def test_every_example_works_on_a_fresh_simulated_market(on_sqlite: World) -> None:
    document, admin = await document_of(on_sqlite), on_sqlite.client()
    (model,) = (await admin.get("/api/models")).json()["models"]
    for operation in OPERATIONS:
        path, query = path_of(operation)
        if "{version}" in operation.path:  # which no example can know
            path = f"/api/models/{model['version']}/activate"
        if operation.method == "get":
            answer = await admin.get(path, **query)
        elif operation.method == "put":
            answer = await admin.put(path, operation.examples.body)
        elif operation.method == "patch":
            answer = await admin.patch(path, operation.examples.body)
        else:
            answer = await admin.post(path, operation.examples.body or b"")
        assert answer.status_code == 200, (operation.method, path, answer.text)
        described = document["paths"][operation.path][operation.method]["responses"]["200"]["content"]
        fits(document, described["application/json"], answer.json())
        assert shape(answer.json()) == shape(operation.examples.answer), (operation.method, path)
        if operation.path == "/api/score":
            assert [bid["status"] for bid in answer.json()["ranked"]] == ["won", "lost"]
        if operation.path == "/api/performance":
            assert answer.json()["accepted"] == 1


def shape(value: Any) -> Any:
    """The names of an answer's fields, without those whose meaning is free."""
    if isinstance(value, dict):
        return {name: None if name in ("metrics", "gate") else shape(inner) for name, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else None


async def test_errors_are_given_as_documented(on_sqlite: World) -> None:
    admin, brand = on_sqlite.client(), on_sqlite.client("brand", ("cheap",))
    assert (await admin.post("/api/score", request("documented"))).status_code == 200
    given = {
        "401": await on_sqlite.anonymous().post("/api/score", request("documented")),
        "403": await brand.post("/api/score", request("documented")),
        "404": await admin.get("/api/brands/nobody"),
        "409": await admin.post("/api/score", request("documented", winners=2)),
        "413": await admin.post("/api/score", b" " * (10 * 1024 * 1024 + 1)),
        "422": await admin.post("/api/score", request("documented", winners="two")),
    }
    responses = (await document_of(on_sqlite))["paths"]["/api/score"]["post"]["responses"]
    for status, answer in given.items():
        assert answer.status_code == int(status)
        assert answer.json()["type"] == f"urn:paceline:{PROBLEMS[status].kind}"
        if status in responses:
            media = responses[status]["content"]["application/problem+json"]
            assert {**answer.json(), "detail": "", "instance": "", "errors": []} == {
                **media["example"],
                "detail": "",
                "instance": "",
                "errors": [],
            }


def test_no_error_is_described_that_no_route_gives() -> None:
    assert {status for operation in OPERATIONS for status in operation.statuses} == set(PROBLEMS)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: f"{operation.method} {operation.path}")
def test_an_examples_answer_is_one_of_its_route(operation: Operation) -> None:
    operation.answer.model_validate_json(json.dumps(operation.examples.answer))
    if operation.body:
        operation.body.model_validate_json(json.dumps(operation.examples.body))
