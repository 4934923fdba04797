"""`python -m bench stages`: where the time of a request goes in the ingress, stage by stage, in this process alone."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench.paced import BODIES, bid
from bench.system import BRANDS, LIMITS
from db.brands import BrandSettings
from db.schema import upgrade
from db.settings import DatabaseSettings
from ledger.client.ledger_client import LedgerClient
from ledger.client.shard_client import ShardClient
from ledger.domain.messages import Claim, Offer, Placement
from ledger.domain.settings import LedgerSettings, RoasSettings
from ledger.runtime.actor import LedgerActor
from serve_app.http.json_response import encode
from serve_app.prediction.cache import Memory
from serve_app.prediction.expectation import Expectation
from serve_app.schemas.score import ScoreRequest
from serve_app.scoring.opportunities import opportunities
from serve_app.scoring.ranking import Offers, Ranking, rank, rejections
from serve_app.scoring.request import RequestColumns, read_fast
from serve_app.scoring.response import ScoreAnswer, ranked_items
from tests.contract.http import Local

T = TypeVar("T")
HOUR = 500_000
RANDOM = random.Random(7)

BEFORE_AND_AFTER = """\
Flame graphs (py-spy, 100–250 samples a second, 16 connections, 50 bids) say where the ingress spent its time.

- Before, at 0.39 × the tuned peer (commit 67041b4): ranking, offers and the answer as dicts, every bid looked at in
  Python ten times, 19 %; our access log, a record a request through Serve's redirected standard error with a look up
  the stack, 13 %, and Serve's own records 4 %; columns, hash and bookkeeping 13 %; pydantic reading the body 12 %;
  Starlette's router, request and response 9 %; the call to the predictor 8 %, which spent 13 µs a bid there; encoding
  4 %, leases 4 %; Serve's layer 12 %, uvicorn 3 %. Beside it, HAProxy's line of syslog a request, read in Python by its
  manager: 0.1 ms a request.
- After (commit fd9d9d2): ranking and answer 15 %, bookkeeping, hash and encoding 14 %, what is remembered 11 %, reading
  bids 9 %, leases and what λ learns 5 %, edge, logs and repetitions 6 %: 60 % ours. Serve's layer 25 %, uvicorn 14 %.
