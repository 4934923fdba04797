"""Every setting of the running system, composed once from the packages' sections.

Precedence: environment variable, then the deploy file's `args`, then the default. Secrets enter through the
environment alone. `python -m serve_app.settings` prints the tables of docs/settings.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from db.brands import BrandSettings, CurrencySettings, in_the_general_currency
from db.environment import BadSetting, Environment
from db.section import MOST, Count, Seconds, Section, Text
from db.settings import DatabaseSettings, HistorySettings, RedisSettings
from db.state import State
from ledger.domain.settings import LedgerSettings, RoasSettings
from training.settings import ModelSettings

SECRET_LEAST_BYTES = 32


class HttpSettings(Section, frozen=True):
    host: Text = "127.0.0.1"
    """The address that HTTP listens on. While it is loopback, /metrics needs no token."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """The port of HTTP."""
    body_timeout_s: Seconds = 10.0
    """How long a caller may take to send a body."""
    body_most_bytes: Count = 10 * 1024 * 1024
    """A larger body is answered with 413."""

    @property
    def is_loopback(self) -> bool:
        return self.host in ("127.0.0.1", "localhost", "::1") or self.host.startswith("127.")


def _secret(value: str) -> str:
    if len(value.encode()) < SECRET_LEAST_BYTES:
        raise ValueError(f"needs at least {SECRET_LEAST_BYTES} bytes")
    return value


class JwtSettings(Section, frozen=True):
    secret: Annotated[str, AfterValidator(_secret)] | None = Field(default=None, repr=False)
    """The HS256 key, for development only; without it and without JWKS, `make run` makes one."""
    scope_claim: Annotated[Text, Field(min_length=1)] = "scope"
    """The claim that has a token's scopes, as text with spaces or as a list: `scope`, or what your login service calls
    it, such as `scp`."""


class GeneralSettings(CurrencySettings, HistorySettings, frozen=True):
    jwks: Text | None = None
    """URL or file of the JSON Web Key Set that signs RS256, ES256 or EdDSA tokens."""
    state: Text | None = None
    """The folder that keeps the embedded database, models, keys and logs."""


class ServeSettings(Section, frozen=True):
    predictor: Literal["local", "pool"] = "local"
    """Where the model is: in each ingress replica (local), or in replicas of its own (pool)."""
    ingress_replicas: Count = 1
    """Replicas that check tokens, rank and answer; each keeps a core busy, HAProxy and ledger want another."""
    predictor_replicas: Count = 1
    """Replicas of the pool."""
    max_ongoing_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """Requests that one ingress replica works on at a time; over it callers get 503 with Retry-After."""
    model_poll_s: Seconds = 0.25
    """How often a predictor looks for a newer model, in Redis; the database is asked every five seconds, or every one
    while Redis is silent."""


class ScoreSettings(Section, frozen=True):
    batch_rows: Count = 4000
    """Rows of one call to a predictor at most."""
    remembered_tuples: Annotated[int, Field(ge=0, le=MOST)] = 65_536
    """Tuples whose prediction an ingress replica remembers within the hour; half a kilobyte each. 0: none."""
    deadline_ms: Count = 5000
    """A request's deadline where it gives no tmax_ms."""
    idempotency_s: Seconds = 120.0
    """How long a repeated request_id gets the same answer."""
    idempotency_entries: Count = 20_000
    """Answers remembered for that, at most."""
    log_sample: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of requests whose bids go to score_log, from which λ learns."""
    log_rows_per_s: Count = 1000
    """Rows that one replica writes to score_log in a second at most; the rest is dropped and counted."""
    log_caller_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Part of these rows that requests of one caller (`sub`) may fill, so that none pushes the others out."""


DEPLOYABLE = ("http", "serve", "score", "ledger", "roas")
"""Sections that the Serve application alone reads. Imports and the night see the environment, never the deploy file,
and secrets enter through the environment alone."""


class Settings(Environment, use_attribute_docstrings=True):
    general: GeneralSettings = GeneralSettings()
    """What concerns everything: the currency, who signs tokens, where the state folder is."""
    http: HttpSettings = HttpSettings()
    """Where Paceline listens, and which bodies it takes."""
    jwt: JwtSettings = JwtSettings()
    """How tokens are read; and a key of your own to sign them, for development."""
    database: DatabaseSettings = DatabaseSettings()
    """The database, and how patient its users are."""
    redis: RedisSettings = RedisSettings()
    """Redis: counters for `/metrics` and λ, and models for the replicas."""
    serve: ServeSettings = ServeSettings()
    """How many replicas there are, and where the model is evaluated."""
    score: ScoreSettings = ScoreSettings()
    """`POST /api/score`: sizes, deadlines, repeated requests, and the sample from which λ learns."""
    ledger: LedgerSettings = LedgerSettings()
    """Budgets: how long money is held, lent and waited for."""
    roas: RoasSettings = RoasSettings()
    """How a brand's return on ad spend is measured, and how often λ and the throttle follow it."""
    model: ModelSettings = ModelSettings()
    """Training: how a model is fitted, when the gate lets it go live, where versions are kept."""
    new_brand: BrandSettings = BrandSettings()
    """What a brand has that an import meets for the first time, and what a `PUT /api/brands` leaves out."""

    _new_brand = field_validator("new_brand", mode="before")(in_the_general_currency)

    @model_validator(mode="after")
    def _one_family_of_tokens(self) -> Self:
        if self.general.jwks and self.jwt.secret:
            raise ValueError("PACELINE_JWKS and PACELINE_JWT_SECRET: give one of them, never both")
        return self


def load(args: Mapping[str, Any] | None = None) -> Settings:
    """All sections, from the environment over a deploy file's `args`.

    Raises:
        BadSetting: one line for every setting that cannot be used, with what it may be.
    """
    given = dict(args or {})
    misplaced = [name for name in given if name in Settings.model_fields and name not in DEPLOYABLE]
    problems = [
        f"args.{name}: set it in the environment; a deploy file may set {', '.join(DEPLOYABLE)}" for name in misplaced
    ]
    try:
        settings = Settings.load({name: given[name] for name in given if name not in misplaced})
    except BadSetting as error:
        problems += error.problems
    if problems:
        raise BadSetting(problems)
    return settings


def table() -> str:
    """The tables of docs/settings.md, a section each, as Markdown."""
    lines = []
    for section, info in Settings.model_fields.items():
        lines += [f"### {section}", "", str(info.description), ""]
        lines += ["| variable | default | what it is |", "|---|---|---|"]
        for variable, (where, field) in Settings.variables().items():
            if where == section:
                about = Settings.sections()[section].model_fields[field]
                default = about.get_default(call_default_factory=True)
                shown = "–" if default is None else f"`{str(default).lower() if default is True else default}`"
                lines.append(f"| `{variable}` | {shown} | {' '.join((about.description or '').split())} |")
        lines.append("")
    return "\n".join(lines).strip()


def with_state(settings: Settings, state: State) -> Settings:
    """The embedded database and Redis of a state folder where no others are given."""
    return settings.model_copy(update={"database": settings.database.at(state), "redis": settings.redis.at(state)})


if __name__ == "__main__":
    from serve_app.show_settings import main

    sys.exit(main())
