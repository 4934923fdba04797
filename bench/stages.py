"""`python -m bench stages`: time of each stage of a score request in the ingress, measured in this process."""

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
Flame graphs (py-spy, 100–250 samples a second, 16 connections, 50 bids) show where the ingress spends its time.

- Before, at 0.39 × the tuned peer (commit 67041b4): ranking, offers and answer as dicts, with ten passes over the bids
  in Python, 19 %; our access log, one record per request through Serve's redirected standard error, which inspects the
  call stack, 13 %, and Serve's own log records 4 %; columns, hash and bookkeeping 13 %; pydantic parsing the body 12 %;
  Starlette's router, request and response 9 %; the call to the predictor 8 %, which spent 13 µs per bid there; encoding
  4 %, leases 4 %; Serve's layer 12 %, uvicorn 3 %. In addition HAProxy wrote a syslog line per request, which its
  manager read in Python: 0.1 ms per request.
- After (commit fd9d9d2): ranking and answer 15 %, bookkeeping, hash and encoding 14 %, cached predictions 11 %, parsing
  bids 9 %, leases and opportunities for λ 5 %, token, logs and repeated requests 6 %: 60 % is our code. Serve's layer
  25 %, uvicorn 14 %.
- Since then Serve's two tasks that wait for a disconnect are not started, head and body are one write, a body that is
  there already is read without a timer, and a beat's wins are recorded as columns. Of the 490 µs of CPU that a request
  took in the ingress then, 280 were between the route's entry and the answer's bytes (sum ÷ count of
  `score_latency_seconds`, 15 of them for the ledger), 45 were the kernel's (stime), and the other 165 those of Serve,
  uvicorn and the event loop. By library (perf): interpreter 65 %, kernel 10 %, msgspec 7 %, libc 6 %, numpy 5 %,
  OpenSSL 2 %, uvloop and the HTTP parser 2 %.
- The limit: Serve, uvicorn, kernel and HAProxy cost the same whatever the application does: about 210 µs of the
  ingress's 490, and HAProxy's 75. The stages of the table above, measured in a tight loop, take half as much again in a
  running system, where caches are cold; the largest part of them is reading and writing 10 kB and 16 kB of JSON.
"""


def body(bids: int) -> bytes:
    """A body with four placement scores, like those of score.lua."""
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
        request = self._timed("parse the body", lambda: self._read(content))
        bids, terms = request.bids, self._ledger.terms.brands
        self._timed("hash it, to recognise repetitions", lambda: hashlib.sha256(content).hexdigest())
        expectation = self._timed("find cached predictions", lambda: self._memory.find("v", HOUR, bids.keys)[0])
        assert expectation is not None

        def ranking_of() -> Ranking:
            rejected = rejections(bids, terms, "EUR", lambda _: True)
            return rank(bids, expectation, terms, rejected, None, lambda *_: True)

        ranking = self._timed("score and rank", ranking_of)
        claim = Claim("bench", f"r-{number}", "0" * 64, 1, Offers(bids, ranking), 1.0)
        award = self._timed("draw the win on a lease", lambda: self._ledger.reserve_now(claim))
        assert award is not None
        assert award.wins
        self._timed("collect opportunities for λ", lambda: self._ledger.saw(opportunities(bids, ranking, award)))
        items = self._timed("make the answer's items", lambda: ranked_items(bids, ranking, award))
        self._timed("encode it", lambda: encode(ScoreAnswer("r", "v", "EUR", items)))


def main(argv: Sequence[str]) -> str | None:
    """Time of each stage of a score request."""
    parser = argparse.ArgumentParser(prog="python -m bench stages", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="medians of so many (default 9)")
    arguments = parser.parse_args(argv)
    sizes = (10, 50, 1000)
    found = asyncio.run(measured(sizes, arguments.rounds))
    lines = [f"| µs per request, median of {arguments.rounds} | {' | '.join(f'{size:,} bids' for size in sizes)} |"]
    lines.append("|---" * (len(sizes) + 1) + "|")
    lines += [f"| {stage} | {' | '.join(f'{found[size][stage]:.1f}' for size in sizes)} |" for stage in found[sizes[0]]]
    lines.append(f"| **together** | {' | '.join(f'**{sum(found[size].values()):.0f}**' for size in sizes)} |")
    pydantic = {size: _pydantic_us(size) for size in sizes}
    lines.append(f"| (pydantic, which explains mistakes) | {' | '.join(f'{pydantic[size]:.0f}' for size in sizes)} |")
    more = (sum(found[1000].values()) - sum(found[10].values())) / 990
    return "\n".join([*lines, "", f"One more bid: {more:.1f} µs.", "", BEFORE_AND_AFTER.rstrip()])


async def measured(sizes: Sequence[int], rounds: int) -> dict[int, dict[str, float]]:
    """µs per request, by number of bids and stage."""
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
    offer = Offer("fill", where, "cpm", 10**10, 2e10, 1e10)
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
