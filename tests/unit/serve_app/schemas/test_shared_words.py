"""What the contract and the ledger both have, they have alike."""

from dataclasses import MISSING, fields
from typing import get_args

from ledger.domain.messages import Event
from ledger.domain.reservation_ids import MODELS
from ledger.domain.settlement import AGGREGATE, CLICK, CONVERSION, IMPRESSION, UPDATE
from serve_app.schemas.fields import PricingModel
from serve_app.schemas.performance import COUNTS, NEEDS, REFUSES, PerformanceEvent


def test_pricing_models():
    assert get_args(PricingModel) == MODELS


def test_an_event_reaches_the_ledger_with_all_its_fields():
    known = {field.name: field.default for field in fields(Event) if field.name != "restates"}
    assert list(known) == list(PerformanceEvent.model_fields)
    required = [name for name, field in PerformanceEvent.model_fields.items() if field.is_required()]
    assert [name for name, default in known.items() if default is MISSING] == required
    assert {name for name, default in known.items() if default == 0} == set(COUNTS)


def test_types_of_events():
    types = (IMPRESSION, CLICK, CONVERSION, UPDATE, AGGREGATE)
    assert get_args(PerformanceEvent.model_fields["type"].annotation) == types
    assert tuple(NEEDS) == tuple(REFUSES) == types
