"""Which brands' λ is written down: sparse, bounded, and never silent for longer than a day."""

import datetime as dt
from dataclasses import replace

import pytest

from ledger.domain.messages import BrandTerms
from ledger.service.lambda_history import MOST, Written, due

NOON = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)
TERMS = BrandTerms(
    currency="EUR",
    active=True,
    target_roas=1.0,
    strategy_multiplier=1.0,
    lambda_=1.0,
    share=1.0,
    throttled=False,
    day=NOON.date(),
    day_ends_at=NOON,
    portfolio_id=None,
    budget_micros=None,
    portfolio_budget_micros=None,
)


@pytest.mark.parametrize(
    ("story", "before", "seconds_ago", "now", "is_due"),
    [
        ("never written", None, 0, 1.0, True),
        ("stands still", 1.0, 3600, 1.0, False),
        ("stands still for a day", 1.0, 86_400, 1.0, True),
        ("moved a little", 1.0, 3600, 1.019, False),
        ("moved up", 1.0, 60, 1.03, True),
        ("moved down", 1.0, 60, 0.97, True),
        ("moved just now", 1.0, 59, 2.0, False),
        ("from nothing", 0.0, 60, 0.1, True),
    ],
)
def test_a_brand_is_written_when_its_lambda_has_moved(story, before, seconds_ago, now, is_due):
    written = {} if before is None else {"b": Written(before, NOON - dt.timedelta(seconds=seconds_ago))}
    assert due(written, {"b": replace(TERMS, lambda_=now)}, NOON) == (["b"] if is_due else []), story


def test_a_paused_brand_has_no_lambda():
    assert due({}, {"b": replace(TERMS, active=False)}, NOON) == []


def test_many_take_turns():
    terms = {f"b{number:04}": TERMS for number in range(MOST + 10)}
    first = due({}, terms, NOON)
    assert len(first) == MOST
    written = {brand_id: Written(9.0, NOON) for brand_id in first}
    later = NOON + dt.timedelta(minutes=1)
    second = due(written, terms, later)
    assert set(second[:10]) == terms.keys() - set(first), "who has waited longest comes first"
