"""Error responses as RFC 9457 problem details; one table (`STATUS`) maps the ledger's errors to HTTP statuses.

Problem            a response that is not 2xx, raised by handlers and sent by the request middleware
├─ Unauthorized    401, with WWW-Authenticate
└─ Invalid         422, with a pointer to each mistake
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.responses import Response

from ledger.domain.errors import (
    CurrencyFixed,
    LedgerError,
    LedgerUnavailable,
    MoneyOutOfRange,
    NotFound,
    PortfolioMismatch,
    PortfolioUnknown,
    PreconditionFailed,
    SettingsInvalid,
)
from serve_app.http.json_response import encode


class Problem(Exception):
    """An error response.

    Args:
        detail: what is wrong and what the caller can do, in a sentence.
        kind: the last part of `type`, `urn:paceline:<kind>`; by default made from the status.
        headers: of the response.
        errors: for 422, the mistakes as `pointer`, `message`, `code`.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        kind: str = "",
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        super().__init__(status, detail, kind, headers, errors)
        self.status, self.detail, self.kind, self.headers, self.errors = (
            status,
            detail,
            kind,
            dict(headers or {}),
            errors,
        )

    def __str__(self) -> str:
        return f"{self.status} {self.detail}"

    def response(self, instance: str) -> Response:
        """As `application/problem+json`. `instance`: the request's X-Request-ID."""
        title = HTTPStatus(self.status).phrase
        body: dict[str, Any] = {
            "type": f"urn:paceline:{self.kind or title.lower().replace(' ', '-')}",
            "title": title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
        }
        if self.errors is not None:
            body["errors"] = self.errors
        return Response(encode(body), self.status, self.headers, "application/problem+json")


class Unauthorized(Problem):
    """401. The answer tells a caller without a valid token nothing that would help to make one.

    Args:
        code: why, for the log alone.
    """

    def __init__(self, code: str) -> None:
        detail = UNAUTHORIZED.get(code, "the token is not valid here; the server's log says why, under this instance")
        challenge = f'Bearer realm="paceline", error="invalid_token", error_description="{detail}"'
        super().__init__(401, detail, "unauthorized", {"WWW-Authenticate": challenge})
        self.args = (code,)
        self.code = code


UNAUTHORIZED = {
    "header_missing": "a bearer token is needed: send the header Authorization: Bearer <token>",
    "header_malformed": "the Authorization header must be: Bearer <token>",
    "token_too_long": "the token is longer than 8192 bytes",
    "token_expired": "the token has expired: get a new one",
}
"""What callers are told, ASCII without double quotes: what they can see for themselves, and that a token which was good
has expired. All other codes have one answer."""


class Invalid(Problem):
    """422, with a pointer to each mistake."""

    def __init__(self, errors: Sequence[Mapping[str, str]]) -> None:
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(422, f"{first['pointer'] or 'the body'}: {first['message']}{more}", "invalid", None, errors)

    @classmethod
    def of(cls, error: ValidationError, prefix: Sequence[str] = ()) -> Invalid:
        """The first 100 mistakes that pydantic found. `prefix`: put before each pointer, such as `query`."""
        return cls.of_items(error.errors(include_url=False, include_context=False, include_input=False), prefix)

    @classmethod
    def of_items(cls, items: Sequence[Any], prefix: Sequence[str] = ()) -> Invalid:
        """As `of`, of some of the mistakes."""
        return cls([_item(item, prefix) for item in items[:100]])

    @classmethod
    def at(cls, pointer: str, message: str, code: str) -> Invalid:
        """One mistake. `pointer`: a JSON pointer into the body, `/query/<name>` or `/path/<name>`; empty: the body."""
        return cls([{"pointer": pointer, "message": message, "code": code}])


def _item(item: Any, prefix: Iterable[str]) -> dict[str, str]:
    parts = [*prefix, *(str(part) for part in item["loc"])]
    pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)
    return {"pointer": pointer, "message": item["msg"], "code": item["type"]}


def not_found(what: str) -> Problem:
    """404, the same for a thing that does not exist and for one that belongs to another caller."""
    return Problem(404, f"no such {what}", "not-found")


def unavailable(detail: str, kind: str = "unavailable", retry_after_s: int = 1) -> Problem:
    """503 with Retry-After."""
    return Problem(503, detail, kind, {"Retry-After": str(retry_after_s)})


STATUS: dict[type[LedgerError], tuple[int, str]] = {
    NotFound: (404, "not-found"),
    PreconditionFailed: (412, "precondition-failed"),
    CurrencyFixed: (422, "currency-fixed"),
    PortfolioUnknown: (422, "portfolio-unknown"),
    PortfolioMismatch: (422, "portfolio-mismatch"),
    MoneyOutOfRange: (422, "money-out-of-range"),
    LedgerUnavailable: (503, "ledger-unavailable"),
}


POINTER = {
    "currency-fixed": "/currency",
    "portfolio-unknown": "/portfolio_id",
    "money-out-of-range": "/daily_budget_micros",
}


def of_ledger(error: LedgerError) -> Problem:
    """The error response for a request that the ledger declined."""
    if isinstance(error, SettingsInvalid):
        return Invalid([{"pointer": at, "message": message, "code": code} for at, message, code in error.mistakes])
    status, kind = next(
        (entry for kind_, entry in STATUS.items() if isinstance(error, kind_)), (503, "ledger-unavailable")
    )
    if status == 503:
        return unavailable("the ledger, which keeps brands and budgets, cannot be reached just now; try again", kind)
    if status == 422:
        pointer = f"/{error.field}" if isinstance(error, PortfolioMismatch) else POINTER[kind]
        return Invalid.at(pointer, str(error), kind)
    return Problem(status, str(error), kind)


class ProblemItem(BaseModel):
    """One mistake in the body, the path or the query."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    pointer: str
    """JSON pointer to the field, such as `/bids/0/price_micros`, `/query/window` or `/path/brand_id`; empty: the whole
    body."""
    message: str
    """What is wrong with it, for people; the wording may change."""
    code: str
    """What is wrong with it, for programs, such as `missing` or `duplicate_bid_id`."""


class ProblemBody(BaseModel):
    """An error response (RFC 9457), sent as `application/problem+json`."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str
    """The kind of error, for programs: `urn:paceline:` and a name such as `ledger-unavailable` or `deadline`."""
    title: str
    """The HTTP status in words."""
    status: int
    """The HTTP status."""
    detail: str
    """What is wrong and what to do about it, for people; the wording may change."""
    instance: str
    """The X-Request-ID of this request; quote it when you report the error."""
    errors: list[ProblemItem] | None = None
    """For 422: every mistake, at most 100."""
