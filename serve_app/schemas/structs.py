"""Makes msgspec structs from the pydantic models: POST /api/score reads and writes them in a tenth of the time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from functools import reduce
from operator import or_
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from msgspec import UNSET, Meta, UnsetType, defstruct
from pydantic import BaseModel
from pydantic.fields import FieldInfo

LEFT_OUT = object()
"""Marks an optional field of a response that is left out, instead of null, where it has not been set."""
PLAIN = (str, int, float, bool, dt.datetime, NoneType)
BOUNDS = {"Ge": "ge", "Le": "le", "MinLen": "min_length", "MaxLen": "max_length"}
"""Class of a pydantic bound → the bound's name, in pydantic and in msgspec."""


def struct_of(model: type[BaseModel], without: Collection[str] = (), unchecked: Collection[Any] = ()) -> type[Any]:
    """A struct with a model's fields: names in JSON, types, bounds, defaults, and whether unknown fields are allowed.

    Required fields come first; nested models become structs, too. What the model's validators check, the caller must
    check itself.

    Args:
        without: names of fields to leave out.
        unchecked: text types, such as `Id`, whose pattern the caller checks itself.

    Raises:
        TypeError: the model has a type or a constraint that a struct cannot express.
    """
    fields = {name: field for name, field in model.model_fields.items() if name not in without}
    required = [(name, _type(field, unchecked)) for name, field in fields.items() if field.is_required()]
    optional = [
        (name, _type(field, unchecked), UNSET if LEFT_OUT in field.metadata else field.default)
        for name, field in fields.items()
        if not field.is_required()
    ]
    return defstruct(
        model.__name__,
        [*required, *optional],
        module=__name__,
        rename={name: field.alias for name, field in fields.items() if field.alias is not None},
        forbid_unknown_fields=model.model_config.get("extra") == "forbid",
        gc=False,
    )


def _type(field: FieldInfo, unchecked: Collection[Any]) -> Any:
    bounds = [bound for bound in field.metadata if bound is not LEFT_OUT]
    hint = Annotated[field.annotation, *bounds] if bounds else field.annotation
    found = _translated(hint, unchecked)
    return found | UnsetType if LEFT_OUT in field.metadata else found


def _translated(hint: Any, unchecked: Collection[Any]) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in unchecked:
        return str
    if hint in PLAIN or origin is Literal:
        return hint
    if origin is Annotated:
        inner, bounds = _translated(arguments[0], unchecked), _bounds(arguments[1:])
        return Annotated[inner, Meta(**bounds)] if bounds else inner
    if origin in (Union, UnionType):
        return reduce(or_, (_translated(argument, unchecked) for argument in arguments))
    if origin in (list, dict):
        return origin[tuple(_translated(argument, unchecked) for argument in arguments)]
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return struct_of(hint, unchecked=unchecked)
    raise TypeError(f"no struct can hold {hint}")


def _bounds(metadata: Collection[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in metadata:
        if isinstance(one, FieldInfo):
            found |= _bounds(one.metadata)
        elif (name := BOUNDS.get(type(one).__name__)) is not None:
            found[name] = getattr(one, name)
        elif getattr(one, "allow_inf_nan", None) is not False:  # JSON has neither
            raise TypeError(f"no struct can hold {one}")
    return found
