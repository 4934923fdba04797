"""Field types and base models that the schemas of several resources share."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from db.fields import MOST_MICROS
from db.times import parse_time

EARLIEST, LATEST = dt.datetime(1971, 1, 1, tzinfo=dt.UTC), dt.datetime(2200, 1, 1, tzinfo=dt.UTC)


def _time(value: Any) -> Any:
    # Parsed here, because in strict mode pydantic reads times from text only where it parses the JSON itself.
    if isinstance(value, str) and (at := parse_time(value)) is not None:
        return at
    raise PydanticCustomError("rfc3339", "must be an RFC 3339 time with an offset, such as 2026-01-31T12:00:00Z")


def _range(value: dt.datetime) -> dt.datetime:
    if not EARLIEST <= value <= LATEST:
        raise PydanticCustomError("time_range", "must be a time between the years 1971 and 2200")
    return value


AnyTime = Annotated[AwareDatetime, BeforeValidator(_time)]
Time = Annotated[AnyTime, AfterValidator(_range)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Price = Annotated[int, Field(ge=1, le=MOST_MICROS)]
Money = Annotated[int, Field(ge=-MOST_MICROS, le=MOST_MICROS)]
Count = Annotated[int, Field(ge=0, le=MOST_MICROS)]

PricingModel = Literal["cpm", "cpc", "cpa", "revshare"]


class Body(BaseModel):
    """Base of request bodies and their parts: unknown fields are refused, values are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class Query(BaseModel):
    """Base of query strings: unknown parameters are refused, numbers and times are parsed from their text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Answer(BaseModel):
    """Base of responses and their parts."""

    model_config = ConfigDict(use_attribute_docstrings=True)
