"""What a replica may draw, and what it tells: against answers made by hand."""

import datetime as dt
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.client import lease_cache
from ledger.client.lease_cache import AHEAD_S, AHEAD_WINS, IDLE_S, NO_LEASE, REFUSED_MOST_S, REFUSED_S, LeaseCache
from ledger.domain import reservation_ids
from ledger.domain.messages import Grant, LeaseLine, Reply, Terms, WinRecord
from tests.unit.ledger.books import LIVES, NOW, claim, is_genuine, offer
from tests.unit.ledger.books import terms_of as terms

TODAY = NOW.date()
TOMORROW = TODAY + dt.timedelta(days=1)
LEASE_S, HOURS_LEFT_S = 5.0, 12 * 3600.0
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Replica:
    """Leases with a clock that is moved by hand, and a ledger that says what the test says."""

    def __init__(self, **brands) -> None:
        self.leases = LeaseCache(LIVES)
        self.now_s = 1000.0
        self.day_begins = NOW - dt.timedelta(seconds=1000.0)  # the wall when the monotonic clock began
        self.say(terms=Terms(1, {"b": terms(), **brands}))

    @property
    def wall(self) -> dt.datetime:
        return self.day_begins + dt.timedelta(seconds=self.now_s)

    def say(self, *grants: Grant, asked_s: float | None = None, **fields):
        """One beat, and its answer. Returns the beat."""
        beat = self.leases.beat(self.now_s)
        self.answer(beat, *grants, asked_s=asked_s, **fields)
        return beat

    def answer(self, beat, *grants: Grant, asked_s: float | None = None, **fields) -> None:
        reply = Reply(7, b"secret", self.wall, LEASE_S, grants=grants)
        self.leases.heard(beat, replace(reply, **fields), self.now_s if asked_s is None else asked_s, self.now_s)

    def lend(self, micros: int = 1000, **grant) -> None:
        self.say(lent(micros, **grant))

    def refusal(self, amount: int = 100, **fields) -> str | None:
        return self.leases.refusal(offer(amount=amount, **fields), self.now_s)

    def draw(self, amount: int = 100, request_id: str = "r", **fields):
        assert self.refusal(amount, **fields) is None
        one = offer(amount=amount, **fields)
        return self.leases.draw(claim(one, request_id=request_id), "award", one, self.now_s)

    def want(self, amount: int = 100, **fields) -> None:
        self.leases.want(offer(amount=amount, **fields))

    def lines(self) -> list[LeaseLine]:
        """What the next beat says; it is lost on its way."""
        beat = self.leases.beat(self.now_s)
        self.leases.failed(beat)
        return list(beat.lines)


def lent(micros: int = 1000, day: dt.date = TODAY, ends_in_s: float = HOURS_LEFT_S, lasting=False, brand_id="b"):
    return Grant(brand_id, day, micros, lasting, ends_in_s)


def leasing(micros: int = 1000, **grant) -> Replica:
    replica = Replica()
    replica.lend(micros, **grant)
    return replica


# Drawing


def test_a_win_is_drawn_and_its_id_says_so():
    replica = leasing(1000)
    replica.now_s += 2.5
    win = replica.draw(300)
    assert (win.reserved_micros, replica.leases.left("b")) == (300, 700)
    drawn = reservation_ids.decode(win.reservation_id)
    assert drawn == reservation_ids.DecodedId(drawn.created_ms, 7, 1, 300, TODAY, "cpm")
    assert drawn.created_at == NOW + dt.timedelta(seconds=2.5), "by the ledger's clock"
    assert is_genuine(win.reservation_id, "b", "p", b"secret")
    assert win.expires_at == drawn.created_at + dt.timedelta(seconds=LIVES.reservation_ttl_s)


def test_no_more_is_drawn_than_was_lent():
    replica = leasing(250)
    replica.draw(100)
    replica.draw(100)
    assert replica.refusal(51) == NO_LEASE
    replica.draw(50)
    assert replica.refusal(1) == NO_LEASE


