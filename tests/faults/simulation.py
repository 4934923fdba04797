"""Seeded histories in which replicas, ledgers, clocks and the database fail: `python -m tests.faults.simulation`.

A history is a pure function of its seed. The replicas' leases, the ledgers and their SQL are the real ones; network,
clocks and commits are simulated; `oracle.py` says what must hold.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any, TypeVar

from sqlalchemy import select

from db import tables as t
from db.brands import BrandSettings, PortfolioSettings
from ledger.client.lease_cache import NO_LEASE, LeaseCache
from ledger.domain.budget_day import day_ends_at
from ledger.domain.errors import Fenced, LedgerUnavailable, PortfolioMismatch, StatementRefused
from ledger.domain.messages import Beat, Claim, Event, Offer, Placement, Reply, Win
from ledger.domain.reservation import Lifetimes
from ledger.domain.settings import LedgerSettings
from ledger.service.ledger import Ledger
from tests.faults.books import FAULTS, Books, Died, SqliteBooks
from tests.faults.inventor import Inventor
from tests.faults.oracle import Broken, Model, days_around
from tests.faults.words import beat_in_short, event_in_short, reply_in_short, win_in_short

T = TypeVar("T")
STEPS = 36, 60
CHECKED_EVERY = 12
MODELS = ("cpm", "cpm", "cpc", "cpa", "revshare")
ZONES = ("UTC", "America/New_York", "Asia/Tokyo", "Europe/London", "Pacific/Kiritimati", "Pacific/Pago_Pago")
STARTS = (
    dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC),
    dt.datetime(2024, 5, 1, 23, 59, 50, tzinfo=dt.UTC),
    dt.datetime(2024, 3, 10, 4, 59, 50, tzinfo=dt.UTC),  # New York's day of 23 hours begins
    dt.datetime(2024, 11, 3, 3, 59, 50, tzinfo=dt.UTC),  # … and of 25
    dt.datetime(2024, 3, 30, 23, 59, 45, tzinfo=dt.UTC),  # London's
    dt.datetime(2024, 2, 29, 9, 59, 50, tzinfo=dt.UTC),  # Kiritimati's midnight
)
ACTIONS = {
    "request": 24, "two_requests": 3, "beat": 10, "send": 8, "deliver": 10, "hear": 8, "lose": 4, "event": 20,
    "resend": 3, "sweep": 6, "wait": 8, "silence": 2, "wait_long": 2, "clock_jump": 2, "refresh": 3, "release": 3,
    "budget": 4, "portfolio_budget": 2, "pause": 2, "move": 2, "die": 2, "stop": 1, "leave": 1, "join": 3,
    "crash": 2, "open_ledger": 3, "old_ledger": 3, "settle_down": 2, "midnight": 2, "orphan": 2, "oversleep": 2,
    "slow_beat": 3,
}  # fmt: skip
"""What may happen, and how often."""


class Failed(AssertionError):
    """A history that broke a promise."""

    def __init__(self, seed: int, steps: Sequence[str], error: BaseException) -> None:
        self.seed, self.steps, self.error = seed, steps, error
        super().__init__(
            "\n".join(
                (
                    *steps,
                    f"seed {seed}: {type(error).__name__}: {error}",
                    f"python -m tests.faults.simulation --seed {seed} -v",
                )
            )
        )


@dataclass(slots=True)
class Flight:
    """A beat under way."""

    beat: Beat
    asked_s: float  # by the replica's clock
    asked_at: float  # by the true one
    reply: Reply | None = None
    walls_jumped: int = 0  # of the ledger's clock, when the answer's terms were made
    is_lost: bool = False  # nobody waits for the answer


@dataclass(slots=True)
class Replica:
    """Real leases, and a monotonic clock that is a little wrong."""

    name: str
    leases: LeaseCache
    ahead_s: float
    rate: float
    uses_old_ledger: bool = False
    flight: Flight | None = None
    asked_at: float = -1e9  # when the last beat that was answered was sent, by the true clock
    walls_jumped: int = 0  # how often the ledger's clock had jumped when it made the terms of that answer
    session_id: int | None = None
    stopped_until: float = 0.0

    def now_s(self, true_s: float) -> float:
        return self.ahead_s + self.rate * true_s

    def choose(self, claim: Claim, now_s: float) -> tuple[list[Offer], list[Offer]]:
        """(offers that win now, those that a lease might help), as `LedgerClient` does it."""
        chosen: list[Offer] = []
        missing: list[Offer] = []
        for offer in claim.offers:
            if len(chosen) < claim.winners and offer.where.brand_id not in {one.where.brand_id for one in chosen}:
                reason = self.leases.refusal(offer, now_s)
                if reason is None:
                    chosen.append(offer)
                elif reason == NO_LEASE:
                    missing.append(offer)
        return chosen, missing

    async def between_check_and_draw(self) -> None:
        """Nothing may be awaited here: another request would draw on what this one has looked at."""

    async def answer(self, claim: Claim, award_id: str, now_s: float) -> list[tuple[Win, Offer]]:
        chosen, _ = self.choose(claim, now_s)
        await self.between_check_and_draw()
        return [(self.leases.draw(claim, award_id, offer, now_s), offer) for offer in chosen]


class World:
    """One history."""

    def __init__(self, seed: int, books: Books, watch: Callable[[str], None] = lambda _: None) -> None:
        self.rng = rng = Random(seed)
        self.books, self._watch = books, watch
        self.steps: list[str] = []
        self.true_s = 0.0
        self._start = rng.choice(STARTS) + dt.timedelta(seconds=rng.uniform(-10, 10))
        self._wall_ahead = dt.timedelta()
        self.walls_jumped = 0
        self._terms_made: dict[int, int] = {}
        """Of each epoch, how often the clock had jumped when it made its terms."""
        self.settings = LedgerSettings(
            reservation_ttl_s=rng.choice([60.0, 600.0, 1800.0]),
            conversion_days=rng.choice([1, 2, 7, 30]),
            lease_s=rng.choice([2.0, 5.0]),
        )
        self.model = Model(books, self.settings)
        self.fault_rate = rng.choice([0.0, 0.02, 0.1, 0.3])
        self._faultless = False
        books.fault = self._fault
        # Each history prefers other things: what is rare in one is common in another.
        self._weights = [weight * rng.choice([0.2, 1, 1, 3]) for weight in ACTIONS.values()]
        self.ledgers: list[Ledger] = []
        self.replicas: list[Replica] = []
        self.strays: list[Flight] = []
        """Beats that arrive late, or once more."""
        self.unanswered: list[list[Event]] = []
        self.requests: list[Claim] = []
        self._numbers = {"replica": 0, "request": 0, "award": 0}
        self._brands: Any = None
        self._portfolio_ids = [f"f{n}" for n in range(rng.choice([0, 0, 1, 1, 2]))]
        self._brand_ids = [f"b{n}" for n in range(rng.randint(1, 4))]
        self._results = Inventor(rng, self.model, self._brand_ids, lambda: self.wall)

    # Time and chance

    @property
    def wall(self) -> dt.datetime:
        """What the ledger's clock shows."""
        return self._start + self._wall_ahead + dt.timedelta(microseconds=round(self.true_s * 1e6))

    def _clock(self) -> dt.datetime:
        wall = self.wall
        self.model.latest = max(self.model.latest, wall)
        return wall

    def _secret(self) -> bytes:
        return self.rng.randbytes(32)

    def _fault(self) -> str | None:
        if self._faultless or self.rng.random() >= self.fault_rate:
            return None
        fault = self.rng.choice(FAULTS)
        self.say(f"  fault: {fault}")
        return fault

    @contextmanager
    def _without_faults(self) -> Iterator[None]:
        before, self._faultless = self._faultless, True
        try:
            yield
        finally:
            self._faultless = before

    def say(self, what: str) -> None:
        self.steps.append(what)
        self._watch(what)

    def _next(self, kind: str) -> int:
        self._numbers[kind] += 1
        return self._numbers[kind]

    # The history

    def run(self) -> None:
        rng = self.rng
        self._set_up()
        names = list(ACTIONS)
        for number in range(rng.randint(*STEPS)):
            self.true_s += rng.choice([0.001, 0.01, 0.1, 0.5])
            (name,) = rng.choices(names, self._weights)
            self.say(f"{number:3} {self.wall:%m-%d %H:%M:%S.%f} {name}")
            getattr(self, f"do_{name}")()
            if number % CHECKED_EVERY == CHECKED_EVERY - 1:
                self.model.check(self.wall)
        self._finish()

    def _set_up(self) -> None:
        rng = self.rng
        with self._without_faults():
            self._open()
            ledger = self.ledgers[-1]
            for id_ in self._portfolio_ids:
                settings = PortfolioSettings.model_construct(
                    timezone=rng.choice(ZONES), daily_budget_micros=self._budget()
                )
                self.books.call(ledger.administration.put_portfolio(id_, settings))
            portfolios = ledger.directory.portfolios()
            for id_ in self._brand_ids:
                portfolio_id = rng.choice([None, *self._portfolio_ids])
                self.model.portfolios[id_].add(portfolio_id)
                self.books.call(
                    ledger.administration.put_brand(
                        id_,
                        BrandSettings.model_construct(
                            portfolio_id=portfolio_id,
                            timezone=portfolios[portfolio_id].timezone if portfolio_id else rng.choice(ZONES),
                            daily_budget_micros=self._budget(),
                        ),
                    )
                )
            for _ in range(rng.randint(1, 3)):
                self.do_join()

    def _budget(self) -> int | None:
        return self.rng.choice([None, 0, 300, 1000, 1000, 3000, 3000, 10_000, 10**7])

    def _finish(self) -> None:
        """Everybody goes, in one way or another, and time passes."""
        self.say("the end")
        self._faultless = True
        model = self.model
        if not self._is_newest(self.ledgers[-1] if self.ledgers else None):
            self._open()
        while self.unanswered:
            self._record(self.unanswered.pop())
        for flight in self.strays:
            self._deliver([flight])
        for one in list(self.replicas):
            one.stopped_until = 0.0
            if self.rng.random() < 0.4:
                self._settle_down(one)
            if self.rng.random() < 0.5:
                self._leave(one)
        self.model.check(self.wall)
        self.true_s += 100 * self.settings.lease_s + max(0.0, (model.latest - self.wall).total_seconds())
        self._sweep()
        self.true_s += max(self.settings.reservation_ttl_s, self.settings.conversion_days * 86400) + 60
        self._sweep()
        self.true_s += 1.0
        self._sweep()
        model.check(self.wall)
        model.check_end()

    # The ledgers

    def _open(self) -> None:
        try:
            ledger = self.books.call(
                Ledger.open(self.books.database, self.settings, clock=self._clock, secrets=self._secret)
            )
        except (Died, LedgerUnavailable) as error:
            self.say(f"  not opened: {error}")
            return
        self.ledgers.append(ledger)
        self._terms_made[ledger.epoch] = self.walls_jumped
        self.say(f"  epoch {ledger.epoch} is open")

    def _is_newest(self, ledger: Ledger | None) -> bool:
        if ledger is None:
            return False
        return bool(self.books.connection.execute(select(t.ledger_epochs.c.epoch)).scalar_one() == ledger.epoch)

    def _ask(self, ledger: Ledger | None, work: Callable[[Ledger], Coroutine[Any, Any, T]]) -> T | None:
        """What the ledger answers; None: nobody knows."""
        if ledger is None:
            return None
        if not self._is_newest(ledger):
            self._try_fenced(ledger, work)
            return None
        try:
            return self.books.call(work(ledger))
        except Died:
            self.ledgers.remove(ledger)
        except StatementRefused:
            raise
        except LedgerUnavailable as error:
            self.say(f"  {error}")
        return None

    def _try_fenced(self, ledger: Ledger, work: Callable[[Ledger], Coroutine[Any, Any, Any]]) -> None:
        before = self.books.changes if isinstance(self.books, SqliteBooks) else 0
        try:
            with self._without_faults():
                self.books.call(work(ledger))
        except Fenced as error:
            self.say(f"  {error}")
        else:
            raise Broken(f"epoch {ledger.epoch} has written after a newer one")
        if isinstance(self.books, SqliteBooks) and self.books.changes != before:
            raise Broken(f"epoch {ledger.epoch} has changed rows after a newer one")

    def _ledger(self, is_old: bool = False) -> Ledger | None:
        if not self.ledgers:
            return None
        return self.ledgers[0] if is_old else self.ledgers[-1]

    def do_crash(self) -> None:
        if self.ledgers:
            self.ledgers.pop()

    def do_open_ledger(self) -> None:
        self._open()

    def do_old_ledger(self) -> None:
        """Somebody still talks to a ledger that has been replaced."""
        if self.replicas and self.rng.random() < 0.3:
            replica = self.rng.choice(self.replicas)
            replica.uses_old_ledger = not replica.uses_old_ledger
        if len(self.ledgers) > 1:
            ledger = self.rng.choice(self.ledgers[:-1])
            self._ask(ledger, self.rng.choice([lambda asked: asked.sweep(), lambda asked: asked.release(["x"])]))

    def do_sweep(self) -> None:
        self._sweep()

    def _sweep(self) -> None:
        self._ask(self._ledger(), lambda asked: asked.sweep())

    def do_refresh(self) -> None:
        if (ledger := self._ledger()) is not None:
            self.books.call(ledger.refresh())
            self._terms_made[ledger.epoch] = self.walls_jumped

    # Clocks

    def do_wait(self) -> None:
        self.true_s += self.rng.choice([0.3, 1.1, 1.1, 3.0])

    def do_silence(self) -> None:
        self.true_s += self.rng.choice([2.0, 4.9, 5.1, 7.5, 20.0])
        self._sweep()

    def do_wait_long(self) -> None:
        """The machine sleeps: every clock goes on."""
        self.true_s += self.rng.choice([59.0, 601.0, 1795.0, 1801.0, 3600.0, 14_400.0, 86_400.0])
        if self.rng.random() < 0.5:
            self._sweep()

    def do_clock_jump(self) -> None:
        """The ledger's clock is set; nobody else's is."""
        by = self.rng.choice([1.0, 8.0, 60.0, 3600.0, 43_200.0, 86_400.0, 3 * 86_400.0, -1.0, -60.0, -3600.0])
        self.say(f"  by {by} s")
        self._wall_ahead += dt.timedelta(seconds=by)
        self.walls_jumped += 1
        if by < 0:
            self.model.era += 1

    def do_midnight(self) -> None:
        """A brand's day ends, and somebody goes on."""
        row = self.rng.choice(self.books.connection.execute(select(t.brands)).all())
        to_go = (day_ends_at(row.timezone, self.wall) - self.wall).total_seconds()
        self.true_s += max(to_go - 0.5, 0.0)
        if (replica := self._replica()) is not None:
            self._exchange(replica)
            self._serve(replica, [self._claim()])
            self.true_s += self.rng.choice([0.4, 0.51, 3.0, 30.0])
            self._exchange(replica)
            self._serve(replica, [self._claim()])

    # Chains that chance would rarely make

    def do_orphan(self) -> None:
        """A replica dies with wins that nobody has recorded; their events come, sooner or later."""
        if (replica := self._replica()) is not None:
            self._serve(replica, [self._claim()])
            self._gone(replica)
            self._sleep_over(self.rng.choice([0.0, 0.5, 1.1, 20.0]))
            self._events_of(replica)

    def do_slow_beat(self) -> None:
        """A beat is long under way; wins are drawn meanwhile, and their events overtake it."""
        replica = self._replica()
        if replica is None or replica.flight is not None:
            return
        flight = self._send(replica)
        if self.rng.random() < 0.5:
            self._serve(replica, [self._claim()])
            self._events_of(replica)
        self.true_s += self.rng.choice([0.1, 0.5, 0.9, 1.5]) * self.settings.lease_s
        self._deliver([flight])
        if flight.reply is not None:
            self._hear(replica)
            self._serve(replica, [self._claim()])

    def do_oversleep(self) -> None:
        """A replica tells of its wins when nothing of its leases is left."""
        if (replica := self._replica()) is not None:
            self._serve(replica, [self._claim()])
            self._sleep_over(1.1)
            if self._exchange(replica):
                self._events_of(replica)

    def _sleep_over(self, lifetimes: float) -> None:
        self.true_s += self.settings.lease_s + 2.1
        self._sweep()
        self.true_s += lifetimes * self.settings.reservation_ttl_s
        self._sweep()

    def _events_of(self, replica: Replica) -> None:
        wins = [one for one in self.model.wins.values() if one.by == replica.name]
        if wins:
            self._record([self._results.following(self.rng.choice(wins[-3:]))])

    # The replicas

    def do_join(self) -> None:
        if len(self.replicas) < 4:
            name = f"r{self._next('replica')}"
            leases = LeaseCache(Lifetimes(self.settings.reservation_ttl_s, self.settings.conversion_days))
            replica = Replica(name, leases, self.rng.uniform(0, 1e6), 1 + self.rng.uniform(-1e-3, 1e-3))
            self.replicas.append(replica)
            self._exchange(replica)
            self._exchange(replica)

    def _replica(self) -> Replica | None:
        awake = [one for one in self.replicas if one.stopped_until <= self.true_s]
        return self.rng.choice(awake) if awake else None

    def do_die(self) -> None:
        if (replica := self._replica()) is not None:
            self.say(f"  {replica.name} with {replica.leases.wins_waiting} wins that nobody has recorded")
            self._gone(replica)

    def _gone(self, replica: Replica) -> None:
        self.replicas.remove(replica)
        if replica.flight is not None and replica.flight.reply is None and self.rng.random() < 0.5:
            self.strays.append(replace(replica.flight, is_lost=True))

    def do_leave(self) -> None:
        if (replica := self._replica()) is not None:
            self._leave(replica)

    def _leave(self, replica: Replica) -> None:
        """A last beat, repeated a few times if there is no answer."""
        for _ in range(4):
            self._give_up(replica)
            beat = self._send(replica, is_last=True)
            self._deliver([beat])
            if beat.reply is not None:
                had_old = replica.leases.has_old_session
                self._hear(replica)
                if not had_old:
                    break
        if replica in self.replicas:
            self._gone(replica)

    def do_stop(self) -> None:
        """It stands still, and does not know it when it goes on."""
        if (replica := self._replica()) is not None:
            replica.stopped_until = self.true_s + self.rng.choice([1.0, 6.0, 30.0, 700.0, 4000.0])
            self.say(f"  {replica.name} until {replica.stopped_until:.1f}")

    # Beats

    def do_beat(self) -> None:
        if (replica := self._replica()) is not None:
            self._exchange(replica)

    def _exchange(self, replica: Replica) -> bool:
        """A beat and its answer, at once; False: there was none."""
        self._give_up(replica)
        self._send(replica)
        return self._complete(replica)

    def _complete(self, replica: Replica) -> bool:
        flight = replica.flight
        assert flight is not None
        self._deliver([flight], replica.uses_old_ledger)
        if flight.reply is None:
            self._give_up(replica)
            return False
        self._hear(replica)
        return True

    def do_send(self) -> None:
        """A beat that takes its time: others happen meanwhile."""
        replica = self._replica()
        if replica is not None and replica.flight is None:
            self._send(replica)

    def _send(self, replica: Replica, is_last: bool = False) -> Flight:
        now_s = replica.now_s(self.true_s)
        beat = replica.leases.beat(now_s, is_last=is_last)
        replica.flight = Flight(beat, now_s, self.true_s)
        self.say(f"  {replica.name} beats {beat_in_short(beat)}")
        return replica.flight

    def do_deliver(self) -> None:
        """Some of what is under way arrives, in any order, together or not."""
        flights = [one.flight for one in self.replicas if one.flight is not None and one.flight.reply is None]
        flights += self.strays
        self.rng.shuffle(flights)
        flights = flights[: self.rng.choice([1, 1, 2, 3])]
        if flights:
            self._deliver(flights)
            self.strays = [one for one in self.strays if one not in flights]
            if self.rng.random() < 0.2:
                self.strays += [replace(one, reply=None, is_lost=True) for one in flights]

    def _deliver(self, flights: list[Flight], is_old: bool = False) -> None:
        beats = [flight.beat for flight in flights]
        ledger = self._ledger(is_old)
        replies = self._ask(ledger, lambda asked: asked.beat(beats))
        if ledger is None or replies is None:
            return
        for flight, reply in zip(flights, replies, strict=True):
            self.say(f"  {beat_in_short(flight.beat)} → {reply_in_short(reply)}")
            self.model.was_beaten(flight.beat, self.wall)
            if not flight.is_lost:
                flight.reply, flight.walls_jumped = reply, self._terms_made[ledger.epoch]

    def do_hear(self) -> None:
        answered = [
            one
            for one in self.replicas
            if one.flight is not None and one.flight.reply is not None and one.stopped_until <= self.true_s
        ]
        if answered:
            self._hear(self.rng.choice(answered))

    def _hear(self, replica: Replica) -> None:
        flight = replica.flight
        assert flight is not None and flight.reply is not None
        reply, replica.flight = flight.reply, None
        self.true_s += self.rng.choice([0.0, 0.001, 0.05])
        replica.leases.heard(flight.beat, reply, flight.asked_s, replica.now_s(self.true_s))
        if reply.is_open:
            replica.asked_at, replica.walls_jumped = flight.asked_at, flight.walls_jumped
            replica.session_id = reply.session_id
            self.model.hears(reply.grants, reply.session_id)
        if self.rng.random() < 0.05:
            self.strays.append(replace(flight, reply=None, is_lost=True))  # it arrives once more, some time

    def do_lose(self) -> None:
        waiting = [one for one in self.replicas if one.flight is not None]
        if waiting:
            self._give_up(self.rng.choice(waiting))

    def _give_up(self, replica: Replica) -> None:
        """The beat or its answer is lost, or late."""
        flight, replica.flight = replica.flight, None
        if flight is not None:
            replica.leases.failed(flight.beat)
            if flight.reply is None and self.rng.random() < 0.5:
                self.strays.append(replace(flight, is_lost=True))

    def do_settle_down(self) -> None:
        if (replica := self._replica()) is not None:
            with self._without_faults():
                if not self._is_newest(self._ledger()):
                    self._open()
                self._settle_down(replica)

    def _settle_down(self, replica: Replica) -> None:
        """A few beats without a fault: then both sides' books say the same."""
        replica.uses_old_ledger = False
        for _ in range(4):
            self.true_s += 1.1
            self._exchange(replica)
        for _ in range(4):
            if not replica.leases.is_open or replica.leases.has_old_session:
                self._exchange(replica)
        assert replica.session_id is not None
        self.model.all_recorded(replica.name)
        held = {id_: replica.leases.left(id_) for id_ in self._brand_ids}
        self.model.both_agree(replica.session_id, held)

    # Requests

    def do_request(self) -> None:
        if (replica := self._replica()) is not None:
            self._serve(replica, [self._claim()])

    def do_two_requests(self) -> None:
        """At the same time, at the same replica."""
        if (replica := self._replica()) is not None:
            self._serve(replica, [self._claim(), self._claim()])

    def _claim(self) -> Claim:
        rng = self.rng
        if self.requests and rng.random() < 0.12:
            claim = rng.choice(self.requests)  # the caller tries again, perhaps elsewhere, perhaps with another body
            return claim if rng.random() < 0.5 else claim._replace(request_hash="other", offers=claim.offers[::-1])
        offers = [self._offer(n) for n in range(rng.randint(1, 4))]
        claim = Claim(
            f"sub-{rng.randint(1, 2)}", f"q{self._next('request')}", "body", rng.randint(1, 3), tuple(offers), 1.0
        )
        self.requests.append(claim)
        return claim

    def _offer(self, number: int) -> Offer:
        rng = self.rng
        where = Placement(rng.choice(self._brand_ids), f"p{rng.randint(1, 2)}", "s", "mobile", "160x600", 0.5)
        amount, ratio = rng.randint(1, 150), rng.choice((0.3, 0.9, 1.0, 1.5, 3.0))
        return Offer(f"bid-{number}", where, rng.choice(MODELS), amount, ratio * amount, amount)

    def _serve(self, replica: Replica, claims: list[Claim]) -> None:
        if replica.leases.is_open is False and replica.flight is None:
            self._exchange(replica)
        now_s = replica.now_s(self.true_s)
        missing = [offer for claim in claims for offer in replica.choose(claim, now_s)[1]]
        if missing:
            for offer in missing:
                replica.leases.want(offer)
            if replica.flight is None and self.rng.random() < 0.8:
                self._exchange(replica)
        now_s, awards = replica.now_s(self.true_s), [f"a{self._next('award')}" for _ in claims]
        answers = _together([replica.answer(claim, award, now_s) for claim, award in zip(claims, awards, strict=True)])
        for claim, award_id, wins in zip(claims, awards, answers, strict=True):
            for win, offer in wins:
                self._answered(replica, claim, award_id, win, offer)

    def _answered(self, replica: Replica, claim: Claim, award_id: str, win: Win, offer: Offer) -> None:
        self.say(f"  {replica.name} answers {claim.request_id} with {win_in_short(win, offer)}")
        if self.true_s - replica.asked_at > self.settings.lease_s * 1.0011:
            raise Broken(f"{replica.name} draws {self.true_s - replica.asked_at:.3f} s after its lease began")
        is_lost_in_time = self.model.era > 0 or replica.walls_jumped != self.walls_jumped
        days = set() if is_lost_in_time else self._days(offer.where.brand_id)
        self.model.answers(replica.name, win, offer, (claim.sub, claim.request_id), award_id, self.wall, days)

    def _days(self, brand_id: str) -> set[dt.date]:
        rows = {row.brand_id: row for row in self.books.connection.execute(select(t.brands))}
        return days_around(rows, brand_id, self.wall)

    # Events

    def do_event(self) -> None:
        events = [self._results.next() for _ in range(self.rng.choice([1, 1, 2, 4]))]
        unique = {(event.brand_id, event.partner_id, event.event_id): event for event in events}
        self._record(list(unique.values()))

    def do_resend(self) -> None:
        if self.unanswered:
            self._record(self.unanswered.pop(self.rng.randrange(len(self.unanswered))))

    def _record(self, events: list[Event]) -> None:
        for event in events:
            self.say(f"  {event_in_short(event)}")
        results = self._ask(self._ledger(), lambda asked: asked.record(events))
        if results is None:
            self.model.were_sent(events)
            self.unanswered.append(events)
        else:
            self.say(f"  → {[result.status for result in results]}")
            self.model.were_answered(events, results, self.wall)

    # Administration

    def do_release(self) -> None:
        if self.model.wins:
            ids = [self.rng.choice(list(self.model.wins)[-8:])]
            self.model.may_end(ids)
            self._ask(self._ledger(), lambda asked: asked.release(ids))

    def do_budget(self) -> None:
        self._change_brand(lambda settings: {"daily_budget_micros": self._budget()})

    def do_pause(self) -> None:
        self._change_brand(lambda settings: {"active": not settings.active})

    def do_move(self) -> None:
        ledger = self._ledger()
        if ledger is None:
            return
        id_ = self.rng.choice([None, *self._portfolio_ids])
        zone = ledger.directory.portfolios()[id_].timezone if id_ is not None else self.rng.choice(ZONES)
        self._change_brand(lambda _: {"portfolio_id": id_, "timezone": zone})

    def _change_brand(self, change: Callable[[BrandSettings], dict[str, Any]]) -> None:
        ledger, id_ = self._ledger(), self.rng.choice(self._brand_ids)
        if ledger is None:
            return
        before = ledger.directory.brands()[id_]
        changed = change(before)
        self.model.portfolios[id_].add(changed.get("portfolio_id", before.portfolio_id))
        self.say(f"  {id_} {changed}")
        if "daily_budget_micros" in changed:
            self.model.loose |= {("brand", id_, day) for day in self._days(id_)}
        try:
            settings = before.model_copy(update=changed)
            answer = self._ask(ledger, lambda asked: asked.administration.put_brand(id_, settings))
            if answer is None:
                self.do_refresh()  # a ledger that lives on looks every second what has become of it
        except PortfolioMismatch as error:
            self.say(f"  {error}")

    def do_portfolio_budget(self) -> None:
        ledger = self._ledger()
        if ledger is None or not self._portfolio_ids:
            return
        id_, budget = self.rng.choice(self._portfolio_ids), self._budget()
        self.say(f"  {id_} {budget}")
        before = ledger.directory.portfolios()[id_]
        for days in range(-1, 2):
            self.model.loose.add(("portfolio", id_, self.wall.date() + dt.timedelta(days=days)))
        settings = before.model_copy(update={"daily_budget_micros": budget})
        self._ask(ledger, lambda asked: asked.administration.put_portfolio(id_, settings))


