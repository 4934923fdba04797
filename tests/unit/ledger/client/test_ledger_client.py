"""A request's way to its money: in memory while there is a lease, a moment's wait where there is none yet."""

import asyncio
import logging
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from ray.exceptions import RayActorError, RayTaskError

from ledger.client import ledger_client, shard_client
from ledger.client.lease_cache import NO_LEASE
from ledger.client.ledger_client import LedgerClient
from ledger.client.shard_client import ShardClient
from ledger.domain.errors import LedgerUnavailable, NotFound
from ledger.domain.messages import Award, Beat, Event, Grant, Reply, Result, Terms
from ledger.domain.settings import LedgerSettings
from ledger.runtime.beat_format import unpack_beat
from tests.unit.ledger.books import NOW, claim, event, offer, terms_of

LONG_S = 3600.0
SETTINGS = LedgerSettings(beat_s=LONG_S)  # no beat but those that somebody waits for


class Fake:
    """A ledger with these budgets. It answers while `answers` is set, and remembers what it was asked."""

    def __init__(self, **budgets: int) -> None:
        self.left = budgets
        self.answers, self.names = asyncio.Event(), asyncio.Event()
        self.answers.set()
        self.names.set()
        self.error: BaseException | None = None
        self.beats: list[Beat] = []
        self.calls: list[str] = []
        self.connected = self.under_way = self.most_under_way = self.identities = 0
        self.on_identity: Callable[[], None] = lambda: None
        self.ignored: set[str] = set()  # brands of which it says nothing
        self.released: list[str] = []
        self.recorded: list[str] = []

    def connect(self) -> "Handle":
        self.connected += 1
        return Handle(self)

    async def beat(self, packed: bytes) -> Reply:
        beat = unpack_beat(packed)
        self.calls.append("beat")
        self.beats.append(beat)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            for _ in range(3):
                await asyncio.sleep(0)
            await self.answers.wait()
            if self.error is not None:
                raise self.error
            return self._reply(beat)
        finally:
            self.under_way -= 1

    def _reply(self, beat: Beat) -> Reply:
        grants, refused = [], {}
        for line in beat.lines:
            if line.brand_id in self.ignored:
                continue
            left = self.left.get(line.brand_id, 0)
            micros = line.want_micros if line.want_micros <= left else line.least_micros
            if micros > left:
                refused[line.brand_id] = "brand_budget"
            elif micros:
                self.left[line.brand_id] = left - micros
                grants.append(Grant(line.brand_id, NOW.date(), micros, line.lasting, LONG_S))
        terms = Terms(1, dict.fromkeys(self.left, terms_of())) if beat.known_version < 1 else None
        return Reply(1, b"secret", NOW, LONG_S, not beat.is_last, tuple(grants), refused, terms=terms)

    async def listen(self, _replica: str) -> bool:
        await asyncio.Event().wait()
        return False

    async def identity(self) -> str:
        self.identities += 1
        await self.names.wait()
        self.on_identity()
        return "me"

    async def release(self, reservation_ids: list[str]) -> int:
        self.calls.append("release")
        self.released += reservation_ids
        return len(reservation_ids)

    async def record(self, events: list[Event]) -> list[Result]:
        self.calls.append("record")
        self.recorded += [one.event_id for one in events]
        return [Result(one.event_id, "accepted") for one in events]

    async def get_brand(self, brand_id: str) -> None:
        raise self.error or NotFound("brand", brand_id)

    @property
    def told(self) -> list[str]:
        return [win.reservation_id for beat in self.beats for win in beat.wins]


class Handle:
    """Calls a ledger's methods in this process, as a Ray handle is called."""

    def __init__(self, ledger: Fake) -> None:
        self._ledger = ledger

    def __getattr__(self, method: str):
        return SimpleNamespace(remote=getattr(self._ledger, method))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(shard_client, "RETRY_S", 0.001)
    monkeypatch.setattr(ledger_client, "COLD_WAIT_S", LONG_S)  # a test that needs it to end makes it short