def test_nothing_is_drawn_before_a_session_is_open():
    leases = LeaseCache(LIVES)
    assert not leases.is_open
    assert leases.refusal(offer(), 0.0) == NO_LEASE
    leases.want(offer())
    beat = leases.beat(0.0)
    assert (beat.session_id, beat.lines) == (None, ())
    leases.heard(beat, Reply(7, b"secret", NOW, LEASE_S, terms=Terms(1, {"b": terms()})), 0.0, 0.0)
    assert leases.is_open
    assert leases.refusal(offer(), 0.0) == NO_LEASE
    assert leases.beat(0.0).lines == (LeaseLine("b", TODAY, 0, 100, AHEAD_WINS * 100, False),), "the want has been kept"


def test_a_lease_ends_by_the_clock_of_its_beats_sending():
    replica = leasing(1000)
    sent_s = replica.now_s
    replica.now_s = sent_s + 4.0  # a slow answer
    replica.say(asked_s=sent_s)
    replica.now_s = sent_s + LEASE_S - 0.001
    assert replica.refusal() is None
    replica.now_s = sent_s + LEASE_S
    assert replica.refusal() == NO_LEASE
    replica.say()
    assert replica.refusal() is None, "a beat that was answered renews it"


def test_a_lease_ends_at_the_brands_midnight_and_its_rest_goes_back_to_its_day():
    replica = Replica()
    replica.now_s += 1.0
    replica.say(lent(1000, ends_in_s=2.0), asked_s=replica.now_s - 1.0)
    replica.now_s += 0.999
    assert replica.refusal() is None
    replica.now_s += 0.001
    assert replica.refusal() == NO_LEASE
    replica.want(100)
    first, *_ = replica.lines()
    assert first == LeaseLine("b", TODAY, 0)


def test_a_new_days_grant_does_not_mix_with_the_old_days():
    replica = leasing(1000)
    replica.say(lent(50, day=TOMORROW))
    assert replica.leases.left("b") == 50
    drawn = reservation_ids.decode(replica.draw(10).reservation_id)
    assert drawn.day == TOMORROW
    lines = replica.lines()
    assert LeaseLine("b", TODAY, 0) in lines
    assert [line.holds_micros for line in lines if line.day == TOMORROW] == [40]


@pytest.mark.parametrize("model", ["cpa", "revshare"])
def test_a_conversions_hold_needs_a_lasting_lease(model):
    replica = leasing(1000)
    assert replica.refusal(model=model) == NO_LEASE
    assert replica.refusal(model="cpc") is None
    replica.want(100, model=model)
    (line,) = replica.say(lent(0, lasting=True)).lines
    assert line.lasting
    replica.draw(100, model=model)
    assert replica.leases.left("b") == 900


def test_a_lease_is_lasting_only_as_long_as_the_ledger_says():
    """It was drawn to the end, so the ledger has forgotten it; the new one is for half an hour only."""
    replica = leasing(100, lasting=True)
    replica.draw(100, model="cpa")
    replica.want(100)
    (line,) = replica.say(lent(500, lasting=False)).lines
    assert line.lasting, "it is asked for all the same"
    assert replica.refusal(100, model="cpa") == NO_LEASE
    assert replica.refusal(100) is None


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["grant", "draw", "fail", "wait", "recall", "lapse", "change"]),
            st.sampled_from("ab"),
            st.integers(0, 300),
        ),
        max_size=60,
    )
)
def test_whatever_happens_no_more_is_drawn_than_was_granted(steps):
    replica = Replica(a=terms())
    granted, drawn, told = dict.fromkeys("ab", 0), dict.fromkeys("ab", 0), set()
    version = 1
    for what, id_, number in steps:
        match what:
            case "grant":
                beat = replica.say(lent(number, brand_id=id_))
                if beat.session_id is not None and not beat.is_last:
                    granted[id_] += number
            case "draw" if replica.refusal(number, brand_id=id_) is None:
                replica.draw(number, brand_id=id_)
                drawn[id_] += number
            case "fail":
                replica.want(number, brand_id=id_)
                replica.lines()
            case "wait":
                replica.now_s += number / 50
            case "recall":
                replica.say(recalled=(id_,))
            case "lapse":
                replica.say(is_open=False)
                replica.say(), replica.say()
            case "change":
                version += 1
                replica.say(terms=Terms(version, {id_: replace(terms(), budget_micros=number)}, is_whole=False))
        assert all(0 <= replica.leases.left(brand) <= granted[brand] - drawn[brand] for brand in "ab")
        told |= {win.reservation_id for win in replica.leases.beat(replica.now_s).wins}
    assert len(told) == len(set(told))


