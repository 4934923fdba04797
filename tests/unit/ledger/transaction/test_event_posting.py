"""What events do to money and performance; the order in which they arrive does not matter."""

import dataclasses
import datetime as dt
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.brands import BrandSettings
from db.times import AHEAD
from ledger.domain.budget import MONEY_MOST
from ledger.domain.settlement import Figures
from tests.unit.ledger.books import HOUR, NOW, Books, claim, event, offer


def open_books(model: str = "cpm", amount: int = 100, budget: int = 1000) -> Books:
    """One brand with one reservation, `res-1`."""
    books = Books(b=BrandSettings(daily_budget_micros=budget))
    books.reserve(claim(offer(model=model, amount=amount)))
    return books


def impression(cost: int | None = None, **fields):
    return event("i", "impression", cost_micros=cost, **fields)


def click(cost: int | None = None, **fields):
    return event("k", "click", cost_micros=cost, **fields)


def statuses(results):
    return [result.code or result.status for result in results]


HELD = {"reservation_id": "res-1"}
PENDING = {"conversion_id": "c", "status": "pending"}


@pytest.mark.parametrize(
    ("story", "model", "events", "reserved", "settled", "status"),
    [
        ("a cpm hold ends on its impression", "cpm", [impression(80, **HELD)], 0, 80, "settled"),
        ("an impression without a cost ends it too", "cpm", [event("1", "impression", **HELD)], 0, 0, "settled"),
        ("a click leaves a cpm hold", "cpm", [event("1", "click", **HELD)], 100, 0, "open"),
        ("an impression leaves a cpc hold", "cpc", [event("1", "impression", **HELD)], 100, 0, "open"),
        ("unless it carries the cost", "cpc", [impression(9, **HELD)], 0, 9, "settled"),
        ("a cpc hold ends on its click", "cpc", [event("1", "click", cost_micros=120, **HELD)], 0, 120, "settled"),
        ("a cpa hold survives both", "cpa", [impression(**HELD), click(**HELD)], 100, 0, "open"),
        ("a pending conversion without a cost", "cpa", [event("1", "conversion", **PENDING, **HELD)], 100, 0, "open"),
        ("one with a cost", "cpa", [event("1", "conversion", cost_micros=90, **PENDING, **HELD)], 0, 90, "settled"),
        (
            "an approval frees the hold",
            "revshare",
            [
                event("1", "conversion", **PENDING, **HELD),
                event("2", "conversion_update", at=NOW + HOUR, place=False, conversion_id="c", status="approved"),
            ],
            0, 0, "settled",
        ),
        (
            "a rejection takes the cost back",
            "cpa",
            [
                event("1", "conversion", cost_micros=90, revenue_micros=900, **PENDING, **HELD),
                event("2", "conversion_update", at=NOW + HOUR, place=False, conversion_id="c", status="rejected"),
            ],
            0, 0, "settled",
        ),
        (
            "the latest cost counts",
            "cpa",
            [
                event("1", "conversion", cost_micros=90, **PENDING, **HELD),
                event("2", "conversion_update", at=NOW + HOUR, place=False, conversion_id="c", cost_micros=70),
                event("3", "conversion_update", at=NOW + 2 * HOUR, place=False, conversion_id="c", status="approved"),
            ],
            0, 70, "settled",
        ),
        (
            "impression and click both cost",
            "cpm",
            [impression(80, **HELD), event("2", "click", cost_micros=5, **HELD)],
            0, 85, "settled",
        ),
        ("no reservation: the brand pays all the same", "cpm", [impression(80)], 100, 80, "open"),
        ("an aggregate's cost too", "cpm", [event("1", "aggregate", period="day", cost_micros=80)], 100, 80, "open"),
        (
            "somebody else's reservation is as good as none",
            "cpm",
            [impression(80, partner_id="q", **HELD)],
            100, 80, "open",
        ),
    ],
)  # fmt: skip
def test_an_event_settles_what_was_held(story, model, events, reserved, settled, status):
    books = open_books(model)
    assert statuses(books.record(*events)) == ["accepted"] * len(events), story
    assert (books.budget().reserved_micros, books.budget().settled_micros) == (reserved, settled), story
    assert books.reservations["res-1"].status == status, story


@pytest.mark.parametrize("status", ["expired", "returned"])
def test_a_late_cost_is_a_cost(status):
    books = open_books()
    working_set = books.working_set(books.budgets)
    working_set.end(books.reservations["res-1"], status)
    books.write(working_set)
    books.record(impression(80, **HELD))
    assert books.budget().settled_micros == 80
    assert books.reservations["res-1"].status == status
    assert books.reservations["res-1"].settled_micros == 80
    assert [entry.kind for entry in books.entries if entry.settled_delta_micros] == ["late_settle"]