@pytest.fixture
async def serve():
    """Starts a client of these ledgers; its beats end with the test."""
    running = []

    async def start(*ledgers: Fake, replace=None, silence_s=3.0, **shard) -> LedgerClient:
        settings = SETTINGS.model_copy(update={"silence_s": silence_s})
        client = LedgerClient([ShardClient(one.connect, settings, replace, **shard) for one in ledgers])
        running.append(asyncio.create_task(client.keep_beating()))
        await client.beat_within(LONG_S)  # opens the sessions, brings the terms
        assert all(shard.is_reachable for shard in client._shards)
        return client

    yield start
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if is_so():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it never is")


async def soon(work):
    """Its answer; it must not wait for what never comes."""
    async with asyncio.timeout(30):
        return await work


def at_once(work):
    """Its answer, where nothing at all is awaited."""
    with pytest.raises(StopIteration) as done:
        work.send(None)
    return done.value.value


def request(*offers, winners=1, within_s=LONG_S, request_id="r"):
    one = claim(*offers, winners=winners, request_id=request_id)
    return type(one)(one.sub, one.request_id, one.request_hash, winners, offers, within_s)


def bid(brand_id: str, amount: int = 100, model: str = "cpm"):
    return offer(f"bid-{brand_id}", brand_id, amount, model)


def won(award: Award) -> list[str]:
    return [win.bid_id for win in award.wins]


# The steady state


async def test_in_the_steady_state_nothing_is_awaited(serve):
    ledger = Fake(a=10**6)
    client = await serve(ledger)
    assert won(await soon(client.reserve(request(bid("a"))))) == ["bid-a"]
    beats = len(ledger.beats)
    awards = [at_once(client.reserve(request(bid("a"), request_id=f"r{n}"))) for n in range(20)]
    assert [won(award) for award in awards] == [["bid-a"]] * 20
    assert len(ledger.beats) == beats
    await soon(client.beat_within(LONG_S))
    assert len(set(ledger.told)) == 21
    assert set(ledger.told) >= {win.reservation_id for award in awards for win in award.wins}


async def test_wins_of_one_answer_have_one_award_and_those_of_another_another(serve):
    ledger = Fake(a=10**6, b=10**6)
    client = await serve(ledger)
    for n in range(2):
        await soon(client.reserve(request(bid("a"), bid("b"), winners=2, request_id=f"r{n}")))
    await soon(client.beat_within(LONG_S))
    awards = [(win.request_id, win.award_id) for beat in ledger.beats for win in beat.wins]
    assert len(awards) == 4
    assert len(set(awards)) == 2


async def test_a_brand_wins_once_and_no_more_win_than_asked_for(serve):
    client = await serve(Fake(a=10**6, b=10**6, c=10**6))
    offers = [offer("1", "a"), offer("2", "a"), offer("3", "b"), offer("4", "c")]
    award = await soon(client.reserve(request(*offers, winners=2)))
    assert (won(award), award.refused) == (["1", "3"], {})


# Cold brands


async def test_a_cold_brand_is_waited_for_and_the_best_bid_wins(serve):
    client = await serve(Fake(a=10**6, b=10**6))
    await soon(client.reserve(request(bid("b"))))
    award = await soon(client.reserve(request(bid("a"), bid("b"))))
    assert (won(award), award.refused) == (["bid-a"], {})


async def test_what_is_refused_gives_way_to_the_next_with_its_reason(serve):
    client = await serve(Fake(a=99, b=10**6))
    award = await soon(client.reserve(request(bid("a"), bid("b"), bid("nobody"))))
    assert (won(award), award.refused) == (["bid-b"], {"bid-a": "brand_budget"})
    again = at_once(client.reserve(request(bid("a"), bid("b"))))
    assert (won(again), again.refused) == (["bid-b"], {"bid-a": "brand_budget"}), "the refusal is kept for a moment"
    assert won(await soon(client.reserve(request(bid("a", 99), bid("b"))))) == ["bid-a"], "a smaller offer may fit"


