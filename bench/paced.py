"""A load with a fixed number of requests per second, to measure what must not grow with the number of replicas."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from statistics import median
from typing import NamedTuple
from urllib.parse import urlsplit

PLACEMENTS = ("abc", "def", "ghi", "jkl", "mno")
BANNERS = ("160x600", "240x400", "300x250", "468x60", "580x400", "670x90", "728x90", "800x250")
BODIES = 64
CONNECTIONS = 16
TIMEOUT_S = 10.0
TRIES = 3
"""With the same request_id: a repetition wins nothing more."""


class Paced(NamedTuple):
    """What was sent, and what was answered. Requests are named `{name}-NUMBER`."""

    name: str
    seconds: float
    accepted: int  # 2xx
    others: int  # other statuses, and none
    won: int  # answers with a win
    p50_ms: float
    request_bytes: int  # of the last one, head included
    answer_bytes: int


def send(url: str, token: str, per_s: float, seconds: float, bids: int = 50, is_fresh: bool = False) -> Paced:
    """
    Args:
        is_fresh: no placement and score are sent twice, so that every bid has to be predicted.
    """
    return asyncio.run(_send(url, token, per_s, seconds, bids, is_fresh))


async def _send(url: str, token: str, per_s: float, seconds: float, bids: int, is_fresh: bool) -> Paced:
    run = _Run(url, token, bids, is_fresh)
    began = time.monotonic()
    due = iter([began + number / per_s for number in range(round(per_s * seconds))])
    await asyncio.gather(*(run.keep_sending(due) for _ in range(CONNECTIONS)))
    return Paced(
        run.name,
        time.monotonic() - began,
        run.accepted,
        run.others,
        run.won,
        median(run.took_s) * 1000 if run.took_s else float("nan"),
        run.request_bytes,
        run.answer_bytes,
    )


class _Run:
    def __init__(self, url: str, token: str, bids: int, is_fresh: bool) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: application/json\r\n"
        )
        self.name, self._sent, self._is_fresh = f"p-{time.time_ns()}", 0, is_fresh
        random_ = random.Random(7)
        self._bodies = [json.dumps([bid(random_, number) for number in range(bids)]) for _ in range(BODIES)]
        self.accepted = self.others = self.won = self.request_bytes = self.answer_bytes = 0
        self.took_s: list[float] = []

    async def keep_sending(self, due: Iterator[float]) -> None:
        """Use one connection: send the next request when its time has come, until all are sent."""
        connection = None
        for at in due:
            await asyncio.sleep(max(at - time.monotonic(), 0.0))
            message = self._message()
            for _ in range(TRIES):
                try:
                    async with asyncio.timeout(TIMEOUT_S):
                        connection = connection or await asyncio.open_connection(self._host, self._port)
                        await self._exchange(message, *connection)
                    break
                except (OSError, EOFError, TimeoutError):  # HAProxy closes what idles when it is told of new replicas
                    if connection is not None:
                        connection[1].close()
                    connection = None
            else:
                self.others += 1
        if connection is not None:
            connection[1].close()

    async def _exchange(self, message: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        began = time.perf_counter()
        writer.write(message)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(_length(head))
        self.took_s.append(time.perf_counter() - began)
        self.request_bytes, self.answer_bytes = len(message), len(head) + len(body)
        is_accepted = head.split(b" ", 2)[1].startswith(b"2")
        self.accepted += is_accepted
        self.others += not is_accepted
        self.won += is_accepted and b'"won"' in body

    def _message(self) -> bytes:
        self._sent += 1
        bids = self._bodies[self._sent % BODIES]
        if self._is_fresh:  # 12 digits, which a double keeps apart
            bids = bids.replace('"placement_score": 0.', f'"placement_score": 0.{time.time_ns() // 1000 % 10**9:09d}')
        body = f'{{"request_id":"{self.name}-{self._sent}","bids":{bids}}}'
        return f"{self._head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def _length(head: bytes) -> int:
    (line,) = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return int(line.split(b":")[1])


def bid(random_: random.Random, number: int) -> dict[str, object]:
    """A bid like those of score.lua."""
    placement, banner = random_.choice(PLACEMENTS), random_.choice(BANNERS)
    return {
        "bid_id": f"b-{number}",
        "brand_id": f"camp-{random_.randint(1, 3)}",
        "partner_id": f"partner-{placement}",
        "slot_id": f"{placement}:{banner}",
        "device_type": "unknown",
        "creative_type": banner,
        "placement_score": 0.3 + number / 1000,
        "pricing_model": "cpm",
        "price_micros": random_.randint(100_000, 3_000_000),
    }
