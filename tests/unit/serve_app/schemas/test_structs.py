"""What is read and written fast is made from the contract: it cannot say something else."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import fields
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from db.brands import Id
from db.fields import ID, ID_CHARACTERS, ID_MOST_CHARACTERS
from serve_app.http.json_response import encode
from serve_app.schemas.fields import Time
from serve_app.schemas.score import Bid, ScoreRequest
from serve_app.schemas.structs import LEFT_OUT, struct_of
from serve_app.scoring.bids import FIELDS
from serve_app.scoring.request import RequestColumns, read_fast

GOOD: dict[str, Any] = {"count": 3, "names": ["a"], "parts": [{"kind": "x"}]}


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Literal["x", "y"]
    weight: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    note: str | None = None
    count: Annotated[int, Field(ge=1, le=5)]
    names: Annotated[list[Id], Field(min_length=1, max_length=2)]
    parts: list[Part]
    lambda_: float = Field(default=2.0, alias="lambda")
    is_late: bool = False


@pytest.mark.parametrize(
    "change",
    [
        {}, {"note": None}, {"note": "n"}, {"note": 1}, {"count": 1}, {"count": 0}, {"count": 5}, {"count": 6},
        {"count": "3"}, {"count": True}, {"count": 3.5}, {"count": None}, {"names": []}, {"names": ["a", "b", "c"]},
        {"names": [1]}, {"parts": [{"kind": "z"}]}, {"parts": [{}]}, {"parts": [{"kind": "y", "weight": 1.5}]},
        {"parts": [{"kind": "y", "weight": 1}]}, {"parts": [{"kind": "y", "more": 1}]}, {"lambda": 0.5},
        {"lambda_": 0.5}, {"is_late": 1}, {"is_late": True}, {"unknown": 1},
    ],
)  # fmt: skip
def test_a_struct_takes_what_its_model_takes(change):
    content = json.dumps(GOOD | change).encode()
    struct = struct_of(Whole, unchecked=(Id,))
    try:
        judged = Whole.model_validate_json(content)
    except ValidationError:
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(content, type=struct)
        return
    found = msgspec.json.decode(content, type=struct)
    assert {name: getattr(found, name) for name in ("note", "count", "names", "lambda_", "is_late")} == (
        judged.model_dump(exclude={"parts"})
    )
    assert [(part.kind, part.weight) for part in found.parts] == [(part.kind, part.weight) for part in judged.parts]


@pytest.mark.parametrize(
    "kind",
    [
        Annotated[str, StringConstraints(pattern="^a$")],
        Annotated[str, StringConstraints(max_length=5)],
        Annotated[int, Field(gt=1)],
        Annotated[int, Field(multiple_of=2)],
        Time,
        dt.timedelta,
        set[str],
    ],
)
def test_what_a_struct_cannot_hold_is_refused_when_it_is_made(kind):
    """A constraint that is added to the contract cannot be forgotten."""
    model = type("Odd", (BaseModel,), {"__annotations__": {"odd": kind}})
    with pytest.raises(TypeError, match="no struct can hold"):
        struct_of(model)


def test_columns_are_the_contract_s_fields():
    struct = struct_of(Bid, unchecked=(Id,))
    assert tuple(field.name for field in msgspec.structs.fields(struct)) == FIELDS, "in a struct's order"
    assert set(FIELDS) == set(Bid.model_fields)
    assert [field.name.removesuffix("_s") for field in fields(RequestColumns)] == list(ScoreRequest.model_fields)


BID = dict.fromkeys(FIELDS[:6], "i") | {"pricing_model": "cpm", "price_micros": 1}
IDS = [name for name, hint in get_type_hints(Bid, include_extras=True).items() if Id in (hint, *get_args(hint))]


@pytest.mark.parametrize("wrong", ["", "a b", "a\n", "é", "a" * 65, ".", ".."])
@pytest.mark.parametrize("name", [*IDS, "request_id", "currency"])
def test_text_that_the_struct_does_not_check_is_checked(name, wrong):
    request = {"request_id": "r", "bids": [BID], "currency": "EUR"}

    def reads(changed: dict[str, Any]) -> bool:
        found = read_fast(json.dumps(changed).encode())
        return found is not None and found.bids.have_ids()

    assert reads(request)
    assert not reads(request | {name: wrong} if name in request else request | {"bids": [BID | {name: wrong}]})


def test_what_is_left_out_is_not_null():
    class Answer(BaseModel):
        said: int | None = None
        extra: Annotated[int | None, LEFT_OUT] = None

    struct = struct_of(Answer)
    assert [encode(struct(*given)) for given in ((), (1, None), (1, 2))] == [
        b'{"said":null}',
        b'{"said":1,"extra":null}',
        b'{"said":1,"extra":2}',
    ]


def test_an_id_is_one_thing():
    assert all(ID.fullmatch(one) for one in ID_CHARACTERS if one != ".")
    assert not any(ID.fullmatch(dots) for dots in (".", "..")) and ID.fullmatch("...") and ID.fullmatch(".a")
    assert len(ID_CHARACTERS) == 26 * 2 + 10 + 4
    assert ID.fullmatch("a" * ID_MOST_CHARACTERS) and not ID.fullmatch("a" * (ID_MOST_CHARACTERS + 1))