def _together(works: list[Coroutine[Any, Any, T]]) -> list[T]:
    """All of them, each a step at a time; one that never awaits is done in one."""
    answers: dict[int, T] = {}
    while len(answers) < len(works):
        for index, work in enumerate(works):
            if index not in answers:
                try:
                    work.send(None)
                except StopIteration as end:
                    answers[index] = end.value
    return [answers[index] for index in range(len(works))]


class _Errors(logging.Handler):
    """What the ledger itself calls an error is one."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@cache
def _sqlite() -> SqliteBooks:
    return SqliteBooks()


def run(seed: int, books: Books | None = None, watch: Callable[[str], None] = lambda _: None) -> int:
    """One history; how many steps it had.

    Raises:
        Failed: it broke a promise; its text replays it.
    """
    if books is None:
        sqlite = _sqlite()
        sqlite.restart()
        books = sqlite
    logger, errors = logging.getLogger("paceline.ledger"), _Errors()
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(errors)
    world = World(seed, books, watch)
    try:
        world.run()
        if errors.said:
            raise Broken(f"the ledger complains: {errors.said[0]}")
    except Exception as error:
        raise Failed(seed, world.steps, error) from error
    finally:
        logger.removeHandler(errors)
        logger.propagate = propagates
    return len(world.steps)


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulated histories of the ledger.")
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("-v", "--verbose", action="store_true", help="print the steps")
    parser.add_argument("--go-on", action="store_true", help="after a failure")
    args = parser.parse_args()
    began, failures = time.monotonic(), 0
    for seed in range(args.seed, args.seed + args.count):
        try:
            run(seed, watch=print if args.verbose else lambda _: None)
        except Failed as failed:
            failures += 1
            print(f"seed {seed}: {type(failed.error).__name__}: {failed.error}" if args.go_on else failed)
            if not args.go_on:
                return 1
    print(f"{args.count} histories, {failures} failed, {time.monotonic() - began:.1f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