async def test_many_cold_brands_are_asked_for_in_growing_steps(serve):
    brands = [f"b{n:03}" for n in range(60)]
    ledger = Fake(**dict.fromkeys(brands, 0), last=10**6)
    client = await serve(ledger)
    ledger.beats.clear()
    award = await soon(client.reserve(request(*map(bid, brands), bid("last"))))
    assert won(award) == ["bid-last"]
    assert [sum(line.want_micros > 0 for line in beat.lines) for beat in ledger.beats] == [8, 16, 32, 5]


async def test_several_winners_of_which_some_are_cold(serve):
    client = await serve(Fake(a=10**6, b=10**6, c=10**6))
    await soon(client.reserve(request(bid("c"))))
    award = await soon(client.reserve(request(bid("a"), bid("b"), bid("c"), winners=3)))
    assert won(award) == ["bid-a", "bid-b", "bid-c"]


async def test_a_silent_ledger_costs_a_moment_and_the_leased_bid_wins(serve, monkeypatch):
    monkeypatch.setattr(ledger_client, "COLD_WAIT_S", 0.02)
    ledger = Fake(a=10**6, b=10**6)
    client = await serve(ledger)
    await soon(client.reserve(request(bid("b"))))
    ledger.answers.clear()
    award = await soon(client.reserve(request(bid("a"), bid("b"))))
    assert (won(award), award.refused) == (["bid-b"], {"bid-a": NO_LEASE})
    ledger.answers.set()
    await until(lambda: ledger.left["a"] < 10**6)  # what was wanted is there for those who come after


async def test_with_nothing_else_to_win_the_whole_deadline_is_waited_and_no_longer(serve):
    ledger = Fake(a=10**6)
    client = await serve(ledger)
    ledger.answers.clear()
    award = await soon(client.reserve(request(bid("a"), within_s=0.05)))
    assert (award.wins, award.refused) == ((), {"bid-a": NO_LEASE})
    waiting = asyncio.create_task(client.reserve(request(bid("a"))))
    await asyncio.sleep(0.02)
    ledger.answers.set()
    assert won(await soon(waiting)) == ["bid-a"]


async def test_what_comes_after_the_deadline_wins_nothing(serve, monkeypatch):
    """Nobody waits for the answer any more: a win would be money held for nothing."""
    now_s = 0.0
    monkeypatch.setattr(ledger_client, "time", SimpleNamespace(monotonic=lambda: now_s))
    ledger = Fake(a=10**6, b=10**6)
    ledger.ignored = {"b"}
    client = await serve(ledger, clock=lambda: now_s)
    await soon(client.reserve(request(bid("a"))))
    ledger.answers.clear()
    waiting = asyncio.create_task(client.reserve(request(bid("b"), bid("a"), within_s=60.0)))
    await until(lambda: ledger.under_way == 1)
    now_s = 61.0
    ledger.answers.set()
    award = await soon(waiting)
    assert (award.wins, award.refused) == ((), {"bid-a": NO_LEASE, "bid-b": NO_LEASE})


async def test_an_unreachable_ledger_is_not_waited_for(serve):
    ledger = Fake(a=10**6, b=10**6)
    client = await serve(ledger)
    await soon(client.reserve(request(bid("b"))))
    (shard,) = client._shards
    ledger.error = RayActorError()
    await soon(client.beat_within(LONG_S))
    assert not shard.is_reachable
    award = at_once(client.reserve(request(bid("a"), bid("b"))))
    assert (won(award), award.refused) == (["bid-b"], {"bid-a": NO_LEASE}), "while its leases last"
    ledger.error = None
    await soon(client.beat_within(LONG_S))
    assert shard.is_reachable
    assert won(await soon(client.reserve(request(bid("a"), bid("b"))))) == ["bid-a"]