# Telling


def test_a_win_is_told_until_it_is_acknowledged_and_then_no_more():
    replica = leasing(1000)
    replica.draw(100, "one")
    lost = replica.leases.beat(replica.now_s)
    replica.draw(100, "two")
    replica.leases.failed(lost)
    beat = replica.leases.beat(replica.now_s)
    assert [win.request_id for win in beat.wins] == ["one", "two"]
    replica.draw(100, "three")  # while the beat is under way
    replica.answer(beat)
    assert replica.leases.wins_waiting == 1
    assert [win.request_id for win in replica.say().wins] == ["three"]
    assert replica.leases.wins_waiting == 0


def test_a_record_says_what_the_id_does_not():
    replica = leasing(1000)
    win = replica.draw(100, "one")
    (told,) = replica.say().wins
    assert told == WinRecord(win.reservation_id, "award", "sub", "one", "body", "bid", offer().where)


def test_beats_are_numbered():
    replica = Replica()
    numbers = [replica.say().number for _ in range(2)]
    replica.lines()
    assert [*numbers, replica.say().number] == [2, 3, 5]


def test_a_quiet_beat_says_nothing():
    replica = leasing(10**6)
    replica.say()
    assert replica.lines() == []


def test_wins_that_were_drawn_while_a_beat_was_under_way_count_in_the_next_holding():
    replica = leasing(1000)
    replica.draw(600)
    beat = replica.leases.beat(replica.now_s)
    (line,) = beat.lines
    assert line.holds_micros == 400
    replica.draw(100)
    replica.answer(beat, lent(line.want_micros))
    replica.want(10**6)
    (again,) = replica.lines()
    assert again.holds_micros == 400 + line.want_micros - 100


# Asking


def test_what_an_offer_needs_is_asked_for_and_something_ahead():
    replica = Replica()
    replica.want(100)
    replica.want(300)
    replica.want(200, model="cpa")
    assert replica.lines() == [LeaseLine("b", TODAY, 0, 300, AHEAD_WINS * 300, True)]


def test_a_brand_that_is_not_in_the_terms_is_not_asked_for():
    replica = Replica()
    replica.want(brand_id="nobody")
    assert replica.lines() == []


def test_beside_what_is_left_only_the_rest_is_needed():
    replica = leasing(60)
    replica.want(100)
    assert replica.lines() == [LeaseLine("b", TODAY, 60, 40, AHEAD_WINS * 100 - 60, False)]


@pytest.mark.parametrize(("drawn", "asks"), [(1, False), (16, False), (17, True), (32, True)])
def test_below_half_more_is_asked_for_while_the_rest_is_drawn_on(drawn, asks):
    replica = leasing(AHEAD_WINS * 100)
    replica.now_s += LEASE_S - 0.001  # a rate of next to nothing: only the dearest win counts
    for _ in range(drawn):
        replica.draw(100)
    lines = replica.lines()
    assert bool(lines) == asks
    for line in lines:
        assert (line.holds_micros, line.least_micros) == ((AHEAD_WINS - drawn) * 100, 0)
        assert line.want_micros >= drawn * 100


def ahead(replica: Replica) -> int:
    """How much it would like to have just now."""
    replica.want(1)
    (line,) = replica.say().lines
    wanted: int = line.holds_micros + line.want_micros
    return wanted


