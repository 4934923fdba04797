"""RFC 9457 answers. One table gives every error type its status.

Problem            an answer that is not 2xx, ready to be sent
├─ Unauthorized    401, with WWW-Authenticate
└─ Invalid         422, with a pointer to each mistake
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from ledger.domain.errors import (
    CurrencyFixed,
    LedgerError,
    LedgerUnavailable,
    MoneyOutOfRange,
    NotFound,
    PortfolioMismatch,
    PortfolioUnknown,
)
from serve_app.http.json_response import encode


class Problem(Exception):
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
    def __init__(self, detail: str) -> None:
        challenge = f'Bearer realm="paceline", error="invalid_token", error_description="{detail}"'
        super().__init__(401, detail, "unauthorized", {"WWW-Authenticate": challenge})


class Invalid(Problem):
    def __init__(self, errors: Sequence[Mapping[str, str]]) -> None:
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(422, f"{first['pointer'] or 'the body'}: {first['message']}{more}", "invalid", None, errors)

    @classmethod
    def of(cls, error: ValidationError, prefix: Sequence[str] = ()) -> Invalid:
        return cls(
            [
                _item(item, prefix)
                for item in error.errors(include_url=False, include_context=False, include_input=False)
            ][:100]
        )

    @classmethod
    def at(cls, pointer: str, message: str, code: str) -> Invalid:
        return cls([{"pointer": pointer, "message": message, "code": code}])


def _item(item: Any, prefix: Iterable[str]) -> dict[str, str]:
    parts = [*prefix, *(str(part) for part in item["loc"])]
    pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)
    return {"pointer": pointer, "message": item["msg"], "code": item["type"]}


def not_found(what: str) -> Problem:
    """The same for a thing that does not exist and for somebody else's."""
    return Problem(404, f"no such {what}", "not-found")


def unavailable(detail: str, kind: str = "unavailable", retry_after_s: int = 1) -> Problem:
    return Problem(503, detail, kind, {"Retry-After": str(retry_after_s)})


STATUS: dict[type[LedgerError], tuple[int, str]] = {
    NotFound: (404, "not-found"),
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
    """What a caller is told when the ledger declined."""
    status, kind = next(
        (entry for kind_, entry in STATUS.items() if isinstance(error, kind_)), (503, "ledger-unavailable")
    )
    if status == 503:
        return unavailable("the ledger is not available; try again", kind)
    if status == 422:
        pointer = f"/{error.field}" if isinstance(error, PortfolioMismatch) else POINTER[kind]
        return Invalid.at(pointer, str(error), kind)
    return Problem(status, str(error), kind)


class ProblemItem(BaseModel):
    """One mistake of a body or a query."""

    pointer: str
    message: str
    code: str


class ProblemBody(BaseModel):
    """`application/problem+json`, as the OpenAPI document shows it."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[ProblemItem] | None = None