async def test_an_unreachable_ledger_is_two_lines_in_the_log_that_name_its_shard(serve, caplog):
    caplog.set_level(logging.INFO, "paceline.reserve")
    ledger = Fake(a=10**6)
    client = await serve(ledger, shard=3)
    ledger.error = RayActorError()
    for _ in range(5):
        await soon(client.beat_within(LONG_S))
    ledger.error = None
    await soon(client.beat_within(LONG_S))
    away, back = [record.message for record in caplog.records if record.name == "paceline.reserve"]
    assert away.startswith("ledger shard 3 unreachable, connecting again until it answers: ")
    assert back == "ledger shard 3 answers again"


async def test_a_caller_that_leaves_takes_nothing_with_it(serve):
    ledger = Fake(a=10**6)
    client = await serve(ledger)
    ledger.answers.clear()
    leaving, staying = (asyncio.create_task(client.reserve(request(bid("a"), request_id=id_))) for id_ in "12")
    await until(lambda: ledger.under_way == 1)
    leaving.cancel()
    ledger.answers.set()
    assert won(await soon(staying)) == ["bid-a"]
    await soon(client.beat_within(LONG_S))
    assert len(ledger.told) == 1


# Beats


async def test_beats_are_never_two_at_a_time(serve):
    ledger = Fake(**{f"b{n}": 10**6 for n in range(40)})
    client = await serve(ledger)
    works = [client.reserve(request(bid(f"b{n}"), request_id=f"r{n}")) for n in range(40)]
    awards = await soon(asyncio.gather(*works, *(client.beat_within(LONG_S) for _ in range(10))))
    assert all(won(award) for award in awards[:40])
    assert ledger.most_under_way == 1
    assert len(ledger.beats) < 10, "who waits together is asked for together"
    numbers = [beat.number for beat in ledger.beats]
    assert numbers == sorted(set(numbers))


async def test_a_beat_that_is_waited_for_begins_after_the_waiting(serve):
    """What was drawn just before must be in it."""
    ledger = Fake(a=10**6)
    client = await serve(ledger)
    await soon(client.reserve(request(bid("a"))))
    ledger.answers.clear()
    (shard,) = client._shards
    first = asyncio.create_task(shard.next_beat())
    await until(lambda: ledger.under_way == 1)
    (win,) = at_once(client.reserve(request(bid("a"), request_id="late"))).wins
    second = asyncio.create_task(shard.next_beat())
    ledger.answers.set()
    await soon(first)
    await soon(second)
    assert win.reservation_id in ledger.told


async def test_what_a_failed_beat_said_is_said_again(serve):
    ledger = Fake(a=10**6)
    client = await serve(ledger)
    (win,) = (await soon(client.reserve(request(bid("a"))))).wins
    ledger.error = LedgerUnavailable("away")
    await soon(client.beat_within(LONG_S))
    (shard,) = client._shards
    assert (shard.is_reachable, shard.leases.wins_waiting) == (False, 1)
    ledger.error = None
    await soon(client.beat_within(LONG_S))
    assert shard.is_reachable
    assert ledger.told.count(win.reservation_id) >= 2
    assert shard.leases.wins_waiting == 0


async def test_a_dead_ledger_is_looked_for_again(serve):
    ledger = Fake(a=10**6)
    client = await serve(ledger)
    (shard,) = client._shards
    before, ledger.error = ledger.connected, RayActorError()
    await soon(client.beat_within(LONG_S))
    ledger.error = None
    await soon(client.beat_within(LONG_S))
    assert shard.is_reachable
    assert ledger.connected > before


async def test_a_bug_in_a_beat_does_not_end_the_beating(serve):
    ledger = Fake(a=10**6)
    client = await serve(ledger)
    ledger.error = KeyError("bug")
    await soon(client.beat_within(LONG_S))
    ledger.error = None
    await soon(client.beat_within(LONG_S))
    assert won(await soon(client.reserve(request(bid("a"))))) == ["bid-a"]


