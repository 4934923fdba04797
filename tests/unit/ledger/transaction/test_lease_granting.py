"""What a replica's beat does to the books."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.brands import BrandSettings
from ledger.domain.budget import MONEY_MOST
from ledger.domain.messages import Grant, LeaseLine
from ledger.domain.reservation_ids import decode, decode_all
from ledger.transaction.lease_granting import NOBODY, LeaseMismatch, block
from ledger.transaction.working_set import LeaseKey, Lent
from tests.unit.ledger.books import HOUR, LIVES, NOW, Books, drawn, where, win

TODAY = NOW.date()
KEY = LeaseKey(1, "b", TODAY)
MONEY = st.integers(0, 10**6)


def brand(budget: int | None = 1000, **fields) -> BrandSettings:
    return BrandSettings(daily_budget_micros=budget, **fields)


def line(holds=0, least=0, want=0, brand_id="b", lasting=False, day=TODAY) -> LeaseLine:
    return LeaseLine(brand_id, day, holds, least, want, lasting)


def state(books: Books, *lines: LeaseLine, session_id: int = 1, holders: int = 1):
    working_set, leasing = books.leasing(holders)
    answers = [leasing.grant(session_id, one) for one in lines]
    books.write_beats(working_set, leasing)
    return answers


def record(books: Books, *wins, session_id: int = 1) -> None:
    working_set, leasing = books.leasing()
    leasing.record_all(session_id, wins, decode_all([one.reservation_id for one in wins]))
    books.write_beats(working_set, leasing)


def adopt(books: Books, reservation_id: str, place=None):
    working_set, leasing = books.leasing()
    drawn = decode(reservation_id)
    held = leasing.adopt(reservation_id, drawn, place or where()) if drawn is not None else None
    books.write_beats(working_set, leasing)
    return held


def lending(micros: int = 500, **settings) -> Books:
    """Session 1 has a block of brand b."""
    books = Books(b=brand(**settings))
    (grant,) = state(books, line(least=micros, want=micros, lasting=True))
    assert grant.micros == micros
    return books


def out(books: Books, owner: str = "brand") -> tuple[int, int, int | None]:
    """(leased, reserved, available)"""
    (budget,) = [budget for key, budget in books.budgets.items() if key.owner == owner]
    return budget.leased_micros, budget.reserved_micros, budget.available_micros


# How much


@pytest.mark.parametrize(
    ("story", "least", "want", "room", "holders", "lent"),
    [
        ("there is plenty", 10, 100, 10_000, 4, 100),
        ("no more than half of an even share", 10, 100, 400, 4, 50),
        ("but what an offer needs", 90, 100, 400, 4, 90),
        ("the last cent goes to who can use it", 400, 400, 400, 4, 400),
        ("not enough for the offer", 401, 500, 400, 4, 0),
        ("a mere refill takes no last cents", 0, 100, 7, 4, 0),
        ("nothing is left", 0, 100, 0, 1, 0),
        ("an unlimited budget", 10, 100, None, 8, 100),
        ("an unlimited budget has its end too", MONEY_MOST + 1, MONEY_MOST + 1, None, 1, 0),
        ("no session counts as one", 0, 100, 100, 0, 50),
    ],
)
def test_a_block_is_a_part_of_what_is_left(story, least, want, room, holders, lent):
    assert block(least, want, room, holders) == lent, story


@given(least=MONEY, more=MONEY, room=MONEY, holders=st.integers(1, 50))
def test_a_block_is_of_use_and_within_the_room(least, more, room, holders):
    want = least + more
    lent = block(least, want, room, holders)
    if least > room:
        assert lent == 0
    else:
        assert least <= lent <= min(want, room)
        assert lent == least or lent <= room / (2 * holders)


# Lending


@pytest.mark.parametrize(("days", "is_lent"), [(-2, False), (-1, True), (0, True), (1, False)])
def test_a_grant_is_of_the_day_that_was_asked_for_or_of_the_next(days, is_lent):
    """Whoever loses the answer states what it holds of these two days: nothing else may have been lent."""
    (answer,) = state(Books(b=BrandSettings()), line(least=100, want=300, day=TODAY + dt.timedelta(days=days)))
    assert (answer is not None) == is_lent


def test_a_grant_is_debited_and_says_how_long():
    books = Books(b=brand(timezone="America/New_York"))
    assert state(books, line(least=100, want=300)) == [Grant("b", TODAY, 300, False, 16 * 3600.0)]
    assert out(books) == (300, 0, 700)
    assert books.leases == {KEY: Lent(None, 300, False)}
    assert [entry.kind for entry in books.entries] == ["budget", "lend"]


@pytest.mark.parametrize(
    ("settings", "least", "reason"),
    [
        (brand(active=False), 1, "brand_paused"),
        (brand(99), 100, "brand_budget"),
        (brand(portfolio_id="f"), 100, "portfolio_budget"),
        (brand(50, portfolio_id="f"), 100, "brand_budget"),
        (brand(None), MONEY_MOST + 1, "brand_budget"),
    ],
)
def test_a_refusal_says_why_and_moves_nothing(settings, least, reason):
    books = Books(b=settings)
    books.limits[("portfolio", "f")] = 99
    assert state(books, line(least=least, want=least)) == [reason]
    assert books.budgets == {}
    assert books.entries == []


def test_an_unknown_brand_is_refused():
    assert state(Books(), line(least=1, want=1)) == ["brand_unknown"]


def test_a_refill_that_finds_nothing_is_no_refusal():
    """Whoever still draws on its lease must not hear that the brand is out of budget."""
    books = lending(1000)
    working_set, leasing = books.leasing()
    assert leasing.grant(1, line(holds=1000, want=50)) is None
    assert leasing.short == {("b", None, TODAY)}
    assert working_set.entries == []


def test_an_unlimited_budget_lends_until_numbers_end():
    books = Books(b=brand(None))
    state(books, line(least=MONEY_MOST, want=MONEY_MOST))
    assert state(books, line(least=1, want=1), session_id=2) == ["brand_budget"]
    assert out(books) == (MONEY_MOST, 0, None)


def test_brand_and_portfolio_are_debited_together():
    books = Books(a=brand(portfolio_id="f"), b=brand(portfolio_id="f"))
    books.limits[("portfolio", "f")] = 150
    first, second, smaller = state(
        books,
        line(least=100, want=100, brand_id="a"),
        line(least=100, want=100, brand_id="b"),
        line(least=50, want=50, brand_id="b"),
    )
    assert (first.micros, second, smaller.micros) == (100, "portfolio_budget", 50)
    assert out(books, "portfolio") == (150, 0, 0)
    state(books, line(holds=40, brand_id="a"))
    assert out(books, "portfolio") == (90, 0, 60)


def test_a_lease_keeps_the_portfolio_that_paid_for_it():
    books = Books(b=brand(portfolio_id="f"))
    books.limits |= {("portfolio", "f"): 500, ("portfolio", "g"): 500}
    state(books, line(least=100, want=100))
    books.brands["b"] = Books(b=brand(portfolio_id="g")).brands["b"]
    state(books, line(holds=100, least=50, want=50))
    state(books, line(holds=10))
    owners = {key.owner_id: budget.leased_micros for key, budget in books.budgets.items()}
    assert owners == {"b": 10, "f": 10}


def test_a_lease_becomes_lasting_even_when_nothing_is_left():
    books = Books(b=brand(100))
    state(books, line(least=100, want=100))
    assert state(books, line(holds=100, want=1, lasting=True)) == [Grant("b", TODAY, 0, True, 12 * 3600.0)]
    assert books.leases[KEY] == Lent(None, 100, True)
    assert state(books, line(holds=100, want=1, lasting=True)) == [None], "once is enough"
    state(books, line(holds=50))
    assert books.leases[KEY].lasting, "once lasting, always lasting: it may have been drawn on"


def test_a_lasting_lease_needs_a_lease():
    books = Books(b=brand(0))
    assert state(books, line(want=1, lasting=True)) == [None]
    assert books.leases == {}


# Returning


@pytest.mark.parametrize(("holds", "left"), [(500, 500), (120, 120), (0, 0)])
def test_what_was_lent_beyond_what_is_held_goes_back(holds, left):
    books = lending(500)
    assert state(books, line(holds=holds)) == [None]
    assert out(books) == (left, 0, 1000 - left)
    assert (KEY in books.leases) == (left > 0)


def test_a_lost_answer_mends_itself():
    """The replica never heard of its 500: it says that it holds nothing, and asks again."""
    books = lending(500)
    (grant,) = state(books, line(holds=0, least=300, want=300))
    assert grant.micros == 300
    assert out(books) == (300, 0, 700)


def test_who_claims_to_hold_more_than_was_lent_must_end():
    books = lending(500)
    working_set, leasing = books.leasing()
    with pytest.raises(LeaseMismatch, match="holds 501 µ"):
        leasing.grant(1, line(holds=501, want=100))
    assert working_set.entries == []
    with pytest.raises(LeaseMismatch):
        leasing.grant(2, line(holds=1))


def test_a_session_that_is_over_gives_back_everything():
    books = lending(500)
    working_set, leasing = books.leasing()
    leasing.return_all([KEY, LeaseKey(1, "b", TODAY + dt.timedelta(days=1))])
    books.write_beats(working_set, leasing)
    assert (out(books), books.leases) == ((0, 0, 1000), {})


# Wins


def test_a_win_becomes_a_hold_and_is_recorded_once():
    books = lending(500)
    one = win(drawn(amount=120))
    record(books, one, one)
    record(books, one)
    assert out(books) == (380, 120, 500)
    held = books.reservations[one.reservation_id]
    assert (held.status, held.held_micros, held.created_at, held.award_id) == ("open", 120, NOW, "a")
    assert held.expires_at == NOW + HOUR / 2
    assert [entry.kind for entry in books.entries] == ["budget", "lend", "reserve"]


def one_by_one(books: Books, *wins, session_id: int = 1) -> None:
    """The rule, as it is written for one win."""
    working_set, leasing = books.leasing()
    for one in wins:
        leasing.record(session_id, one, decode(one.reservation_id))
    books.write_beats(working_set, leasing)


LEASED = {"b": 500, "c": 60, "nothing": 0}
WINS = st.builds(
    lambda one, brand_id, request_id, award_id: win(one, brand_id, request_id, award_id),
    st.builds(
        drawn,
        st.integers(1, 6),
        st.sampled_from([0, 1, 30, 60, 250, 501]),
        st.sampled_from([1, 1, 1, 2]),
        st.sampled_from(["cpm", "cpc", "cpa"]),
        st.sampled_from([NOW - HOUR, NOW, NOW + HOUR, NOW - 24 * HOUR]),
    ),
    st.sampled_from(["b", "b", "b", "c", "nothing"]),
    st.sampled_from(["r", "s", "t", "u"]),
    st.sampled_from(["a", "a", "a2"]),
)
FORGED = WINS.map(lambda one: one._replace(reservation_id=one.reservation_id[:-1]))


@given(beats=st.lists(st.lists(st.one_of(WINS, WINS, WINS, FORGED), max_size=6), max_size=3), adopted=st.lists(WINS))
def test_a_beat_is_recorded_as_its_wins_would_be_one_by_one(beats, adopted):
    """Whatever is known of them before, whatever they share, whether or not there is money for all."""

    def books() -> Books:
        made = Books(b=brand(), c=brand(portfolio_id="p"), nothing=brand())
        made.limits["portfolio", "p"] = 10_000
        lines = [
            line(least=micros, want=micros, lasting=True, brand_id=id_) for id_, micros in LEASED.items() if micros
        ]
        state(made, *lines)
        for one in adopted:
            adopt(made, one.reservation_id, one.where)
        return made

    at_once, singly = books(), books()
    for wins in beats:
        record(at_once, *wins)
        one_by_one(singly, *wins)
    assert at_once.state() == singly.state()
    assert at_once.said == singly.said
    assert at_once.leases == singly.leases
    assert sorted(map(repr, at_once.entries)) == sorted(map(repr, singly.entries))


def test_what_is_nothing_special_is_recorded_at_once():
    """Else the test above would compare a thing with itself."""
    books = lending(300)
    working_set, leasing = books.leasing()
    wins = [win(drawn(number, 100), request_id=f"r-{number}") for number in range(1, 4)]
    leasing.record_all(1, wins, decode_all([one.reservation_id for one in wins]))
    assert [len(batch.wins) for batch in working_set.batches] == [3] and not working_set.new_reservations
    leasing.record_all(1, wins, decode_all([one.reservation_id for one in wins]))  # a beat that was sent again
    other = win(drawn(9, 0), request_id="r-1", award_id="another")
    leasing.record_all(1, [other], decode_all([other.reservation_id]))
    books.write_beats(working_set, leasing)
    assert out(books) == (0, 300, 700)
    assert len(books.reservations) == 4 and books.reservations[other.reservation_id].status == "void"


def test_a_win_is_no_younger_than_the_ledgers_clock():
    books = lending(500)
    one = win(drawn(at=NOW + HOUR))
    record(books, one)
    assert books.reservations[one.reservation_id].expires_at == NOW + HOUR / 2


def test_a_replica_cannot_record_anothers_wins():
    books = lending(500)
    record(books, win(drawn(session_id=2)), win(drawn())._replace(reservation_id="garbage"))
    assert (out(books), books.reservations) == ((500, 0, 500), {})


def test_a_win_without_money_behind_it_is_void():
    """Its block had gone back: the name is kept, and a cost will be late."""
    books = lending(100)
    covered, bare = win(drawn(1)), win(drawn(2), request_id="r2", award_id="a2")
    record(books, covered, bare)
    assert [books.reservations[one.reservation_id].status for one in (covered, bare)] == ["open", "void"]
    assert (books.reservations[bare.reservation_id].held_micros, out(books)) == (0, (0, 100, 900))


def test_what_costs_nothing_needs_no_money_behind_it():
    """Its lease was drawn to its end by the win before it, and the ledger keeps no empty leases."""
    books = lending(100)
    record(books, win(drawn(1)))
    free, again = win(drawn(2, amount=0), request_id="r2", award_id="a2"), win(drawn(3, amount=0), request_id="r2")
    books.leases.clear()
    record(books, free, again)
    assert [books.reservations[one.reservation_id].status for one in (free, again)] == ["open", "void"]
    assert out(books) == (0, 100, 900)


def test_a_request_is_paid_for_once():
    books = lending(500)
    first, second = win(drawn(1)), win(drawn(2), award_id="another")
    record(books, first)
    record(books, second)
    void = books.reservations[second.reservation_id]
    assert (void.status, void.instead_id) == ("void", first.reservation_id)
    assert out(books) == (300, 100, 600), "the second one's money is available again"


def test_two_answers_of_one_request_in_one_beat_are_paid_for_once():
    books = lending(500)
    record(books, win(drawn(1)), win(drawn(2), award_id="another"))
    assert out(books) == (300, 100, 600)


def test_the_wins_of_one_answer_all_stand():
    books = Books(a=brand(), b=brand())
    state(books, line(least=100, want=100, brand_id="a"), line(least=100, want=100))
    record(books, win(drawn(1), "a"), win(drawn(2), "b"))
    assert {held.status for held in books.reservations.values()} == {"open"}
    assert [budget.reserved_micros for budget in books.budgets.values()] == [100, 100]


def test_a_void_win_does_not_pay_for_its_request():
    books = lending(100)
    record(books, win(drawn(1, amount=101)), win(drawn(2, amount=100), award_id="another"))
    assert [held.status for held in books.reservations.values()] == ["void", "open"]


# Wins that an event names first


def test_an_event_finds_the_money_of_an_unrecorded_win():
    books = lending(500)
    one = win(drawn(amount=120))
    held = adopt(books, one.reservation_id)
    assert (held.held_micros, held.award_id, books.said[one.reservation_id]["sub"]) == (120, "", NOBODY)
    assert out(books) == (380, 120, 500)
    record(books, one)
    assert out(books) == (380, 120, 500), "its replica's word adds who asked, no second hold"
    assert books.said[one.reservation_id]["request_id"] == "r"
    record(books, win(drawn(2), award_id="another"))
    assert out(books) == (280, 120, 600), "the request counts as paid for"


@pytest.mark.parametrize(
    ("story", "one", "brand_id"),
    [
        ("more than is left of the lease", drawn(amount=501), "b"),
        ("another session", drawn(session_id=2), "b"),
        ("another day", drawn(at=NOW - 24 * HOUR), "b"),
        ("another brand", drawn(), "c"),
        ("its time is over", drawn(at=NOW - HOUR / 2), "b"),
    ],
)
def test_an_event_finds_no_money_that_is_not_there(story, one, brand_id):
    books = lending(500)
    assert adopt(books, win(one, brand_id).reservation_id, where(brand_id)) is None, story
    assert (out(books), books.reservations) == ((500, 0, 500), {})


def test_an_id_of_nobody_is_adopted_by_nobody():
    assert adopt(lending(500), "garbage") is None


def test_conversions_are_adopted_for_their_long_life():
    books = lending(500)
    held = adopt(books, win(drawn(model="cpa", at=NOW - 10 * HOUR)).reservation_id)
    assert held.expires_at == NOW - 10 * HOUR + dt.timedelta(days=LIVES.conversion_days)


@given(
    budgets=st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(0, 400)),
    wanted=st.lists(st.tuples(st.integers(1, 3), st.sampled_from("ab"), st.integers(0, 120), MONEY), max_size=30),
)
def test_never_more_is_out_than_the_budgets_of_brand_and_portfolio(budgets, wanted):
    a, b, portfolio = budgets
    books = Books(a=brand(a, portfolio_id="f"), b=brand(b, portfolio_id="f"))
    books.limits[("portfolio", "f")] = portfolio
    lent: dict[tuple[int, str], int] = {}
    for session_id, id_, least, more in wanted:
        holds = lent.get((session_id, id_), 0)
        room = min(
            budgets["ab".index(id_)] - sum(m for (_, i), m in lent.items() if i == id_), portfolio - sum(lent.values())
        )
        (answer,) = state(books, line(holds, least, least + more, brand_id=id_), session_id=session_id, holders=3)
        assert isinstance(answer, str) == (room < least)
        if isinstance(answer, Grant):
            assert least <= answer.micros <= min(room, least + more)
            lent[(session_id, id_)] = holds + answer.micros
    for key, budget in books.budgets.items():
        assert budget.excess_micros == 0
        assert budget.leased_micros == sum(m for (_, id_), m in lent.items() if key.owner_id in (id_, "f"))
