"""What a PUT or PATCH makes of the settings that a brand or portfolio has."""

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.brands import BrandSettings, PortfolioSettings, settings_tag
from ledger.domain.brand import Brand, Portfolio, Scheduled
from ledger.domain.errors import LedgerError, NotFound, PreconditionFailed, SettingsInvalid
from ledger.domain.messages import Change
from ledger.service.settings_change import brand_after, portfolio_after

NOW = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)
MIDNIGHT = dt.datetime(2024, 5, 2, tzinfo=dt.UTC)
DEFAULTS = BrandSettings().model_dump()
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "currency": st.sampled_from(["EUR", "USD", "GBP"]),
    "timezone": st.sampled_from(["UTC", "Europe/London", "Asia/Tokyo"]),
    "portfolio_id": st.sampled_from([None, "f", "g"]),
    "target_roas": st.sampled_from([2, 2.0, 3.5]),
    "throttle_roas": st.sampled_from([0.1, 1, 2.0]),
    "daily_budget_micros": st.sampled_from([None, 0, 5, 10**12]),
    "strategy_multiplier": st.sampled_from([1, 0.5]),
    "exploration": st.sampled_from([0, 0.02]),
    "lambda_floor": st.sampled_from([0, -0.0, 0.25]),
    "max_cost_micros": st.sampled_from([None, 1, 10**9]),
    "cost_tolerance": st.sampled_from([1, 1.5]),
    "holds_share": st.sampled_from([0.25, 1]),
    "active": st.booleans(),
}
GIVEN = st.fixed_dictionaries({}, optional=FIELDS)
SETTINGS = st.fixed_dictionaries(FIELDS).map(BrandSettings.model_validate)
SCHEDULED = st.none() | st.builds(Scheduled, FIELDS["portfolio_id"], FIELDS["timezone"], st.just(MIDNIGHT))
BRANDS = st.builds(Brand, st.just("b"), SETTINGS, st.just(NOW), SCHEDULED)
PLACES = {"portfolio_id", "timezone"}


def brand(scheduled: Scheduled | None = None, **settings: Any) -> Brand:
    return Brand("b", BrandSettings.model_construct(**(DEFAULTS | settings)), NOW, scheduled)


def patch(**given: Any) -> Change:
    return Change(given, None)


def mistakes(change: Change, known: Brand | None) -> list[tuple[str, str]]:
    with pytest.raises(SettingsInvalid) as refused:
        brand_after(change, "b", known)
    return [(pointer, code) for pointer, _, code in refused.value.mistakes]


def test_the_test_knows_every_setting():
    assert FIELDS.keys() == BrandSettings.model_fields.keys()


@given(known=BRANDS, changed=GIVEN)
def test_a_patch_changes_what_it_names(known, changed):
    after = brand_after(Change(changed, None), "b", known).model_dump()
    coming = {} if known.scheduled is None else known.scheduled._asdict()
    for name, value in after.items():
        stays = coming.get(name, getattr(known.settings, name))
        assert value == changed.get(name, stays), name


@given(known=BRANDS, method=st.sampled_from([None, DEFAULTS]))
def test_what_get_answers_can_be_put_back_and_changes_nothing(known, method):
    shown = Change(known.settings.model_dump(), method, has_seen_schedule=known.scheduled is not None)
    after = known.put(brand_after(shown, "b", known), NOW)
    # A change to where it is already is none.
    moves = known.scheduled if known.scheduled != (*_place(known), MIDNIGHT) else None
    assert (after.settings, after.scheduled) == (known.settings, moves)


@given(known=BRANDS, changed=GIVEN, seen=st.booleans())
def test_who_puts_back_a_schedule_and_changes_more_does_not_undo_it(known, changed, seen):
    body = known.settings.model_dump() | changed
    after = brand_after(Change(body, DEFAULTS, has_seen_schedule=seen), "b", known)
    for name in PLACES:
        left = seen and known.scheduled is not None and body[name] == getattr(known.settings, name)
        assert getattr(after, name) == (getattr(known.scheduled, name) if left else body[name])


@given(known=BRANDS, changed=GIVEN)
def test_no_put_changes_a_budget_that_it_does_not_name(known, changed):
    change = Change(changed, DEFAULTS | {"target_roas": 2.0})
    if "daily_budget_micros" in changed or known.settings.daily_budget_micros is None:
        after = brand_after(change, "b", known)
        expected = (DEFAULTS | changed)["daily_budget_micros"]
        assert after.daily_budget_micros == expected
    else:
        assert mistakes(change, known) == [("/daily_budget_micros", "missing")]