def test_an_unknown_reservation_settles_late():
    books = open_books()
    books.record(impression(80, reservation_id="nobody-knows"))
    assert [entry.kind for entry in books.entries if entry.settled_delta_micros] == ["late_settle"]
    assert books.budget().reserved_micros == 100


def test_a_repetition_changes_nothing_and_another_content_conflicts():
    books = open_books()
    first = impression(80)
    other = dataclasses.replace(first, cost_micros=81)
    assert statuses(books.record(first, first, other)) == ["accepted", "duplicate", "conflict"]
    assert statuses(books.record(first, other)) == ["duplicate", "conflict"]
    assert books.budget().settled_micros == 80
    assert next(iter(books.figures.values())) == Figures(impressions=1, cost_micros=80)


@pytest.mark.parametrize(
    ("item", "code"),
    [
        (event("1", "impression", brand_id="nobody"), "not_found"),
        (event("1", "impression", currency="USD"), "currency_mismatch"),
        (event("1", "impression", place=False), "tuple_missing"),
        (event("1", "conversion", place=False, **PENDING), "tuple_missing"),
        (event("1", "conversion", place=False, click_id="k", **PENDING), "click_unknown"),
        (event("1", "conversion", status="pending"), "invalid"),
        (event("1", "refund"), "invalid"),
        (event("1", "impression", at=dt.datetime.max.replace(tzinfo=dt.UTC)), "in_the_future"),
        (event("1", "impression", at=dt.datetime.min.replace(tzinfo=dt.UTC)), "too_old"),
    ],
)
def test_a_bad_item_is_answered_and_has_no_effect(item, code):
    books = open_books()
    before = books.state()
    good = event("2", "impression", cost_micros=1)
    assert statuses(books.record(item, good)) == [code, "accepted"]
    assert len(books.rows) == 1
    assert before[1] == books.reservations


def test_sums_stay_exact():
    books = open_books()
    most = event("1", "impression", cost_micros=MONEY_MOST)
    assert statuses(books.record(most, event("2", "impression", cost_micros=1))) == ["accepted", "amount_too_large"]
    large = [event(f"a{n}", "aggregate", period="day", revenue_micros=MONEY_MOST) for n in range(2)]
    assert statuses(books.record(*large)) == ["accepted", "amount_too_large"]
    assert books.budget().settled_micros == MONEY_MOST
    assert len(books.rows) == 2


def test_a_conversion_inherits_from_its_click_whichever_stands_first_in_the_batch():
    click = event("k", "click", click_id="k-1", **HELD)
    conversion = event("c", "conversion", place=False, click_id="k-1", cost_micros=90, revenue_micros=9, **PENDING)
    for batches in ([[click, conversion]], [[conversion, click]], [[click], [conversion]]):
        books = open_books("cpa")
        for batch in batches:
            assert set(statuses(books.record(*batch))) == {"accepted"}
        assert books.reservations["res-1"].settled_micros == 90
        (figures,) = books.figures.values()
        assert figures == Figures(clicks=1, conversions=1, cost_micros=90, pending_revenue_micros=9)


def test_a_conversion_inherits_from_a_click_that_comes_after_it():
    click = event("k", "click", at=NOW - HOUR, click_id="k-1", **HELD)
    conversion = event("c", "conversion", at=NOW + 30 * HOUR, click_id="k-1", cost_micros=90, **PENDING)
    update = event(
        "u", "conversion_update", place=False, at=NOW + 31 * HOUR, click_id="k-1", conversion_id="c", cost_micros=70
    )
    states = []
    for order in itertools.permutations([click, conversion, update]):
        books = open_books("cpa")
        for item in order:
            assert statuses(books.record(item)) == ["accepted"]
        assert statuses(books.record(click, conversion)) == ["duplicate", "duplicate"]
        states.append(books.state())
        assert {row.reservation_id for row in books.rows} == {"res-1"}
    assert all(state == states[0] for state in states)
    assert states[0][1]["res-1"].status == "settled"
    assert states[0][1]["res-1"].settled_micros == 70
    (budget,) = states[0][0].values()
    assert (budget.day, budget.reserved_micros, budget.settled_micros) == (NOW.date(), 0, 70)


def test_what_a_conversion_names_itself_its_click_does_not_replace():
    books = two_reservations()
    books.record(event("c", "conversion", click_id="k", cost_micros=90, reservation_id="res-2", **PENDING))
    books.record(event("k", "click", slot_id="t", click_id="k", reservation_id="res-1"))
    assert [books.reservations[id_].settled_micros for id_ in ("res-1", "res-2")] == [0, 90]
    assert {row.slot_id for row in books.rows} == {"s", "t"}


