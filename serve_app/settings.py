"""Every setting of the running system, composed once from the packages' sections.

Precedence: environment variable, then the deploy file's `args`, then the default. Secrets enter through the
environment alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from db.brands import BrandSettings, Currency, new_brand
from db.environment import BadSetting, names, read, refuse_unknown
from db.settings import DatabaseSettings, RedisSettings
from db.state import State
from ledger.domain.settings import LedgerSettings, RoasSettings
from training.settings import ModelSettings

SECRET_LEAST_BYTES = 32


class HttpSettings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    host: str = "127.0.0.1"
    """The address that HTTP listens on. While it is loopback, /metrics needs no token."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """The port of HTTP."""
    body_timeout_s: PositiveFloat = 10.0
    """How long a caller may take to send a body."""
    body_most_bytes: PositiveInt = 10 * 1024 * 1024
    """A larger body is answered with 413."""

    @property
    def is_loopback(self) -> bool:
        return self.host in ("127.0.0.1", "localhost", "::1") or self.host.startswith("127.")


def _secret(value: str) -> str:
    if len(value.encode()) < SECRET_LEAST_BYTES:
        raise ValueError(f"needs at least {SECRET_LEAST_BYTES} bytes")
    return value


class JwtSettings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    secret: Annotated[str, AfterValidator(_secret)] | None = Field(default=None, repr=False)
    """The HS256 key, for development only; without it and without JWKS, `make run` makes one."""


class GeneralSettings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    currency: Currency = "EUR"
    """Of brands that name none (three capital letters), and of the answers."""
    jwks: str | None = None
    """URL or file of the JSON Web Key Set that signs RS256, ES256 or EdDSA tokens."""
    state: str | None = None
    """The folder that keeps the embedded database, models, keys and logs."""


class ServeSettings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    predictor: Literal["local", "pool"] = "local"
    """Where the model is: in each ingress replica (local), or in replicas of its own (pool)."""
    ingress_replicas: PositiveInt = 1
    """Replicas that check tokens, rank and answer; each keeps a core busy, HAProxy and ledger want another."""
    predictor_replicas: PositiveInt = 1
    """Replicas of the pool."""
    max_ongoing_requests: PositiveInt = 1024
    """Requests that one ingress replica works on at a time; over it callers get 503 with Retry-After."""
    model_poll_s: PositiveFloat = 0.25
    """How often a predictor looks for a newer model, in Redis; the database is asked every five seconds, or every one
    while Redis is silent."""


class ScoreSettings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    batch_rows: PositiveInt = 4000
    """Rows of one call to a predictor at most."""
    remembered_tuples: NonNegativeInt = 65_536
    """Tuples whose prediction an ingress replica remembers within the hour; half a kilobyte each. 0: none."""
    deadline_ms: PositiveInt = 5000
    """A request's deadline where it gives no tmax_ms."""
    idempotency_s: PositiveFloat = 120.0
    """How long a repeated request_id gets the same answer."""
    idempotency_entries: PositiveInt = 20_000
    """Answers remembered for that, at most."""
    log_sample: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of requests whose bids go to score_log, from which λ learns."""
    log_rows_per_s: PositiveInt = 1000
    """Rows that one replica writes to score_log in a second at most; the rest is dropped and counted."""


DEPLOYABLE = ("http", "serve", "score", "ledger", "roas")
"""Sections that the Serve application alone reads. Imports and the night see the environment, never the deploy file,
and secrets enter through the environment alone."""


class Settings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    general: GeneralSettings = GeneralSettings()
    http: HttpSettings = HttpSettings()
    jwt: JwtSettings = JwtSettings()
    database: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings = RedisSettings()
    serve: ServeSettings = ServeSettings()
    score: ScoreSettings = ScoreSettings()
    ledger: LedgerSettings = LedgerSettings()
    roas: RoasSettings = RoasSettings()
    model: ModelSettings = ModelSettings()
    new_brand: BrandSettings = BrandSettings()

    @model_validator(mode="after")
    def _one_family_of_tokens(self) -> Self:
        if self.general.jwks and self.jwt.secret:
            raise ValueError("PACELINE_JWKS and PACELINE_JWT_SECRET: give one of them, never both")
        return self


def sections() -> dict[str, type[BaseModel]]:
    """The name and model of every section, in the order of the README's table."""
    found = {}
    for name, field in Settings.model_fields.items():
        assert isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        found["" if name == "general" else name] = field.annotation
    return found


def variables() -> dict[str, tuple[str, type[BaseModel], str]]:
    """Every environment variable: its section, the section's model and the field."""
    return {
        variable: (section, model, field)
        for section, model in sections().items()
        for field, variable in names(section, model).items()
    }


def load(args: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """All sections, from the environment over a deploy file's `args`.

    Raises:
        BadSetting: one line for every variable that cannot be used, with what it may be.
    """
    environ = os.environ if environ is None else environ
    args = dict(args or {})
    problems: list[str] = []
    try:
        refuse_unknown(variables(), environ)
    except BadSetting as error:
        problems += error.problems
    for name in sorted(set(args) - set(DEPLOYABLE)):
        why = "set it in the environment" if name in Settings.model_fields else "no such section"
        problems.append(f"args.{name}: {why}; a deploy file may set {', '.join(DEPLOYABLE)}")
    values: dict[str, BaseModel] = {}
    for section, model in sections().items():
        name = section or "general"
        try:
            values[name] = new_brand(environ) if name == "new_brand" else read(section, model, environ, args.get(name))
        except BadSetting as error:
            problems += error.problems
    if not problems:
        try:
            return Settings(**values)  # type: ignore[arg-type]
        except ValueError as error:
            problems.append(str(error.errors()[0]["msg"]) if hasattr(error, "errors") else str(error))
    raise BadSetting(sorted(set(problems)))


def table() -> str:
    """The README's table of settings, as Markdown: `python -m serve_app.settings`."""
    lines = ["| variable | default | what it is |", "|---|---|---|"]
    for variable, (_, model, field) in variables().items():
        info = model.model_fields[field]
        default = info.get_default(call_default_factory=True)
        shown = "–" if default is None else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        lines.append(f"| `{variable}` | {shown} | {' '.join((info.description or '').split())} |")
    return "\n".join(lines)


def with_state(settings: Settings, state: State) -> Settings:
    """The embedded database and Redis of a state folder where no others are given."""
    database, redis = settings.database, settings.redis
    if database.url is None:
        database = database.model_copy(update={"url": f"sqlite+aiosqlite:///{state.database}"})
    if redis.url is None:
        redis = redis.model_copy(update={"url": f"unix://{state.redis_socket}"})
    return settings.model_copy(update={"database": database, "redis": redis})


if __name__ == "__main__":
    print(table())
