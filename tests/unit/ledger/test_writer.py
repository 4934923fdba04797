"""Many callers share a transaction; each gets its own answers."""

import asyncio

import pytest

from ledger import LedgerSettings, Result
from ledger.errors import LedgerUnavailable
from ledger.writer import Writer
from tests.unit.ledger.books import claim, event, offer


class FakeLedger:
    """Answers with the items themselves, and remembers what shared a transaction."""

    def __init__(self, **settings) -> None:
        self.settings = LedgerSettings(**settings)
        self.transactions: list[tuple[str, int]] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def reserve(self, claims):
        self.transactions.append(("claims", len(claims)))
        await self.gate.wait()
        if self.error:
            raise self.error
        return [item.request_id for item in claims]

    async def record(self, events):
        self.transactions.append(("events", len(events)))
        await self.gate.wait()
        if any(item.event_id == "poison" for item in events):
            raise RuntimeError("poison")
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


async def test_a_call_that_fails_does_not_take_others_with_it():
    ledger = FakeLedger()
    async with Running(ledger) as writer:
        calls = [asyncio.create_task(writer.record([event(id_, "impression")])) for id_ in ("a", "poison", "b")]
        await asyncio.sleep(0.01)
        ledger.gate.set()
        with pytest.raises(RuntimeError, match="poison"):
            await calls[1]
        assert [(await calls[index])[0].event_id for index in (0, 2)] == ["a", "b"]


async def test_when_the_database_is_away_everybody_hears_of_it_and_the_writer_goes_on():
    ledger = FakeLedger()
    ledger.gate.set()
    async with Running(ledger) as writer:
        ledger.error = LedgerUnavailable("away")
        with pytest.raises(LedgerUnavailable):
            await writer.reserve([a_claim("1")])
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
