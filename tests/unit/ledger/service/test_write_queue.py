"""Many callers share a transaction; each gets its own answers."""

import asyncio
from typing import ClassVar

import pytest

from ledger.domain.errors import Fenced, LedgerUnavailable, StatementRefused
from ledger.domain.messages import Beat, Result
from ledger.domain.settings import LedgerSettings
from ledger.service.write_queue import BEATS_TOGETHER, WriteQueue
from tests.unit.ledger.books import event

POISON, REFUSED = 1000, 1001


class FakeLedger:
    """Answers a beat with its number, and remembers what shared a transaction."""

    shard = 0

    poisons: ClassVar = {
        "poison": RuntimeError("poison"),
        "refused": StatementRefused("too long"),
        POISON: RuntimeError("poison"),
        REFUSED: StatementRefused("too long"),
    }

    def __init__(self, **settings) -> None:
        self.settings = LedgerSettings(**settings)
        self.transactions: list[tuple[str, int]] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def beat(self, beats):
        self.transactions.append(("beats", len(beats)))
        await self.gate.wait()
        if self.error:
            raise self.error
        for beat in beats:
            if beat.number in self.poisons:
                raise self.poisons[beat.number]
        return [beat.number for beat in beats]

    async def record(self, events):
        self.transactions.append(("events", len(events)))
        await self.gate.wait()
        for item in events:
            if item.event_id in self.poisons:
                raise self.poisons[item.event_id]
        return [Result(item.event_id, "accepted") for item in events]


class Running:
    def __init__(self, ledger) -> None:
        self.writer = WriteQueue(ledger)

    async def __aenter__(self):
        self._task = asyncio.create_task(self.writer.keep_writing())
        return self.writer

    async def __aexit__(self, *_exc) -> None:
        self._task.cancel()


async def beat_of(writer: WriteQueue, number: int):
    return await writer.beat(Beat(1, number))


async def until(ledger: FakeLedger, transactions: int) -> None:
    """So many have begun, and whoever is to wait for the next one does."""
    for _ in range(100_000):
        if len(ledger.transactions) >= transactions:
            break
        await asyncio.sleep(0)
    else:
        pytest.fail("the transaction does not begin")
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_waits_shares_the_next_transaction():
    ledger = FakeLedger()
    async with Running(ledger) as writer:
        first = asyncio.create_task(beat_of(writer, 0))
        await until(ledger, 1)
        others = [asyncio.create_task(beat_of(writer, n)) for n in range(1, 9)]
        await until(ledger, 1)
        ledger.gate.set()
        assert await first == 0
        assert await asyncio.gather(*others) == list(range(1, 9)), "each gets its own answer"
    assert ledger.transactions == [("beats", 1), ("beats", 8)]


async def test_a_transaction_has_its_bounds():
    ledger = FakeLedger()
    ledger.gate.set()
    async with Running(ledger) as writer:
        await asyncio.gather(*(beat_of(writer, n) for n in range(BEATS_TOGETHER + 1)))
    assert ledger.transactions == [("beats", BEATS_TOGETHER), ("beats", 1)]


async def test_a_call_is_never_torn():
    ledger = FakeLedger(batch_events=4)
    async with Running(ledger) as writer:
        parts = [[event(f"{n}-{size}", "impression") for n in range(size)] for size in (3, 1, 3, 2, 2)]
        calls = [asyncio.create_task(writer.record(part)) for part in parts]
        await until(ledger, 1)
        ledger.gate.set()
        answers = await asyncio.gather(*calls)
    assert [len(answer) for answer in answers] == [3, 1, 3, 2, 2]
    assert ledger.transactions == [("events", 4), ("events", 3), ("events", 4)]


async def test_beats_get_between_the_parts_of_a_large_batch():
    ledger = FakeLedger(batch_events=10)
    async with Running(ledger) as writer:
        batch = asyncio.create_task(writer.record([event(str(n), "impression") for n in range(35)]))
        await until(ledger, 1)
        waiting = asyncio.create_task(beat_of(writer, 1))
        await until(ledger, 1)
        ledger.gate.set()
        assert await waiting == 1
        assert not batch.done()
        assert [result.event_id for result in await batch] == [str(n) for n in range(35)]
    assert ledger.transactions[:3] == [("events", 10), ("beats", 1), ("events", 10)]


async def test_clicks_of_a_batch_are_recorded_first_and_answered_in_place():
    seen: list[str] = []

    class Remembering(FakeLedger):
        async def record(self, events):
            seen.extend(item.event_id for item in events)
            return await super().record(events)

    ledger = Remembering(batch_events=1)
    ledger.gate.set()
    async with Running(ledger) as writer:
        results = await writer.record([event("c", "conversion"), event("i", "impression"), event("k", "click")])
    assert [result.event_id for result in results] == ["c", "i", "k"]
    assert seen == ["k", "c", "i"]


@pytest.mark.parametrize(("poison", "error"), [("poison", RuntimeError), ("refused", LedgerUnavailable)])
async def test_a_batch_that_fails_does_not_take_others_with_it(poison, error):
    ledger = FakeLedger()
    async with Running(ledger) as writer:
        calls = [asyncio.create_task(writer.record([event(id_, "impression")])) for id_ in ("a", poison, "b")]
        await until(ledger, 1)
        ledger.gate.set()
        with pytest.raises(error):
            await calls[1]
        assert [(await calls[index])[0].event_id for index in (0, 2)] == ["a", "b"]


@pytest.mark.parametrize(("poison", "error"), [(POISON, RuntimeError), (REFUSED, LedgerUnavailable)])
async def test_a_replica_that_fails_does_not_take_others_with_it(poison, error):
    ledger = FakeLedger()
    async with Running(ledger) as writer:
        first = asyncio.create_task(beat_of(writer, 0))
        await until(ledger, 1)
        calls = [asyncio.create_task(beat_of(writer, number)) for number in (1, poison, 2)]
        await until(ledger, 1)
        ledger.gate.set()
        with pytest.raises(error):
            await calls[1]
        assert [await first, await calls[0], await calls[2]] == [0, 1, 2]


@pytest.mark.parametrize("error", [LedgerUnavailable("away"), Fenced(0, 1, 2)], ids=repr)
async def test_when_the_database_is_away_everybody_hears_of_it_and_the_writer_goes_on(error):
    ledger = FakeLedger()
    ledger.gate.set()
    async with Running(ledger) as writer:
        ledger.error = error
        failed = await asyncio.gather(*(beat_of(writer, number) for number in range(3)), return_exceptions=True)
        assert [type(one) for one in failed] == [type(error)] * 3
        assert ledger.transactions == [("beats", 3)], "one time-out is enough"
        ledger.error = None
        assert await beat_of(writer, 4) == 4


async def test_a_caller_that_left_does_not_stop_the_others():
    ledger = FakeLedger()
    async with Running(ledger) as writer:
        leaving, staying = (asyncio.create_task(beat_of(writer, number)) for number in (1, 2))
        await until(ledger, 1)
        leaving.cancel()
        ledger.gate.set()
        assert await staying == 2


async def test_a_work_that_cannot_even_begin_does_not_stop_the_writer():
    def broken():
        raise LedgerUnavailable("away")

    ledger = FakeLedger()
    ledger.gate.set()
    async with Running(ledger) as writer:
        with pytest.raises(LedgerUnavailable):
            await writer.run(broken)
        assert await beat_of(writer, 1) == 1
