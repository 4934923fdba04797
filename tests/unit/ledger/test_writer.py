"""Many callers share a transaction; each gets its own answers."""

import asyncio
import time
from typing import ClassVar

import pytest

from ledger import LedgerSettings, Result
from ledger.errors import LedgerUnavailable, StatementRefused
from ledger.writer import Writer
from tests.unit.ledger.books import claim, event, offer


class FakeLedger:
    """Answers with the items themselves, and remembers what shared a transaction."""

    poisons: ClassVar = {"poison": RuntimeError("poison"), "refused": StatementRefused("too long")}

    def __init__(self, **settings) -> None:
        self.settings = LedgerSettings(**settings)
        self.transactions: list[tuple[str, int]] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None
        self.received_s: list[float] = []

    async def reserve(self, claims, received_s):
        self.received_s += received_s
        self.transactions.append(("claims", len(claims)))
        await self.gate.wait()
        if self.error:
            raise self.error
        return [item.request_id for item in claims]

    async def record(self, events):
        self.transactions.append(("events", len(events)))
        await self.gate.wait()
        for item in events:
            if item.event_id in self.poisons:
                raise self.poisons[item.event_id]
        return [Result(item.event_id, "accepted") for item in events]


class Running:
    def __init__(self, ledger) -> None:
        self.writer = Writer(ledger)

    async def __aenter__(self):
        self._task = asyncio.create_task(self.writer.keep_writing())
        return self.writer

    async def __aexit__(self, *_exc) -> None:
        self._task.cancel()


def a_claim(request_id):
    return claim(offer(), request_id=request_id)


async def test_what_waits_shares_the_next_transaction():
    ledger = FakeLedger()
    async with Running(ledger) as writer:
        first = asyncio.create_task(writer.reserve([a_claim("0")]))
        await asyncio.sleep(0.01)
        others = [asyncio.create_task(writer.reserve([a_claim(str(n)), a_claim(f"{n}b")])) for n in range(1, 9)]
        await asyncio.sleep(0.01)
        ledger.gate.set()
        assert await first == ["0"]
        assert await asyncio.gather(*others) == [[str(n), f"{n}b"] for n in range(1, 9)]
    assert ledger.transactions == [("claims", 1), ("claims", 16)]


async def test_a_transaction_has_its_bounds_but_a_call_is_never_torn():
    ledger = FakeLedger(batch_claims=4)
    ledger.gate.set()
    async with Running(ledger) as writer:
        calls = [writer.reserve([a_claim(f"{n}-{size}") for n in range(size)]) for size in (3, 1, 9, 2, 2)]
        answers = await asyncio.gather(*calls)
    assert [len(answer) for answer in answers] == [3, 1, 9, 2, 2]
    assert ledger.transactions == [("claims", 4), ("claims", 9), ("claims", 4)]


async def test_claims_get_between_the_parts_of_a_large_batch():
    ledger = FakeLedger(batch_events=10)
    async with Running(ledger) as writer:
        batch = asyncio.create_task(writer.record([event(str(n), "impression") for n in range(35)]))
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(writer.reserve([a_claim("r")]))
        await asyncio.sleep(0.01)
        ledger.gate.set()
        assert await waiting == ["r"]
        assert not batch.done()
        assert [result.event_id for result in await batch] == [str(n) for n in range(35)]
    assert ledger.transactions[:3] == [("events", 10), ("claims", 1), ("events", 10)]


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
async def test_a_call_that_fails_does_not_take_others_with_it(poison, error):
    ledger = FakeLedger()
    async with Running(ledger) as writer:
        calls = [asyncio.create_task(writer.record([event(id_, "impression")])) for id_ in ("a", poison, "b")]
        await asyncio.sleep(0.01)
        ledger.gate.set()
        with pytest.raises(error):
            await calls[1]
        assert [(await calls[index])[0].event_id for index in (0, 2)] == ["a", "b"]


async def test_when_the_database_is_away_everybody_hears_of_it_and_the_writer_goes_on():
    ledger = FakeLedger()
    ledger.gate.set()
    async with Running(ledger) as writer:
        ledger.error = LedgerUnavailable("away")
        failed = await asyncio.gather(*(writer.reserve([a_claim(id_)]) for id_ in "abc"), return_exceptions=True)
        assert [type(error) for error in failed] == [LedgerUnavailable] * 3
        assert ledger.transactions == [("claims", 3)], "one time-out is enough"
        ledger.error = None
        assert await writer.reserve([a_claim("2")]) == ["2"]


async def test_a_caller_that_left_does_not_stop_the_others():
    ledger = FakeLedger()
    async with Running(ledger) as writer:
        leaving, staying = (asyncio.create_task(writer.reserve([a_claim(id_)])) for id_ in "12")
        await asyncio.sleep(0.01)
        leaving.cancel()
        ledger.gate.set()
        assert await staying == ["2"]


async def test_a_claims_time_runs_from_its_arrival():
    ledger = FakeLedger()
    async with Running(ledger) as writer:
        before_s = time.monotonic()
        calls = [
            asyncio.create_task(writer.reserve([a_claim(id_)], received_s))
            for id_, received_s in [("1", None), ("2", 7.0)]
        ]
        await asyncio.sleep(0.01)
        sent_s = time.monotonic()
        ledger.gate.set()
        await asyncio.gather(*calls)
    assert before_s <= ledger.received_s[0] <= sent_s
    assert ledger.received_s[1] == 7.0


async def test_a_work_that_cannot_even_begin_does_not_stop_the_writer():
    def broken():
        raise LedgerUnavailable("away")

    ledger = FakeLedger()
    ledger.gate.set()
    async with Running(ledger) as writer:
        with pytest.raises(LedgerUnavailable):
            await writer.run(broken)
        assert await writer.reserve([a_claim("1")]) == ["1"]