async def test_a_silent_ledger_is_replaced(serve, monkeypatch):
    old, new = Fake(a=10**6), Fake(a=10**6)
    replaced: list[Handle] = []

    def replace():
        replaced.append(new.connect())
        return replaced[-1]

    client = await serve(old, replace=replace, silence_s=0.03)
    (shard,) = client._shards
    old.answers.clear()
    old.names.clear()
    await soon(shard.next_beat())
    assert not shard.is_reachable
    await soon(client.beat_within(LONG_S))
    assert shard.is_reachable
    assert (len(replaced), len(new.beats)) == (1, 1)
    assert old.under_way == 0, "nobody waits for the old one any more"
    assert won(await soon(client.reserve(request(bid("a"))))) == ["bid-a"]


async def test_nobody_waits_for_a_silent_ledger_until_it_is_replaced(serve):
    """What has no lease is lost, what has one goes on winning: no deadline is waited for."""
    ledger = Fake(a=10**6, b=10**6)
    client = await serve(ledger, silence_s=0.3)
    assert won(await soon(client.reserve(request(bid("a"))))) == ["bid-a"]
    ledger.answers.clear()
    ledger.names.clear()
    shard = client._shards[0]
    award = await soon(client.reserve(request(bid("b"), within_s=LONG_S)))
    assert (won(award), award.refused) == ([], {"bid-b": "no_lease"})
    assert not shard.is_reachable
    assert won(await soon(client.reserve(request(bid("b"), bid("a"))))) == ["bid-a"]
    ledger.answers.set()
    ledger.names.set()
    await soon(client.beat_within(LONG_S))
    await until(lambda: shard.is_reachable)


async def test_a_slow_ledger_that_says_its_name_is_waited_for(serve, monkeypatch):
    monkeypatch.setattr(shard_client, "BEAT_S", LONG_S)
    now_s = 0.0
    ledger = Fake(a=10**6)

    def most_of_the_patience():
        nonlocal now_s
        now_s += 0.1

    ledger.on_identity = most_of_the_patience
    client = await serve(ledger, replace=lambda: pytest.fail("replaced"), silence_s=0.15, clock=lambda: now_s)
    ledger.answers.clear()
    waiting = asyncio.create_task(client._shards[0].next_beat())
    await until(lambda: ledger.identities >= 4)
    ledger.answers.set()
    await soon(waiting)
    assert client._shards[0].is_reachable


async def test_a_beat_that_takes_for_ever_is_given_up(serve, monkeypatch):
    now_s = 0.0
    ledger = Fake(a=10**6)

    def long_after():
        nonlocal now_s
        now_s += shard_client.BEAT_S

    ledger.on_identity = long_after
    client = await serve(ledger, clock=lambda: now_s)
    ledger.answers.clear()
    await soon(client._shards[0].next_beat())
    assert not client._shards[0].is_reachable
    ledger.answers.set()
    await soon(client.beat_within(LONG_S))
    assert client._shards[0].is_reachable


async def test_beats_come_by_themselves_and_go_on_after_an_outage():
    ledger = Fake(a=10**6)
    ledger.error = RayActorError()
    shard = ShardClient(ledger.connect, LedgerSettings(beat_s=0.001))
    beating = asyncio.create_task(shard.keep_beating())
    await until(lambda: len(ledger.beats) > 2)
    assert not shard.is_reachable
    ledger.error = None
    await until(lambda: shard.is_reachable and len(ledger.beats) > 6)
    beating.cancel()


async def test_the_end_tells_the_last_wins_and_returns_all(serve):
    ledger = Fake(a=10**6)
    client = await serve(ledger)
    (win,) = (await soon(client.reserve(request(bid("a"))))).wins
    await soon(client.close())
    assert ledger.beats[-1].is_last
    assert [one.reservation_id for one in ledger.beats[-1].wins] == [win.reservation_id]


