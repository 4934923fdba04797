"""Makes all replicas beat now, so that fresh figures, or a changed brand, need not wait for their next beats."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

LISTEN_S = 20.0
"""`listen` returns False after so long without a wake-up, and the replica listens again."""


@dataclass(slots=True)
class _Listener:
    due: asyncio.Event = field(default_factory=asyncio.Event)
    called: list[asyncio.Future[None]] = field(default_factory=list)  # wake-ups since `listen` last returned
    answering: list[asyncio.Future[None]] = field(default_factory=list)  # those that it last returned for


class Wakeup:
    """Each replica calls `listen` all the time. When that returns True it beats, and by listening again confirms it."""

    def __init__(self) -> None:
        self._listeners: dict[str, _Listener] = {}

    async def listen(self, replica: str) -> bool:
        """Wait for a wake-up. False: there was none, no beat is due."""
        listener = self._listeners.setdefault(replica, _Listener())
        _resolve(listener.answering)
        try:
            async with asyncio.timeout(LISTEN_S):
                await listener.due.wait()
        except TimeoutError:
            if not listener.called:
                return False
        listener.due.clear()
        listener.answering, listener.called = listener.called, []
        return True

    async def others_within(self, seconds: float, asker: str) -> None:
        """Wake every other replica and wait until all have beaten, at most so long. Those that have not are dropped."""
        waiting: list[tuple[str, _Listener, asyncio.Future[None]]] = []
        for replica, listener in self._listeners.items():
            if replica == asker:
                continue
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiting.append((replica, listener, future))
            listener.called.append(future)
            listener.due.set()
        if not waiting:
            return
        await asyncio.wait([future for _, _, future in waiting], timeout=seconds)
        for replica, listener, future in waiting:
            if not future.done():
                future.cancel()
                if self._listeners.get(replica) is listener:  # it may listen anew
                    del self._listeners[replica]


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    while futures:
        future = futures.pop()
        if not future.done():
            future.set_result(None)