- Since then Serve's two tasks that wait for the client's leaving are not made, head and body are one write, a body
  that is there is read without a timer, and a beat's wins are recorded as columns. Of the 490 µs of CPU that a
  request then took in the ingress, 280 lay between the route's entry and the answer's bytes (sum ÷ count of
  `score_latency_seconds`, the ledger's part 15 of them), 45 were the kernel's (stime), the other 165 Serve's,
  uvicorn's and the loop's. By library (perf): interpreter 65 %, kernel 10 %, msgspec 7 %, libc 6 %, numpy 5 %,
  OpenSSL 2 %, uvloop and the parser of HTTP 2 %.
- The limit. Serve, uvicorn, kernel and HAProxy take what they take whatever the application does: some 210 µs of the
  ingress's 490 and HAProxy's 75. What the table above takes in a tight loop takes half as much again there, where
  caches are cold: of ours, reading and writing 10 kB and 16 kB of JSON is the largest part.
"""


def body(bids: int) -> bytes:
    """Four placement scores, as score.lua has them."""
    found = [bid(RANDOM, number) | {"placement_score": round(RANDOM.randint(0, 3) / 3, 4)} for number in range(bids)]
    return json.dumps({"request_id": f"r-{RANDOM.random()}", "bids": found}, separators=(",", ":")).encode()


class Way:
    """A request's way through the stages, each timed."""

    def __init__(self, ledger: LedgerClient, bids: int) -> None:
        self._ledger = ledger
        self._bodies = [body(bids) for _ in range(BODIES)]
        self._memory = Memory(65_536)
        self.seconds: dict[str, float] = {}
        for key in {key for one in self._bodies for key in self._read(one).bids.keys}:
            revenue = np.array([RANDOM.lognormvariate(8, 1)])
            self._memory.learn(
                HOUR, [key], Expectation(revenue, revenue * 0 + 0.01, revenue * 0 + 0.001, revenue * 0 + 1e6, "v")
            )

    @staticmethod
    def _read(content: bytes) -> RequestColumns:
        request = read_fast(content)
        assert request is not None
        return request

    def _timed(self, stage: str, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        result = work()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began
        return result

    def go(self, number: int) -> None:
        content = self._bodies[number % BODIES]
        request = self._timed("read the body", lambda: self._read(content))
        bids, terms = request.bids, self._ledger.terms.brands
        self._timed("hash it (a repetition has the same)", lambda: hashlib.sha256(content).hexdigest())
        expectation = self._timed("expectations, remembered", lambda: self._memory.find("v", HOUR, bids.keys)[0])
        assert expectation is not None

        def ranking_of() -> Ranking:
            rejected = rejections(bids, terms, "EUR", lambda _: True)
            return rank(bids, expectation, terms, rejected, None, lambda *_: True)

        ranking = self._timed("score and rank", ranking_of)
        claim = Claim("bench", f"r-{number}", "0" * 64, 1, Offers(bids, ranking), 1.0)
        award = self._timed("draw the win on its lease", lambda: self._ledger.reserve_now(claim))
        assert award is not None
        assert award.wins
        self._timed("tell λ what was seen", lambda: self._ledger.saw(opportunities(bids, ranking, award)))
        items = self._timed("the answer's items", lambda: ranked_items(bids, ranking, award))
        self._timed("encode it", lambda: encode(ScoreAnswer("r", "v", "EUR", items)))


def main(argv: Sequence[str]) -> str | None:
    """Where the time of a request goes, stage by stage."""
    parser = argparse.ArgumentParser(prog="python -m bench stages", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="medians of so many (default 9)")
    arguments = parser.parse_args(argv)
    sizes = (10, 50, 1000)
    found = asyncio.run(measured(sizes, arguments.rounds))
    lines = [f"| µs a request, median of {arguments.rounds} | {' | '.join(f'{size:,} bids' for size in sizes)} |"]
    lines.append("|---" * (len(sizes) + 1) + "|")
    lines += [f"| {stage} | {' | '.join(f'{found[size][stage]:.1f}' for size in sizes)} |" for stage in found[sizes[0]]]
    lines.append(f"| **together** | {' | '.join(f'**{sum(found[size].values()):.0f}**' for size in sizes)} |")
    pydantic = {size: _pydantic_us(size) for size in sizes}
    lines.append(
        f"| (pydantic, which judges what is wrong) | {' | '.join(f'{pydantic[size]:.0f}' for size in sizes)} |"
    )
    more = (sum(found[1000].values()) - sum(found[10].values())) / 990
    return "\n".join([*lines, "", f"One more bid: {more:.1f} µs.", "", BEFORE_AND_AFTER.rstrip()])


async def measured(sizes: Sequence[int], rounds: int) -> dict[int, dict[str, float]]:
    """µs a request by size and stage."""
    with tempfile.TemporaryDirectory(prefix="paceline-bench-") as folder:
        url = f"sqlite+aiosqlite:///{Path(folder) / 'ledger.sqlite'}"
        await asyncio.to_thread(upgrade, url)
        actor = LedgerActor(DatabaseSettings(url=url), None, LedgerSettings(), RoasSettings())
        await actor.start()
        ledger = LedgerClient([ShardClient(lambda: Local(actor), LedgerSettings())])
        beating = asyncio.create_task(ledger.keep_beating())
        await ledger.beat_within(10.0)
        for brand_id in BRANDS:
            await ledger.put_brand(10.0, brand_id, BrandSettings.model_validate(LIMITS))
            await ledger.beat_within(10.0)
            await _fill(ledger, brand_id)
        found = {size: await _rounds(Way(ledger, size), rounds, max(BODIES, 12_800 // size)) for size in sizes}
        await ledger.close()
        beating.cancel()
        await actor.close()
        return found


async def _fill(ledger: LedgerClient, brand_id: str) -> None:
    """A lease large enough for everything that follows."""
    where = Placement(brand_id, "p", "s", "d", "c", None)
    offer = Offer("fill", where, "cpm", 10**10)
    await ledger.reserve(Claim("bench", f"fill-{brand_id}", "0" * 64, 1, (offer,), 10.0))


async def _rounds(way: Way, rounds: int, requests: int) -> dict[str, float]:
    results: dict[str, list[float]] = {}
    numbers = itertools.count()
    for turn in range(rounds + 1):
        way.seconds.clear()
        for _ in range(requests):
            way.go(next(numbers))
        if turn:  # the first warms up
            for stage, seconds in way.seconds.items():
                results.setdefault(stage, []).append(seconds / requests * 1e6)
        await asyncio.sleep(1.2)  # a beat
    return {stage: statistics.median(values) for stage, values in results.items()}


def _pydantic_us(size: int) -> float:
    content: Any = body(size)
    times = []
    for _ in range(20):
        began = time.perf_counter()
        ScoreRequest.model_validate_json(content)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6