async def test_after_the_end_nothing_is_asked_for(serve):
    ledger = Fake(a=10**6)
    client = await serve(ledger)
    await soon(client.reserve(request(bid("a"))))
    await soon(client.close())
    assert not (await soon(client.reserve(request(bid("a"))))).wins
    await soon(client.beat_within(LONG_S))
    await soon(client._shards[0].beat())
    assert ledger.beats[-1].is_last


async def test_what_nobody_heard_of_is_recorded_and_then_released(serve):
    ledger = Fake(a=10**6)
    client = await serve(ledger)
    (win,) = (await soon(client.reserve(request(bid("a"))))).wins
    assert ledger.told == []
    client.release([("a", win.reservation_id)])
    await until(lambda: bool(ledger.released))
    assert ledger.told == [win.reservation_id]
    assert ledger.calls[-2:] == ["beat", "release"]


# Calls


async def test_what_the_ledger_declines_is_told_in_its_own_words(serve):
    ledger = Fake()
    client = await serve(ledger)
    with pytest.raises(NotFound, match="no such brand: x"):
        await soon(client.get_brand(LONG_S, "x"))
    ledger.error = RayTaskError("get_brand", "remote traceback", NotFound("brand", "x"))
    with pytest.raises(NotFound) as told:
        await soon(client.get_brand(LONG_S, "x"))
    assert str(told.value) == "no such brand: x"


async def test_a_call_is_tried_again_while_the_ledger_restarts(serve):
    ledger = Fake()
    client = await serve(ledger)
    ledger.error = RayActorError()
    calling = asyncio.create_task(client.get_brand(LONG_S, "x"))
    await until(lambda: ledger.connected > 3)
    ledger.error = None
    with pytest.raises(NotFound):
        await soon(calling)
    ledger.error = RayActorError()
    with pytest.raises(LedgerUnavailable):
        await soon(client.get_brand(0.01, "x"))


# Two shards


async def test_every_brand_is_its_own_shards(serve):
    one, two = Fake(a=10**6, b=10**6), Fake(c=10**6, d=10**6)
    client = await serve(one, two)
    assert set(client.terms.brands) == set("abcd")
    award = await soon(client.reserve(request(*map(bid, "adbc"), winners=4)))
    assert won(award) == ["bid-a", "bid-d", "bid-b", "bid-c"]
    await soon(client.beat_within(LONG_S))
    brands = [{win.where.brand_id for beat in ledger.beats for win in beat.wins} for ledger in (one, two)]
    assert brands == [set("ab"), set("cd")]
    results = await soon(client.record(LONG_S, [event(id_, "impression", brand_id=id_) for id_ in "cadb"]))
    assert [result.event_id for result in results] == list("cadb"), "in the order of the events"
    assert (one.recorded, two.recorded) == (["a", "b"], ["c", "d"])
    client.release([(win.bid_id[-1], win.reservation_id) for win in award.wins])
    await until(lambda: bool(one.released) and bool(two.released))
    assert len(one.released) == len(two.released) == 2


async def test_terms_wait_until_every_shard_has_been_heard():
    one, two = Fake(a=1), Fake(b=1)
    shards = [ShardClient(ledger.connect, SETTINGS) for ledger in (one, two)]
    client = LedgerClient(shards)
    await shards[0].beat()
    assert client.terms.version == -1, "half of the brands would look unknown"
    await shards[1].beat()
    assert (client.terms.version, set(client.terms.brands)) == (0, {"a", "b"})


async def test_one_silent_shard_does_not_stop_the_other(serve, monkeypatch):
    monkeypatch.setattr(ledger_client, "COLD_WAIT_S", 0.02)
    one, two = Fake(a=10**6), Fake(b=10**6)
    client = await serve(one, two)
    await soon(client.reserve(request(bid("a"), bid("b"), winners=2)))
    two.error = RayActorError()
    await soon(client.beat_within(LONG_S))
    award = at_once(client.reserve(request(bid("a"), winners=1)))
    assert won(award) == ["bid-a"]
    assert won(at_once(client.reserve(request(bid("b"))))) == ["bid-b"], "on the lease that it has"
