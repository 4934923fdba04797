"""Whoever is called beats, and says so by listening again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ledger.runtime import wakeup
from ledger.runtime.wakeup import Wakeup

LONG_S = 3600.0


class Replica:
    """Listens, and beats when it is called and may."""

    def __init__(self, calls: Wakeup, name: str) -> None:
        self._calls, self._name = calls, name
        self.knows, self.told = 0, 0
        self.may = asyncio.Event()
        self.may.set()
        self.beats = 0
        self.task = asyncio.create_task(self._live())

    async def _live(self) -> None:
        while True:
            if await self._calls.listen(self._name):
                knows = self.knows  # a beat states what is known when it begins
                self.beats += 1
                await self.may.wait()
                self.told = knows


@pytest.fixture
async def replicas() -> AsyncIterator[tuple[Wakeup, list[Replica]]]:
    calls = Wakeup()
    found = [Replica(calls, name) for name in "abc"]
    await asyncio.sleep(0.01)
    yield calls, found
    for replica in found:
        replica.task.cancel()


async def test_all_others_have_told_what_they_knew(replicas: tuple[Wakeup, list[Replica]]) -> None:
    calls, found = replicas
    for number in (1, 2, 3):
        for replica in found:
            replica.knows = number
        await calls.others_within(LONG_S, "a")
        assert [replica.told for replica in found] == [0, number, number]
    assert found[0].beats == 0


async def test_a_beat_that_is_under_way_does_not_count(replicas: tuple[Wakeup, list[Replica]]) -> None:
    calls, (_, b, c) = replicas
    b.may.clear()
    first = asyncio.create_task(calls.others_within(LONG_S, "a"))
    await asyncio.sleep(0.01)
    assert b.beats == 1, "it states what b knew then"
    b.knows = c.knows = 7
    second = asyncio.create_task(calls.others_within(LONG_S, "a"))
    await asyncio.sleep(0.01)
    assert not second.done()
    b.may.set()
    await asyncio.gather(first, second)
    assert (b.told, c.told) == (7, 7)


async def test_several_who_ask_at_once_share_a_beat(replicas: tuple[Wakeup, list[Replica]]) -> None:
    calls, (a, b, c) = replicas
    await asyncio.gather(*(calls.others_within(LONG_S, "elsewhere") for _ in range(20)))
    assert max(a.beats, b.beats, c.beats) <= 2


async def test_who_has_died_is_waited_for_once(replicas: tuple[Wakeup, list[Replica]]) -> None:
    calls, (_, b, c) = replicas
    b.task.cancel()
    await asyncio.sleep(0.01)
    await calls.others_within(0.05, "a")
    assert c.beats == 1
    await asyncio.wait_for(calls.others_within(LONG_S, "a"), 10)
    assert c.beats == 2


async def test_a_replica_that_nobody_calls_listens_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "LISTEN_S", 0.01)
    calls = Wakeup()
    replica = Replica(calls, "a")
    await asyncio.sleep(0.1)
    assert replica.beats == 0
    replica.knows = 1
    await calls.others_within(LONG_S, "b")
    while replica.told != 1:  # it may have been let go just when it was called
        await asyncio.sleep(0.01)
        await calls.others_within(LONG_S, "b")
    replica.task.cancel()


async def test_nobody_to_call_is_nothing_to_wait_for() -> None:
    await asyncio.wait_for(Wakeup().others_within(LONG_S, "a"), 10)


async def test_a_slow_replica_that_listens_anew_is_called_again(replicas: tuple[Wakeup, list[Replica]]) -> None:
    calls, (_, b, c) = replicas
    c.task.cancel()
    b.may.clear()
    first = asyncio.create_task(calls.others_within(0.05, "a"))
    await asyncio.sleep(0.02)
    second = asyncio.create_task(calls.others_within(0.2, "a"))
    await first  # b is forgotten…
    b.may.set()
    await second  # …and listens anew, before the second one's time is over
    b.knows = 9
    await asyncio.wait_for(calls.others_within(LONG_S, "a"), 10)
    assert b.told == 9