def test_a_late_click_of_another_partner_completes_nothing():
    books = open_books("cpa")
    books.record(event("c", "conversion", partner_id="q", click_id="k", cost_micros=90, **PENDING))
    books.record(event("k", "click", click_id="k", **HELD))
    assert books.reservations["res-1"].settled_micros == 0


def test_a_cost_that_its_reservations_day_cannot_take_stays_where_it_is():
    books = open_books("cpa")
    books.record(event("i", "impression", cost_micros=MONEY_MOST))
    conversion = event("c", "conversion", at=NOW + 30 * HOUR, click_id="k", cost_micros=90, **PENDING)
    click = event("k", "click", click_id="k", **HELD)
    assert statuses(books.record(conversion)) + statuses(books.record(click)) == ["accepted", "accepted"]
    assert sorted(budget.settled_micros for budget in books.budgets.values()) == [90, MONEY_MOST]


def test_another_partners_click_is_not_inherited_from():
    books = open_books("cpa")
    books.record(event("k", "click", click_id="k-1", partner_id="q"))
    conversion = event("c", "conversion", place=False, click_id="k-1", **PENDING)
    assert statuses(books.record(conversion)) == ["click_unknown"]


def test_another_partner_cannot_restate_a_conversion():
    books = open_books()
    books.record(event("1", "conversion", revenue_micros=900, **PENDING))
    books.record(event("2", "conversion", at=NOW + HOUR, partner_id="q", revenue_micros=1, **PENDING))
    assert sum(figures.pending_revenue_micros for figures in books.figures.values()) == 901


def test_who_may_not_restate_can_only_begin():
    books = open_books()
    first = event("1", "conversion", revenue_micros=900, restates=False, **PENDING)
    second = dataclasses.replace(first, event_id="2", occurred_at=NOW + HOUR, revenue_micros=9_000)
    assert statuses(books.record(first, second, first)) == ["accepted", "restatement", "duplicate"]
    books = open_books()
    early = event("u", "conversion_update", place=False, at=NOW + HOUR, conversion_id="c", status="approved")
    assert statuses(books.record(early, first)) == ["accepted", "accepted"]
    assert next(iter(books.figures.values())).revenue_micros == 900


def test_an_update_before_its_conversion_moves_money_and_shows_later():
    books = open_books("cpa")
    update = event(
        "u", "conversion_update", place=False, at=NOW + HOUR, conversion_id="c", status="approved", cost_micros=70
    )
    books.record(update)
    assert (books.budget().settled_micros, books.figures) == (70, {})
    books.record(event("c", "conversion", cost_micros=90, revenue_micros=500, **PENDING, **HELD))
    assert books.budget().settled_micros == 70
    assert books.reservations["res-1"].settled_micros == 70
    assert list(books.figures.values()) == [Figures(conversions=1, cost_micros=70, revenue_micros=500)]


def test_a_rejected_conversion_is_none():
    books = open_books()
    books.record(event("1", "conversion", cost_micros=9, revenue_micros=900, **PENDING))
    books.record(event("2", "conversion_update", at=NOW + HOUR, conversion_id="c", status="rejected"))
    assert books.figures == {}
    books.record(event("3", "conversion_update", at=NOW + 2 * HOUR, conversion_id="c", status="approved"))
    assert list(books.figures.values()) == [Figures(conversions=1, cost_micros=9, revenue_micros=900)]


def test_aggregates_add_up_and_keep_what_is_not_known():
    books = open_books()
    books.record(
        event("1", "aggregate", period="hour", impressions=10, clicks=2, revenue_micros=-5),
        event("2", "aggregate", period="hour", impressions=5, conversions=1, revenue_micros=7),
        event("3", "aggregate", period="day", impressions=1, cost_micros=4),
    )
    found = {(key.kind, key.period, key.hour.hour): figures for key, figures in books.figures.items()}
    assert found == {
        ("aggregate", "hour", 12): Figures(15, 2, 1, None, 2, 0),
        ("aggregate", "day", 0): Figures(1, 0, 0, 4, 0, 0),
    }


def test_the_budget_day_is_the_reservations_else_the_wall_clocks():
    books = Books(b=BrandSettings(timezone="America/New_York"))
    books.reserve(claim(offer()))
    tomorrow = NOW + dt.timedelta(days=1)
    books.record(
        event("1", "impression", at=tomorrow, cost_micros=1, **HELD),
        event("2", "impression", at=dt.datetime(2024, 5, 3, 3, 59, tzinfo=dt.UTC), cost_micros=2),
    )
    settled = {key.day: budget.settled_micros for key, budget in books.budgets.items()}
    assert settled == {dt.date(2024, 5, 1): 1, dt.date(2024, 5, 2): 2}
    assert {key.hour.date() for key in books.figures} == {dt.date(2024, 5, 2), dt.date(2024, 5, 3)}


# When

MICROSECOND = dt.timedelta(microseconds=1)


