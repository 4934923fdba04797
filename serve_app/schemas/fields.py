"""The types of fields that several resources have."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from db.fields import MOST_MICROS

RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
EARLIEST, LATEST = dt.datetime(1971, 1, 1, tzinfo=dt.UTC), dt.datetime(2200, 1, 1, tzinfo=dt.UTC)


def _time(value: Any) -> Any:
    # Parsed here: in strict mode pydantic takes text for a time only where it reads the JSON itself.
    try:
        if isinstance(value, str) and RFC3339.fullmatch(value):
            return dt.datetime.fromisoformat(value.upper())
    except ValueError:
        pass  # the 30th of February
    raise PydanticCustomError("rfc3339", "must be an RFC 3339 time such as 2026-01-31T12:00:00Z")


def _range(value: dt.datetime) -> dt.datetime:
    if not EARLIEST <= value <= LATEST:
        raise PydanticCustomError("time_range", "must lie between 1971 and 2200")
    return value


Time = Annotated[AwareDatetime, BeforeValidator(_time), AfterValidator(_range)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Price = Annotated[int, Field(ge=1, le=MOST_MICROS)]
Money = Annotated[int, Field(ge=-MOST_MICROS, le=MOST_MICROS)]
Count = Annotated[int, Field(ge=0, le=MOST_MICROS)]

PricingModel = Literal["cpm", "cpc", "cpa", "revshare"]


class Body(BaseModel):
    """A body, or a part of one: no field that is not known, nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Query(BaseModel):
    """A query: no field that is not known. It is text, so numbers are read from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