@given(one=BRANDS, other=BRANDS)
def test_a_tag_is_of_the_settings(one, other):
    is_same = one.settings == other.settings and one.scheduled == other.scheduled
    assert (_tag(one) == _tag(other)) == is_same


@given(known=BRANDS, changed=GIVEN)
def test_the_tag_is_the_same_when_the_settings_have_been_written_and_read(known, changed):
    after = brand_after(Change(changed, None), "b", known)
    read = {  # as databases keep them: −0.0 and whole numbers
        name: float(value) + 0.0 if BrandSettings.model_fields[name].annotation is float else value
        for name, value in after.model_dump().items()
    }
    assert settings_tag(after.model_dump()) == settings_tag(read)


@pytest.mark.parametrize(
    ("if_match", "if_none_match", "passes"),
    [
        ((), (), True),
        (("*",), (), True),
        (("its tag",), (), True),
        (("another", "its tag"), (), True),
        (("another",), (), False),
        ((), ("*",), False),
        ((), ("its tag",), False),
        ((), ("another",), True),
    ],
)
@pytest.mark.parametrize("defaults", [None, DEFAULTS])
def test_preconditions(if_match, if_none_match, passes, defaults):
    known = brand()
    tags = [tuple(_tag(known) if one == "its tag" else one for one in header) for header in (if_match, if_none_match)]
    change = Change({"daily_budget_micros": 7}, defaults, *tags)
    if passes:
        assert brand_after(change, "b", known).daily_budget_micros == 7
    else:
        with pytest.raises(PreconditionFailed):
            brand_after(change, "b", known)


def test_what_does_not_exist_has_no_tag():
    with pytest.raises(PreconditionFailed):
        brand_after(Change({}, DEFAULTS, if_match=("*",)), "b", None)
    assert brand_after(Change({}, DEFAULTS, if_none_match=("*",)), "b", None) == BrandSettings()
    with pytest.raises(NotFound):
        brand_after(Change({}, None, if_match=("*",)), "b", None)
    with pytest.raises(SettingsInvalid):
        brand_after(patch(currency="ABC"), "b", None)


def test_who_changes_the_rest_need_not_mend_what_was_allowed_before():
    of_old = brand(currency="ABC", target_roas=1.0, throttle_roas=1.5)
    after = brand_after(patch(daily_budget_micros=5, target_roas=1), "b", of_old)
    assert after == BrandSettings.model_construct(
        **(DEFAULTS | {"currency": "ABC", "throttle_roas": 1.5, "daily_budget_micros": 5})
    )
    assert type(after.target_roas) is float
    shown = Change(of_old.settings.model_dump(), DEFAULTS)
    assert brand_after(shown, "b", of_old) == of_old.settings
    assert mistakes(patch(currency="ABD"), of_old) == [("/currency", "currency_unknown")]
    for worse in ({"target_roas": 1.2}, {"throttle_roas": 1.4}):
        assert mistakes(patch(**worse), of_old) == [("/throttle_roas", "throttle_above_target")]
    assert brand_after(patch(target_roas=1.5), "b", of_old).target_roas == 1.5


def test_a_throttle_that_is_left_out_is_never_above_the_target():
    assert brand_after(Change({"target_roas": 0.5}, DEFAULTS), "b", None).throttle_roas == 0.5
    assert mistakes(patch(target_roas=0.5), brand()) == [("/throttle_roas", "throttle_above_target")]
    assert BrandSettings(target_roas=0.5).throttle_roas == PortfolioSettings(target_roas=0.5).throttle_roas == 0.5
    assert BrandSettings(target_roas=5.0).throttle_roas == 0.8


def test_of_portfolios_all_of_it_holds():
    defaults = PortfolioSettings().model_dump()
    known = Portfolio("f", PortfolioSettings(daily_budget_micros=5), NOW)
    assert portfolio_after(patch(target_roas=2), "f", known).target_roas == 2.0
    refused: list[tuple[Change, type[LedgerError]]] = [
        (Change({}, defaults), SettingsInvalid),
        (patch(throttle_roas=2.0), SettingsInvalid),
        (Change({}, None, if_match=("x",)), PreconditionFailed),
    ]
    for change, error in refused:
        with pytest.raises(error):
            portfolio_after(change, "f", known)
    with pytest.raises(NotFound):
        portfolio_after(patch(), "f", None)


def _place(known: Brand) -> tuple[str | None, str]:
    return known.settings.portfolio_id, known.settings.timezone


def _tag(known: Brand) -> str:
    return settings_tag(known.settings.model_dump(), known.scheduled)
