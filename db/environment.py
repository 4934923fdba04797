"""Reading one section of settings from the environment: `PACELINE_<SECTION>_<NAME>`."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from db.errors import UserError

PREFIX = "PACELINE_"
SECRET_FIELDS = ("secret", "key")
Section = TypeVar("Section", bound=BaseModel)


class BadSetting(UserError):
    """Some environment variable cannot be used. `problems` says which, and what is allowed."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


def names(section: str, model: type[BaseModel]) -> dict[str, str]:
    """The environment variable of every field of a section; an empty section has bare names."""
    head = f"{PREFIX}{section.upper()}_" if section else PREFIX
    return {field: head + field.upper() for field in model.model_fields}


def read(
    section: str,
    model: type[Section],
    environ: Mapping[str, str] | None = None,
    base: Mapping[str, object] | None = None,
) -> Section:
    """A section from the environment, over `base` (a deploy file's values), over its defaults.

    An empty variable counts as not set.

    Raises:
        BadSetting: a value is not allowed; names the variable and what it may be.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, object] = dict(base or {})
    variables = names(section, model)
    values |= {field: environ[name] for field, name in variables.items() if environ.get(name)}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            field = str(item["loc"][0]) if item["loc"] else ""
            name = variables.get(field, f"{section}.{field}")
            shown = "" if field in SECRET_FIELDS else f"={without_password(values.get(field))!r}"
            problems.append(f"{name}{shown}: {item['msg']}")
        raise BadSetting(problems) from None


def without_password(value: object) -> object:
    """A URL as it may be shown.

    >>> without_password("mysql://app:hunter2@db/x")
    'mysql://app:***@db/x'
    """
    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", value) if isinstance(value, str) else value


def refuse_unknown(known: Iterable[str], environ: Mapping[str, str] | None = None) -> None:
    """A typo in a variable's name must not become a default.

    Raises:
        BadSetting: a `PACELINE_` variable is none of ours; names the nearest that is.
    """
    environ = os.environ if environ is None else environ
    known = set(known)
    problems = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and not name.startswith(PREFIX + "TEST_") and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            problems.append(f"{name}: no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    if problems:
        raise BadSetting(problems)