@pytest.mark.parametrize("beat_s", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("every_s", [0.02, 1.0])
def test_what_is_wanted_follows_the_rate_however_close_the_beats_are(beat_s, every_s):
    """A cold brand makes beats come at once: the others' leases must not grow by that."""
    replica, amount, beats, draws = leasing(0), 1000, round(beat_s / 0.01), round(every_s / 0.01)
    for step in range(1000):
        if step % beats == 0:  # just as much as is drawn before the next one
            replica.say(lent(amount * sum(later % draws == 0 for later in range(step, step + beats))))
        if step % draws == 0:
            replica.draw(amount)
        replica.now_s += 0.01
    wanted = max(AHEAD_S * amount / every_s, AHEAD_WINS * amount)
    assert 0.7 * wanted <= ahead(replica) <= 1.5 * wanted


def test_one_win_right_after_its_grant_is_no_rate():
    replica = leasing(1000)
    replica.draw(1000)
    replica.now_s += 0.002
    assert ahead(replica) == AHEAD_WINS * 1000


def test_a_burst_counts_at_once_and_is_forgotten():
    replica = leasing(20_000)
    replica.now_s += 0.5
    for _ in range(200):
        replica.draw(100)
    assert ahead(replica) == AHEAD_S * 40_000
    wants = []
    for _ in range(20):
        replica.now_s += 1.0
        replica.say(lent(1))
        replica.draw(1)
        wants.append(ahead(replica))
    assert wants == sorted(wants, reverse=True)
    assert wants[-1] <= AHEAD_WINS * 20


# Refusals


def refused(replica: Replica, amount: int = 100, reason: str = "brand_budget") -> None:
    replica.want(amount)
    replica.say(refused={"b": reason})


def test_a_refusal_is_kept_for_a_moment_then_twice_as_long():
    replica, wait_s = Replica(), REFUSED_S
    while wait_s < REFUSED_MOST_S * 4:
        refused(replica)
        expected_s = min(wait_s, REFUSED_MOST_S)
        replica.now_s += expected_s - 0.001
        replica.say()
        assert replica.refusal() == "brand_budget"
        replica.now_s += 0.001
        assert replica.refusal() == NO_LEASE, "it may be asked for again"
        wait_s *= 2


def test_smaller_offers_may_fit_after_a_refusal():
    replica = Replica()
    refused(replica, 100)
    assert [replica.refusal(amount) for amount in (99, 100, 101)] == [NO_LEASE, "brand_budget", "brand_budget"]


def test_beside_what_is_left_a_refusal_concerns_what_was_asked_for_in_all():
    replica = leasing(60)
    refused(replica, 100)
    assert [replica.refusal(amount) for amount in (60, 61, 99, 100)] == [None, NO_LEASE, NO_LEASE, "brand_budget"]


def test_a_grant_ends_a_refusal_and_its_backing_off():
    replica = Replica()
    refused(replica)
    refused(replica)
    replica.lend(50)
    assert replica.refusal() == NO_LEASE
    refused(replica)
    replica.now_s += REFUSED_S
    assert replica.refusal() == NO_LEASE


def test_a_refusal_ends_with_its_day():
    replica = Replica(b=terms(day_ends_at=NOW + dt.timedelta(seconds=0.1)))
    refused(replica)
    assert replica.refusal() == "brand_budget"
    replica.now_s += 0.1
    assert replica.refusal() == NO_LEASE


CHANGES = [
    {"budget_micros": 2000},
    {"budget_micros": None},
    {"portfolio_budget_micros": 10},
    {"portfolio_id": "f"},
    {"day": TOMORROW},
    {"active": False},
]


@pytest.mark.parametrize("change", CHANGES, ids=repr)
def test_with_another_budget_or_day_a_refusal_is_forgotten(change):
    replica = Replica()
    refused(replica)
    replica.say(terms=Terms(2, {"b": replace(terms(), lambda_=9.0)}, is_whole=False))
    assert replica.refusal() == "brand_budget", "λ has nothing to do with it"
    replica.say(terms=Terms(3, {"b": replace(terms(), **change)}, is_whole=False))
    assert replica.refusal() == NO_LEASE


def test_a_refused_refill_leaves_what_there_is():
    replica = leasing(150)
    replica.draw(100)
    replica.say(refused={"b": "brand_paused"})
    assert replica.refusal(50) is None
    replica.draw(10)
    assert all(line.want_micros == 0 for line in replica.lines()), "and is not asked for again at once"


# Returning


@pytest.mark.parametrize("change", CHANGES, ids=repr)
def test_with_another_budget_or_day_what_was_lent_goes_back(change):
    replica = leasing(1000)
    replica.say(terms=Terms(2, {"b": replace(terms(), **change)}, is_whole=False))
    assert replica.refusal() == NO_LEASE
    assert replica.lines() == [LeaseLine("b", TODAY, 0)]


def test_it_goes_back_even_if_the_news_came_with_the_answer_to_a_beat_that_spoke_of_it():
    """The beat said "I hold 900"; its answer says that the brand is paused: the 900 must still be returned."""
    replica = leasing(1000)
    replica.draw(100)
    paused = Terms(2, {"b": replace(terms(), active=False)}, is_whole=False)
    beat = replica.say(terms=paused)
    assert [line.holds_micros for line in beat.lines] == [900]
    assert replica.say().lines == (LeaseLine("b", TODAY, 0),)
    assert replica.lines() == [], "once is enough"


def test_a_grant_that_comes_with_the_news_is_all_that_is_held():
    replica = leasing(1000)
    replica.draw(900)
    richer = Terms(2, {"b": replace(terms(), budget_micros=5000)}, is_whole=False)
    replica.say(lent(50), terms=richer)
    assert [line.holds_micros for line in replica.lines()] == [50]


def test_news_of_other_brands_or_of_lambda_take_nothing_back():
    replica = leasing(1000)
    news = {"b": replace(terms(), lambda_=3.0, share=0.1), "c": terms()}
    replica.say(terms=Terms(2, news, is_whole=False))
    assert replica.refusal() is None
    assert set(replica.leases.terms.brands) == {"b", "c"}
    replica.say(terms=Terms(3, {"c": terms()}))
    assert set(replica.leases.terms.brands) == {"c"}, "a whole snapshot forgets the others"


def test_what_nobody_draws_on_goes_back():
    replica = leasing(1000)
    replica.now_s += IDLE_S
    replica.say()
    assert replica.lines() == []
    replica.now_s += 1.5
    assert replica.say().lines == (LeaseLine("b", TODAY, 0),)
    assert replica.refusal() == NO_LEASE


def test_a_recalled_lease_keeps_a_second_of_draws():
    replica = leasing(1000)
    replica.now_s += 0.5
    replica.draw(100)
    replica.say(recalled=("b",))
    replica.now_s += 0.5
    replica.draw(100)
    (line,) = replica.say().lines
    assert (line.want_micros, line.holds_micros) == (0, replica.leases.left("b"))
    assert 200 <= replica.leases.left("b") <= 250, "200 a second are drawn"


def test_a_recalled_lease_that_was_not_drawn_on_lately_goes_back():
    replica = leasing(1000)
    replica.say(recalled=("b",))
    replica.now_s += 1.0
    assert replica.say().lines == (LeaseLine("b", TODAY, 0),)
    assert replica.refusal() == NO_LEASE


def test_who_has_an_offer_waiting_returns_nothing():
    replica = leasing(50)
    replica.say(recalled=("b",))
    replica.want(100)
    (line,) = replica.lines()
    assert (line.holds_micros, line.least_micros) == (50, 50)


# Lost answers, lapsed sessions, the end


def test_after_a_lost_answer_everything_it_may_have_changed_is_said_again():
    replica = leasing(60)
    replica.want(100)
    replica.lines()
    assert replica.say().lines == (LeaseLine("b", TODAY, 60), LeaseLine("b", TOMORROW, 0))
    assert replica.lines() == []


def test_what_may_have_been_lent_unheard_is_returned_before_anything_new_is_asked_for():
    """The lost answer may have lent of tomorrow: said after the new grant, "I hold nothing" would return that too."""
    replica = Replica()
    replica.want(100)
    replica.lines()
    replica.want(100)
    lines = replica.lines()
    assert lines.index(LeaseLine("b", TOMORROW, 0)) < lines.index(LeaseLine("b", TODAY, 0, 100, AHEAD_WINS * 100))


def test_a_lapsed_sessions_last_wins_go_with_its_last_beat():
    replica = leasing(1000)
    replica.draw(100, "one")
    beat = replica.leases.beat(replica.now_s)
    replica.draw(100, "two")
    replica.answer(beat, is_open=False)
    assert (replica.leases.is_open, replica.leases.has_old_session) == (False, True)
    assert replica.refusal() == NO_LEASE
    last = replica.leases.beat(replica.now_s)
    assert (last.session_id, last.is_last, [win.request_id for win in last.wins]) == (7, True, ["two"])
    replica.leases.failed(last)
    last = replica.leases.beat(replica.now_s)
    assert (last.is_last, [win.request_id for win in last.wins]) == (True, ["two"]), "until it is heard"
    replica.answer(last, is_open=False)
    assert not replica.leases.has_old_session
    opening = replica.leases.beat(replica.now_s)
    assert (opening.session_id, opening.wins) == (None, ())
    replica.answer(opening, session_id=8)
    assert replica.refusal() == NO_LEASE, "what the old session had is not the new one's"
    replica.lend(100)
    drawn = reservation_ids.decode(replica.draw(100).reservation_id)
    assert (drawn.session_id, drawn.sequence) == (8, 1)


def test_a_session_that_the_ledger_has_never_had_is_forgotten():
    replica = leasing(1000)
    replica.draw(100)
    replica.say(is_open=False, secret=b"")
    assert (replica.leases.is_open, replica.leases.has_old_session, replica.leases.wins_waiting) == (False, False, 0)


def test_the_last_beat_tells_the_wins_and_nothing_is_drawn_after_it():
    replica = leasing(1000)
    replica.draw(100)
    last = replica.leases.beat(replica.now_s, is_last=True)
    assert (last.session_id, last.is_last, len(last.wins), last.lines) == (7, True, 1, ())
    assert replica.refusal() == NO_LEASE
    replica.answer(last, is_open=False)
    assert (replica.leases.is_open, replica.leases.wins_waiting) == (False, 0)


def test_what_was_seen_goes_with_the_beat():
    replica = leasing(1000)
    assert replica.leases.beat(replica.now_s, seen=b"sketch").seen == b"sketch"


# Many brands, long outages


def wanting(*names: str) -> Replica:
    """A replica that waits for a lease of each of these brands."""
    replica = Replica(**{name: terms() for name in names})
    for name in names:
        replica.want(brand_id=name)
    return replica


def test_an_outage_does_not_make_beats_grow():
    names = [f"b{number}" for number in range(40)]
    replica = wanting(*names)
    first = replica.lines()
    for _ in range(50):
        last = replica.lines()
    assert {(line.brand_id, line.day) for line in first} == {(name, TODAY) for name in names}
    assert {(line.brand_id, line.day) for line in last} == {(name, day) for name in names for day in (TODAY, TOMORROW)}
    assert {line.want_micros for line in last} == {0}, "nobody has asked again"


def test_a_beat_names_so_many_brands_and_the_next_one_the_rest(monkeypatch):
    monkeypatch.setattr(lease_cache, "LINES_MOST", 10)
    names = [f"b{number:02}" for number in range(25)]
    replica = wanting(*names)
    told = [[line.brand_id for line in replica.say().lines] for _ in range(4)]
    assert [len(part) for part in told] == [10, 10, 5, 0]
    assert sorted(name for part in told for name in part) == names


def test_a_brand_is_named_only_with_all_its_doubts(monkeypatch):
    """ "I hold nothing of tomorrow" must not come after what is lent of tomorrow."""
    monkeypatch.setattr(lease_cache, "LINES_MOST", 2)
    names = [f"b{number}" for number in range(6)]
    replica = wanting(*names)
    for _ in range(3):
        replica.lines()  # lost: whatever was asked for may be lent, today's or tomorrow's
    replica.want(brand_id="b5")
    lines = replica.say().lines
    mine = [line for line in lines if line.brand_id == "b5"]
    assert [(line.day, line.want_micros > 0) for line in mine] == [(TOMORROW, False), (TODAY, True)]
    stated = {(line.brand_id, line.day) for line in lines}
    for _ in range(10):
        stated |= {(line.brand_id, line.day) for line in replica.say().lines}
    assert stated == {(name, day) for name in names for day in (TODAY, TOMORROW)}, "in the end all are stated"


def test_what_costs_nothing_has_a_lease_behind_it_too():
    replica = Replica()
    replica.want(0, model="revshare")
    (line,) = replica.lines()
    assert (line.least_micros, line.want_micros > 0, line.lasting) == (1, True, True)


def test_the_sequence_begins_anew_before_it_has_no_room():
    replica = leasing(1000)
    replica.leases._sequence = 2**32 - 1
    drawn = [reservation_ids.decode(replica.draw(1, request_id=str(number)).reservation_id) for number in range(2)]
    assert [one.sequence for one in drawn] == [0, 1]
