"""Settings from the environment: `PACELINE_<SECTION>_<NAME>`, read by pydantic-settings."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Self, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from db.errors import UserError

PREFIX = "PACELINE_"
BARE = "general"
"""The section whose variables have no section in their names: `PACELINE_CURRENCY`."""
SECRET_FIELDS = ("secret", "key")
SECTIONS = ("http", "jwt", "database", "redis", "serve", "score", "ledger", "roas", "model", "new_brand", "test")
BARE_NAMES = ("PACELINE_JWKS", "PACELINE_STATE", "PACELINE_CURRENCY", "PACELINE_HISTORY_FROM")
"""All sections and bare names, those of packages above this one too. A variable that begins with none is a typo."""


class BadSetting(UserError):
    """Settings cannot be used. `problems` has a line for each: its name, its value, and what is allowed."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


class Environment(BaseSettings):
    """Settings by section, one field each. The environment wins over the arguments of `load`, these over the defaults.

    A blank variable counts as not set. No `.env` file is read.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="_", env_nested_max_split=1
    )

    @classmethod
    def load(cls, args: Mapping[str, Any] | None = None) -> Self:
        """Read the settings.

        Args:
            args: values by section, as in a deploy file.

        Raises:
            BadSetting: with a line for every variable and every one of `args` that cannot be used.
        """
        known = cls.variables()
        unknown = [name for name in os.environ if name not in known and cls.owns(name)]
        problems = [f"{name}: no such setting{did_you_mean(name.upper(), known)}" for name in unknown]
        try:
            settings = cls(**{section: values for section, values in (args or {}).items() if values is not None})
        except ValidationError as error:
            problems += map(cls._line, error.errors())
        if problems:
            raise BadSetting(sorted(set(problems)))
        return settings

    @classmethod
    def sections(cls) -> dict[str, type[BaseModel]]:
        return {section: cast(type[BaseModel], field.annotation) for section, field in cls.model_fields.items()}

    @classmethod
    def variables(cls) -> dict[str, tuple[str, str]]:
        """(section, field) of every environment variable."""
        return {
            (PREFIX + ("" if section == BARE else f"{section}_") + field).upper(): (section, field)
            for section, model in cls.sections().items()
            for field in model.model_fields
        }

    @classmethod
    def owns(cls, name: str) -> bool:
        """Whether a variable must be one of `variables`. Variables of other sections are checked by their programs."""
        others = [f"{section}_" for section in SECTIONS if section not in cls.sections()]
        return (
            name.upper().startswith(PREFIX)
            and name not in BARE_NAMES
            and not name.lower().removeprefix(PREFIX.lower()).startswith(tuple(others))
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The sources that pydantic-settings reads; earlier ones win."""
        environment = EnvSettingsSource(settings_cls)
        environment.env_vars = {
            f"{PREFIX}{section}_{field}".lower(): os.environ[name]
            for name, (section, field) in cls.variables().items()
            if os.environ.get(name, "").strip()
        }
        return environment, init_settings

    @classmethod
    def _default(cls, section: str, field: str = "", *_: str) -> Any:
        """A field's default; None if there is none, or no such field."""
        info = cls.sections()[section].model_fields.get(field)
        return None if info is None else info.default

    @classmethod
    def _line(cls, error: ErrorDetails) -> str:
        """The line of one of pydantic's errors."""
        path, message = error["loc"], error["msg"].removeprefix("Value error, ").replace("Input should", "should")
        if not path:
            return message
        places = {place: name for name, place in cls.variables().items()}
        name = places.get((str(path[0]), str(path[-1])), "")
        if not os.environ.get(name, "").strip():
            name = ".".join(["args", *map(str, path)])
        if error["type"] == "extra_forbidden":
            return (
                f"{name}: no such setting{did_you_mean(name, [f'args.{section}.{field}' for section, field in places])}"
            )
        if (plain := IN_PLAIN_WORDS.get(error["type"])) and (default := cls._default(*map(str, path))) is not None:
            message = plain.format(default=default)
        says = "" if len(path) == 1 or path[1] in SECRET_FIELDS else f"={shown(error['input'])}"
        return f"{name}{says}: {message}"


IN_PLAIN_WORDS = {
    "int_parsing": "should be a whole number such as {default}",
    "int_from_float": "should be a whole number such as {default}",
    "float_parsing": "should be a number such as {default}",
    "bool_parsing": "should be true or false",
    "string_pattern_mismatch": "should look like {default}",
}
"""By pydantic's error type: what is allowed."""


LEAST_LIKENESS = 0.6
"""Least ratio by difflib at which a known name is suggested."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error line about an unknown name: known names that are like it.

    >>> did_you_mean("PACELINE_DB_URL", ["PACELINE_DATABASE_URL", "PACELINE_REDIS_URL", "PACELINE_HTTP_PORT"])
    '; did you mean PACELINE_DATABASE_URL or PACELINE_REDIS_URL?'
    """
    matcher = difflib.SequenceMatcher(None, "", name.removeprefix(PREFIX))
    likeness = {}
    for each in known:
        matcher.set_seq1(each.removeprefix(PREFIX))
        likeness[each] = matcher.ratio()
    best = max(likeness.values(), default=0.0)
    near = sorted(each for each, ratio in likeness.items() if ratio >= max(LEAST_LIKENESS, best - 0.02))
    return f"; did you mean {' or '.join(near[:2])}?" if near else "; docs/settings.md has all that there are"


def without_password(value: object) -> object:
    """A URL, or a text with URLs in it, with passwords and secrets replaced by ***.

    >>> without_password("mysql://app:hun@ter/2@db/x?password=hunter2: no answer")
    'mysql://app:***@db/x?password=***: no answer'
    """
    if not isinstance(value, str):
        return value
    value = re.sub(r"(://(?:[^:@/\s]*:)?)\S*@", r"\1***@", value)
    return re.sub(r"((?:password|passwd|secret|token|key)=)[^&:\s]*", r"\1***", value, flags=re.IGNORECASE)


def shown(value: object) -> str:
    """A setting's value as an error may quote it: without what may be a password before an @.

    >>> shown("app:hunter 2@db/x")
    "'***@db/x'"
    """
    value = without_password(value)
    if isinstance(value, str) and "@" in value.replace("***@", ""):
        value = f"***@{value.rpartition('@')[2]}"
    return f"{value!r:.200}"