@given(
    by=st.timedeltas(-dt.timedelta(days=400), dt.timedelta(days=400)) | st.sampled_from([AHEAD, AHEAD + MICROSECOND]),
    zone=st.integers(-23 * 60 - 59, 23 * 60 + 59),
    type_=st.sampled_from(["impression", "click", "conversion", "conversion_update", "aggregate"]),
    restates=st.booleans(),
)
def test_nobody_reports_what_has_not_happened_whatever_the_offset(by, zone, type_, restates):
    books = open_books()
    at = (books.heard_at + by).astimezone(dt.timezone(dt.timedelta(minutes=zone)))
    more = {"conversion": PENDING, "conversion_update": {"conversion_id": "c", "revenue_micros": 5}}.get(type_, {})
    (result,) = books.record(event("1", type_, at=at, period="day", restates=restates, **more))
    assert (result.code == "in_the_future") == (by > AHEAD)
    assert bool(books.rows) == (by <= AHEAD)


def test_what_was_refused_for_its_time_may_be_said_again():
    books = open_books()
    later = event("1", "conversion", at=books.heard_at + HOUR, cost_micros=900, revenue_micros=1, **PENDING)
    assert statuses(books.record(later)) == ["in_the_future"]
    assert books.state() == open_books().state()
    assert statuses(books.record(dataclasses.replace(later, occurred_at=books.heard_at))) == ["accepted"]


# Any order

AMOUNT = st.none() | st.integers(0, 300)


@st.composite
def conversions(draw):
    """Events of one conversion: some conversions, some updates, clocks that collide, fields left out."""
    events = []
    for number in range(draw(st.integers(1, 5))):
        type_ = draw(st.sampled_from(["conversion", "conversion_update"]))
        at = NOW + draw(st.integers(-26, 26)) * HOUR
        place = type_ == "conversion" or draw(st.booleans())
        fields = {
            "conversion_id": "c",
            "status": draw(st.sampled_from(["pending", "approved", "rejected"] + [None] * (type_ != "conversion"))),
            "cost_micros": draw(AMOUNT),
            "revenue_micros": draw(AMOUNT),
            "reservation_id": draw(st.sampled_from([None, "res-1", "res-2"])),
        }
        if place:
            fields["slot_id"] = draw(st.sampled_from("st"))
        events.append(event(f"e{number}", type_, place=place, at=at, **fields))
    return events


def two_reservations() -> Books:
    books = Books(b=BrandSettings(daily_budget_micros=500))
    books.reserve(*(claim(offer(model=model), request_id=model) for model in ("cpa", "cpm")))
    return books


@given(events=conversions(), data=st.data())
def test_a_conversion_ends_the_same_in_any_order(events, data):
    books, shuffled = two_reservations(), two_reservations()
    for item in events:
        books.record(item)
    for item in data.draw(st.permutations(events)):
        shuffled.record(item)
    assert shuffled.state() == books.state()


@given(events=conversions())
def test_one_batch_or_many_is_the_same(events):
    one_by_one, together = two_reservations(), two_reservations()
    for item in events:
        one_by_one.record(item)
    together.record(*events)
    assert together.state() == one_by_one.state()


def test_every_order_of_a_day_of_events():
    events = [
        event("i", "impression", cost_micros=80, **HELD),
        event("k", "click", click_id="k", cost_micros=3, **HELD),
        event("c", "conversion", cost_micros=10, revenue_micros=900, click_id="k", **PENDING, **HELD),
        event(
            "u", "conversion_update", place=False, at=NOW + HOUR, conversion_id="c", status="approved", cost_micros=12
        ),
        event("v", "conversion_update", place=False, at=NOW + 2 * HOUR, conversion_id="c", revenue_micros=800),
    ]
    states = []
    for order in itertools.permutations(events):
        books = open_books()
        for item in order:
            assert statuses(books.record(item)) == ["accepted"]
        states.append(books.state())
    assert all(state == states[0] for state in states)
    (figures,) = states[0][2].values()
    assert figures == Figures(1, 1, 1, 95, 800, 0)


@given(events=conversions())
def test_budgets_add_up_after_every_event(events):
    books = two_reservations()
    for item in events:
        books.record(item)
        budgets = list(books.budgets.values())
        assert sum(budget.settled_micros for budget in budgets) >= 0
        for budget in budgets:
            assert budget.available_micros is not None
            assert budget.available_micros >= 0
            assert budget.budget_micros == budget.available_micros + budget.out_micros - budget.excess_micros
        held = sum(reservation.held_micros for reservation in books.reservations.values())
        assert held == sum(budget.reserved_micros for budget in budgets)
    assert sum(entry.settled_delta_micros for entry in books.entries) == sum(
        budget.settled_micros for budget in books.budgets.values()
    )
