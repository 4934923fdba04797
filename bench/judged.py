"""A paced load that checks every answer against the model version it names: no failures, no mixed versions."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
import numpy as np

from bench.paced import bid
from db.session import Database
from db.settings import DatabaseSettings
from db.state import State
from training.model.model import Columns, Model
from training.registry.activations import current
from training.registry.publish import ModelRegistry

BODIES = 32
TIMEOUT_S = 10.0
HOUR_S = 3600
AGREEMENT = 1e-9
"""Relative tolerance of a prediction; versions differ by per cents."""
ID_FIELDS = ("brand_id", "partner_id", "slot_id", "device_type", "creative_type")
STEP = 0.05
"""How much a version predicts above the one before it, for every tuple."""


class Shot(NamedTuple):
    """One request. Times are of `time.monotonic`."""

    due: float
    done: float
    version: str | None  # that answered; None: the answer was not 200, or there was none
    is_mixed: bool  # some number is not what that version says

    @property
    def took_s(self) -> float:
        """Seconds since it was due, including the time that a late request waited."""
        return self.done - self.due


class Ranked(msgspec.Struct):
    bid_id: str
    score: float
    predicted_revenue_micros: float
    predicted_cost_micros: float
    strategy_multiplier: float
    lambda_: float = msgspec.field(name="lambda")


class Answer(msgspec.Struct):
    model_version: str
    ranked: list[Ranked]


read_answer = msgspec.json.Decoder(Answer).decode


class Bodies:
    """The request bodies: a few lists of bids, sent again and again as partners do."""

    def __init__(self, bids: int = 50, bodies: int = BODIES, brands: Sequence[str] = ()) -> None:
        """
        Args:
            brands: whose bids to send; none given: those of the benchmarks' history.
        """
        random_ = random.Random(7)
        self._bids = [[bid(random_, number) for number in range(bids)] for _ in range(bodies)]
        if brands:
            for one in itertools.chain.from_iterable(self._bids):
                one["brand_id"] = random_.choice(brands)
        self._texts = [json.dumps(one) for one in self._bids]

    def __len__(self) -> int:
        return len(self._bids)

    def of(self, number: int, request_id: str) -> bytes:
        return f'{{"request_id":"{request_id}","bids":{self._texts[number]}}}'.encode()

    def columns(self, number: int, hour: int) -> Columns:
        bids = self._bids[number]
        ids = [[str(one[field]) for one in bids] for field in ID_FIELDS]
        scores = np.array([one["placement_score"] for one in bids], np.float64)
        return Columns.of(ids, scores, np.full(len(bids), hour * HOUR_S, np.int64))


class Judge:
    """Knows what each version predicts for each body, from the version's own files."""

    def __init__(self, bodies: Bodies) -> None:
        self.bodies = bodies
        self._models: dict[str, Model] = {}
        self._said: dict[tuple[str, int, int], list[float]] = {}

    def learn(self, model: Model) -> None:
        """Predict now, and not when the first answer arrives, so that the load stays on time."""
        self._models[model.version] = model
        for number in range(len(self.bodies)):
            self._expected(model.version, number, _hour())

    def version_of(self, number: int, answer: bytes, hours: set[int]) -> tuple[str, bool]:
        """(the version that the answer names, whether some number is not that version's).

        Args:
            hours: since 1970, in which it may have been answered.
        """
        read = read_answer(answer)
        is_one = any(self._agrees(read, self._expected(read.model_version, number, hour)) for hour in hours)
        return read.model_version, not is_one

    def _expected(self, version: str, number: int, hour: int) -> list[float] | None:
        if version not in self._models:
            return None
        key = (version, number, hour)
        if key not in self._said:
            columns = self.bodies.columns(number, hour)
            self._said[key] = self._models[version].predict(columns).revenue_micros.tolist()
        return self._said[key]

    def _agrees(self, read: Answer, expected: list[float] | None) -> bool:
        return expected is not None and all(
            abs(one.predicted_revenue_micros - (revenue := expected[int(one.bid_id[2:])])) <= AGREEMENT * revenue
            and math.isclose(
                one.score,
                one.predicted_revenue_micros * one.strategy_multiplier - one.lambda_ * one.predicted_cost_micros,
                rel_tol=1e-9,
                abs_tol=1e-6,
            )
            for one in read.ranked
        )


