"""Who wins, and who may not."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.brands import BrandSettings
from ledger.account import MONEY_MOST
from tests.unit.ledger.books import Books, claim, offer


def brand(budget: int | None = 1000, **fields) -> BrandSettings:
    return BrandSettings(daily_budget_micros=budget, **fields)


def test_the_best_offer_that_can_pay_wins():
    books = Books(poor=brand(50), b=brand())
    (award,) = books.reserve(claim(offer("1", "poor"), offer("2", "b"), offer("3", "b")))
    assert [(win.bid_id, win.reserved_micros) for win in award.wins] == [("2", 100)]
    assert award.refused == {"1": "brand_budget"}
    assert books.budget("b").reserved_micros == 100


def test_a_brand_wins_once_a_request_and_no_more_win_than_asked_for():
    books = Books(a=brand(), b=brand(), c=brand())
    offers = [offer("1", "a"), offer("2", "a"), offer("3", "b"), offer("4", "c")]
    (award,) = books.reserve(claim(*offers, winners=2))
    assert [win.bid_id for win in award.wins] == ["1", "3"]
    assert award.refused == {}


@pytest.mark.parametrize(
    ("settings", "amount", "reason"),
    [
        (brand(active=False), 1, "brand_paused"),
        (brand(99), 100, "brand_budget"),
        (brand(portfolio_id="f"), 100, "portfolio_budget"),
        (brand(50, portfolio_id="f"), 100, "brand_budget"),
        (brand(None), MONEY_MOST + 1, "brand_budget"),
    ],
)
def test_a_refusal_says_why_and_moves_nothing(settings, amount, reason):
    books = Books(b=settings)
    books.limits[("portfolio", "f")] = 99
    (award,) = books.reserve(claim(offer(amount=amount)))
    assert (award.wins, award.refused) == ((), {"bid": reason})
    assert books.budgets == {}
    assert books.entries == []


def test_an_unknown_brand_is_refused():
    (award,) = Books().reserve(claim(offer(brand_id="nobody")))
    assert award.refused == {"bid": "brand_unknown"}


def test_a_request_is_paid_for_once():
    books = Books(b=brand())
    (first,) = books.reserve(claim(offer()))
    again, in_one_batch, other_body = books.reserve(claim(offer()), claim(offer()), claim(offer(), body="other"))
    assert again == dataclasses.replace(first, repeated=True)
    assert in_one_batch == again
    assert (other_body.conflict, other_body.wins) == (True, ())
    assert books.budget().reserved_micros == 100


def test_two_of_one_request_in_a_batch_win_once():
    books = Books(b=brand())
    first, second = books.reserve(claim(offer()), claim(offer()))
    assert second == dataclasses.replace(first, repeated=True)
    assert books.budget().reserved_micros == 100


@pytest.mark.parametrize(
    ("status", "wins", "refused"),
    [("open", 1, {}), ("settled", 1, {}), ("expired", 0, {"bid": "no_lease"}), ("returned", 0, {"bid": "no_lease"})],
)
def test_a_repetition_wins_only_what_has_money_behind_it(status, wins, refused):
    books = Books(b=brand())
    (first,) = books.reserve(claim(offer()))
    if status != "open":
        books.end("res-1", status)
    (again,) = books.reserve(claim(offer()))
    assert (again.wins, again.refused, again.repeated) == (first.wins[:wins], refused, True)
    assert books.reservations["res-1"].confirmed == (status == "open")
    (other_body,) = books.reserve(claim(offer(), body="other"))
    assert other_body.conflict


@given(
    budgets=st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(0, 400)),
    wanted=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 120)), max_size=30),
)
def test_never_more_is_held_than_the_budgets_of_brand_and_portfolio(budgets, wanted):
    a, b, portfolio = budgets
    books = Books(a=brand(a, portfolio_id="f"), b=brand(b, portfolio_id="f"))
    books.limits[("portfolio", "f")] = portfolio
    awards = books.reserve(
        *(claim(offer("bid", id_, amount), request_id=str(n)) for n, (id_, amount) in enumerate(wanted))
    )
    held = {"a": 0, "b": 0}
    for (id_, amount), award in zip(wanted, awards, strict=True):
        fits = held[id_] + amount <= {"a": a, "b": b}[id_] and sum(held.values()) + amount <= portfolio
        assert bool(award.wins) == fits
        held[id_] += amount * fits
    for key, budget in books.budgets.items():
        assert budget.excess_micros == 0
        assert budget.reserved_micros == (sum(held.values()) if key.owner == "portfolio" else held[key.owner_id])
