"""The database decides which version is live; Redis only says when to ask it."""

from __future__ import annotations

import pytest

from serve_app.prediction.live_version import DATABASE_S, WITHOUT_REDIS_S, LiveVersion


class World:
    """A database, a Redis and a clock that stand still until told."""

    def __init__(self) -> None:
        self.live: str | None = "v1"
        self.pointer: str | None = "v1"
        self.now_s = 0.0
        self.asked = 0
        self.is_down = False
        self.watch = LiveVersion(self.truth, self.hint, lambda: self.now_s)

    async def truth(self) -> str | None:
        self.asked += 1
        if self.is_down:
            raise ConnectionError
        return self.live

    async def hint(self) -> str | None:
        return self.pointer

    async def sees_after(self, seconds: float) -> str | None:
        self.now_s += seconds
        return await self.watch.version()


@pytest.fixture
async def world() -> World:
    world = World()
    assert await world.sees_after(0.0) == "v1"
    return world


async def test_an_activation_that_redis_tells_is_seen_at_once(world: World) -> None:
    world.live = world.pointer = "v2"
    assert await world.sees_after(0.01) == "v2"


async def test_the_database_is_not_asked_while_redis_tells_nothing_new(world: World) -> None:
    for _ in range(40):
        assert await world.sees_after(DATABASE_S / 100) == "v1"
    assert world.asked == 1


@pytest.mark.parametrize(("pointer", "within_s"), [("v1", DATABASE_S), (None, WITHOUT_REDIS_S)])
async def test_an_activation_that_redis_missed_is_seen_all_the_same(world: World, pointer, within_s) -> None:
    world.pointer = pointer
    await world.sees_after(0.0)
    world.live = "v2"
    assert await world.sees_after(within_s - 0.01) == "v1"
    assert await world.sees_after(0.02) == "v2"


async def test_redis_never_decides(world: World) -> None:
    world.pointer = "made up"
    assert await world.sees_after(0.01) == "v1"
    asked = world.asked
    assert await world.sees_after(0.01) == "v1"
    assert world.asked == asked, "it was asked about this pointer"


async def test_a_database_that_does_not_answer_is_asked_again_soon_and_not_all_the_time(world: World) -> None:
    world.live = world.pointer = "v2"
    world.is_down = True
    with pytest.raises(ConnectionError):
        await world.sees_after(0.01)
    world.is_down = False
    asked = world.asked
    assert await world.sees_after(0.1) == "v1"
    assert world.asked == asked
    assert await world.sees_after(WITHOUT_REDIS_S) == "v2"


async def test_before_the_first_version_there_is_none() -> None:
    world = World()
    world.live = world.pointer = None
    assert await world.sees_after(0.0) is None
    world.live = world.pointer = "v1"
    assert await world.sees_after(0.01) == "v1"
