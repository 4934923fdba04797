"""Turns failures of predictor, ledger and database into 503 and other problem responses."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from sqlalchemy.exc import SQLAlchemyError

from db.errors import in_a_line
from db.outage import Outage
from ledger.client.ledger_client import LedgerClient
from ledger.domain.errors import LedgerError
from ledger.domain.messages import BrandTerms
from serve_app.http.problem_details import of_ledger, unavailable
from serve_app.prediction.batching import CallLost
from serve_app.prediction.predictor import NoModel

logger = logging.getLogger("paceline.ingress")
_predictor = Outage(logger, "the predictor answers again")
_database = Outage(logger, "the database answers again")


@contextlib.contextmanager
def prediction_problems() -> Iterator[None]:
    """Raises: Problem, 503, instead of what goes wrong on the way to a predictor."""
    try:
        yield
        _predictor.ended()
    except (NoModel, CallLost, RayError, RayServeException, TimeoutError) as error:
        if isinstance(error, NoModel) or isinstance(getattr(error, "cause", None), NoModel):
            detail = (
                "no model is loaded: make one with paceline night, or see the log why the live one cannot be loaded"
            )
            raise unavailable(detail, "no-model", 10) from None
        _predictor.failed(f"predictor unavailable, requests that need it get 503: {_reason(error)}")
        raise unavailable("no predictor answered in time; try again", "predictor-unavailable") from None


@contextlib.contextmanager
def ledger_problems() -> Iterator[None]:
    """Raises: Problem, instead of a LedgerError, with the status that belongs to it."""
    try:
        yield
    except LedgerError as error:
        raise of_ledger(error) from None


@contextlib.contextmanager
def database_problems() -> Iterator[None]:
    """Raises: Problem, 503, instead of what goes wrong on the way to the database."""
    try:
        yield
        _database.ended()
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        _database.failed(f"database unavailable, requests that read it get 503: {_reason(error)}")
        raise unavailable("the database does not answer; try again", "database-unavailable") from None


def known_terms(ledger: LedgerClient) -> Mapping[str, BrandTerms]:
    """Every brand's terms, as the ledger last sent them. Raises: Problem, 503, it has not sent any yet."""
    if ledger.terms.version < 0:
        raise unavailable("this replica has just started and waits for the ledger; try again", "starting")
    return ledger.terms.brands


def _reason(error: Exception) -> str:
    line = in_a_line(error)
    return line if line.startswith(type(error).__name__) else f"{type(error).__name__}: {line}"
