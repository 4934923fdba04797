"""Parses bodies, queries and paths into models; mistakes become a 422 response with a pointer to each."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from db.fields import ID, ID_IN_WORDS
from serve_app.http.problem_details import Invalid

Parsed = TypeVar("Parsed", bound=BaseModel)


def parse(model: type[Parsed], body: bytes) -> Parsed:
    """A JSON body as a model.

    Raises:
        Invalid: 422, with a pointer to each mistake.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise Invalid.of(error) from None


def parse_query(model: type[Parsed], request: Request) -> Parsed:
    """A request's query string as a model.

    Raises:
        Invalid: 422, with a pointer to each mistake, or to a parameter that is given twice.
    """
    items = request.query_params.multi_items()
    names = [name for name, _ in items]
    for name in names:
        if names.count(name) > 1:
            raise Invalid.at(f"/query/{name}", "this parameter is given more than once; give it once", "repeated")
    try:
        return model.model_validate(dict(items))
    except ValidationError as error:
        raise Invalid.of(error, prefix=("query",)) from None


def path_id(request: Request, name: str) -> str:
    """The id in a request's path. Raises: Invalid, 422, it is not an id."""
    value: str = request.path_params[name]
    if not ID.fullmatch(value):
        raise Invalid.at(f"/path/{name}", ID_IN_WORDS, "string_pattern_mismatch")
    return value
