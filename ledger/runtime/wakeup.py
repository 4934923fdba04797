"""Calls all replicas to beat now: who asks for figures, or has put a brand, need not wait for their next beats."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

LISTEN_S = 20.0
"""A replica that nobody calls is let go after so long, and listens again."""


@dataclass(slots=True)
class _Listener:
    due: asyncio.Event = field(default_factory=asyncio.Event)
    called: list[asyncio.Future[None]] = field(default_factory=list)  # whoever has called since it was let go last
    answering: list[asyncio.Future[None]] = field(default_factory=list)  # whoever it was let go for


class Wakeup:
    """Each replica listens all the time: it is let go when it is called, beats, and with listening again says so."""

    def __init__(self) -> None:
        self._listeners: dict[str, _Listener] = {}

    async def listen(self, replica: str) -> bool:
        """Wait for a call. False: there was none; no beat is due."""
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
        """Until every other replica has beaten, with all that it knows by now. Who does not in time is forgotten."""
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
