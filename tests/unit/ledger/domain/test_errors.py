"""Errors cross processes by pickle."""

import pickle

import pytest

from ledger.domain import errors

EVERY = [
    errors.Fenced(0, 3, 4),
    errors.LayoutReplaced(0, 3, 4, 2),
    errors.LedgerUnavailable("gone"),
    errors.StatementRefused("too long"),
    errors.OtherShard("brand", "b-1", 1),
    errors.BudgetExhausted("brand", "b-1", 10, 3),
    errors.MoneyOutOfRange(2**60),
    errors.NotFound("brand", "b-1"),
    errors.CurrencyFixed("brand", "b-1", "EUR"),
    errors.PreconditionFailed("brand", "b-1", "If-Match: it does not exist"),
    errors.SettingsInvalid((("/currency", "no such currency", "currency_unknown"),)),
    errors.PortfolioUnknown("p-1"),
    errors.PortfolioMismatch("p-1", "b-1", "timezone", "UTC", "Europe/London"),
]


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_an_error_survives_the_trip(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_every_error_is_tried():
    declared = {kind for kind in vars(errors).values() if isinstance(kind, type)} - {errors.LedgerError}
    assert {type(error) for error in EVERY} == declared
