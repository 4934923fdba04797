"""What goes wrong behind the routes (predictor, ledger, database), as problems for the caller."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from sqlalchemy.exc import SQLAlchemyError

from ledger.client.ledger_client import LedgerClient
from ledger.domain.errors import LedgerError
from ledger.domain.messages import BrandTerms
from serve_app.http.problem_details import of_ledger, unavailable
from serve_app.prediction.batching import CallLost
from serve_app.prediction.predictor import NoModel

logger = logging.getLogger("paceline.ingress")


@contextlib.contextmanager
def prediction_problems() -> Iterator[None]:
    """What goes wrong between here and a predictor is a 503."""
    try:
        yield
    except (NoModel, CallLost, RayError, RayServeException, TimeoutError) as error:
        if isinstance(error, NoModel) or isinstance(getattr(error, "cause", None), NoModel):
            raise unavailable("no model has been published yet", "no-model", 10) from None
        logger.warning("predictor unavailable: %s", (str(error) or repr(error)).splitlines()[0])
        raise unavailable("no predictor is free; try again", "predictor-unavailable") from None


@contextlib.contextmanager
def ledger_problems() -> Iterator[None]:
    """What the ledger declines has its own status and words."""
    try:
        yield
    except LedgerError as error:
        raise of_ledger(error) from None


@contextlib.contextmanager
def database_problems() -> Iterator[None]:
    """What goes wrong between here and the database is a 503."""
    try:
        yield
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        logger.warning("database unavailable: %s", (str(error) or repr(error)).splitlines()[0])
        raise unavailable("the database is not available; try again", "database-unavailable") from None


def known_terms(ledger: LedgerClient) -> Mapping[str, BrandTerms]:
    """All brands, as this replica has heard of them last. Raises: Problem 503, it has not heard of them yet."""
    if ledger.terms.version < 0:
        raise unavailable("the ledger has not been reached yet", "starting")
    return ledger.terms.brands