class Connection(asyncio.Protocol):
    """One connection, one request at a time, with little Python, since the load shares the cores with the system."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or EOFError())

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._answer is None or self._answer.done():
            return
        head = bytes(self._received[:end]).lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._received) >= end + 4 + length:
            self._answer.set_result((int(head.split(b" ", 2)[1]), bytes(self._received[end + 4 :])))

    async def ask(self, message: bytes) -> tuple[int, bytes]:
        """(status, body). Raises: OSError, EOFError, TimeoutError."""
        assert self._transport is not None
        self._received.clear()
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        async with asyncio.timeout(TIMEOUT_S):
            return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Load:
    """
    Args:
        url: of POST /api/score.
        judge: None looks at statuses alone.
    """

    def __init__(self, url: str, token: str, bodies: Bodies, judge: Judge | None) -> None:
        self._parts, self._token, self._bodies, self._judge = urlsplit(url), token, bodies, judge
        self._name, self._sent = f"j-{time.time_ns()}", 0
        self.shots: list[Shot] = []

    async def send(self, due: Iterator[float], connections: int) -> None:
        """Send each request when its time (of `time.monotonic`) has come, or as soon as a connection is free."""
        gc.collect()
        gc.disable()  # a collection here takes as long as many requests, and would be told as the system's
        try:
            await asyncio.gather(*(self._keep_sending(due) for _ in range(connections)))
        finally:
            gc.enable()

    async def _keep_sending(self, due: Iterator[float]) -> None:
        connection = None
        for at in due:
            if (wait_s := at - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            self._sent += 1
            sent, hours = self._sent, {_hour()}
            number = sent % len(self._bodies)
            try:
                connection = connection or await self._connected()
                status, body = await connection.ask(self._message(number, sent))
            except (OSError, EOFError, TimeoutError):
                self.shots.append(Shot(at, time.monotonic(), None, False))
                if connection is not None:
                    connection.close()
                connection = None
                continue
            self.shots.append(self._shot(at, time.monotonic(), number, status, body, hours | {_hour()}))
        if connection is not None:
            connection.close()

    def _shot(self, at: float, done: float, number: int, status: int, body: bytes, hours: set[int]) -> Shot:
        if status != 200:
            return Shot(at, done, None, False)
        if self._judge is None:
            return Shot(at, done, "", False)
        return Shot(at, done, *self._judge.version_of(number, body, hours))

    async def _connected(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            Connection, self._parts.hostname or "127.0.0.1", self._parts.port or 80
        )
        return connection

    def _message(self, number: int, sent: int) -> bytes:
        body = self._bodies.of(number, f"{self._name}-{sent}")
        return (
            f"POST {self._parts.path} HTTP/1.1\r\nHost: {self._parts.netloc}\r\nAuthorization: Bearer {self._token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body


def _hour() -> int:
    return int(time.time()) // HOUR_S


def paced(began: float, per_s: float, until: Callable[[], bool]) -> Iterator[float]:
    """Evenly spaced times, until told to stop."""
    number = 0
    while not until():
        yield began + number / per_s
        number += 1


def at_once(seconds: float) -> Iterator[float]:
    """Times for a load without pauses: each request is due when it is asked for."""
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        yield now


async def activate(url: str, token: str, version: str) -> int:
    """POST /api/models/{version}/activate without an HTTP library; returns the status."""
    parts = urlsplit(url)
    _, connection = await asyncio.get_running_loop().create_connection(
        Connection, parts.hostname or "127.0.0.1", parts.port or 80
    )
    head = f"POST /api/models/{version}/activate HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {token}\r\n"
    try:
        status, _ = await connection.ask(f"{head}Content-Length: 0\r\n\r\n".encode())
    finally:
        connection.close()
    return status


def publish_variants(state: State, number: int) -> list[Model]:
    """The live version and published variants of it, of which no two predict the same for any placement."""

    async def publish() -> list[Model]:
        database = Database(DatabaseSettings(url=f"sqlite+aiosqlite:///{state.database}"))
        try:
            live = await current(database)
            registry = ModelRegistry(database, state, f"unix://{state.redis_socket}", lambda _: None)
            assert live is not None
            model = await registry.files.fetch(live, verify=False)
            found = [varied(model, one) for one in range(1, number + 1)]
            for one in found:
                await registry.publish(one)
            return [model, *found]
        finally:
            await database.close()

    return asyncio.run(publish())


def varied(model: Model, number: int) -> Model:
    """The same trees with another calibration, by which every predicted revenue is multiplied."""
    factor = model.manifest["calibration"] * (1 + STEP * number)
    changed = model.with_manifest(version=f"{model.version}.{number:03d}", parent=model.version, calibration=factor)
    return changed.with_manifest(golden=changed.golden())
