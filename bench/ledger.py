"""`python -m bench ledger`: CPU cost of leases, and how much budget they leave unspent. Without Ray."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import multiprocessing
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, insert

from db import tables as t
from db.brands import BrandSettings
from db.schema import upgrade
from db.session import Database
from db.settings import DatabaseSettings
from ledger.client.lease_cache import LeaseCache
from ledger.domain.messages import Claim, Offer, Placement
from ledger.domain.reservation import Lifetimes
from ledger.service.ledger import Ledger
from ledger.service.write_queue import WriteQueue
from tests.servers.mysql import MySqlServer

LIVES = Lifetimes(1800.0, 30)
DEAREST = 1000


def main(argv: Sequence[str]) -> str | None:
    """Drawing wins, keeping leases, spending the last cent, a restart with many open reservations."""
    parser = argparse.ArgumentParser(prog="python -m bench ledger", description=main.__doc__)
    parser.add_argument("--only", choices=("draw", "keep", "last-cent", "restart"))
    parser.add_argument("--seconds", type=int, default=20, help="of keeping leases (default 20)")
    parser.add_argument("--open", type=int, default=1_000_000, help="open reservations at the restart (default 1 M)")
    parser.add_argument("--mysql", action="store_true", help="on a MySQL of its own (default SQLite, in a new file)")
    asked = parser.parse_args(argv)
    parts: dict[str, Callable[[str], Any]] = {
        "draw": lambda url: asyncio.run(draw(url)),
        "keep": lambda url: asyncio.run(keep(url, asked.seconds)),
        "last-cent": lambda url: asyncio.run(last_cent(url)),
        "restart": lambda url: restart(url, asked.open),
    }
    lines = []
    for name, part in parts.items():
        if asked.only in (None, name):
            with _empty_database(asked.mysql) as url:
                upgrade(url)
                lines.append(f"- {name}{' (MySQL)' if asked.mysql else ''}: {part(url)}")
                print(lines[-1], flush=True)
    return "\n".join(lines)


@contextmanager
def _empty_database(is_mysql: bool) -> Iterator[str]:
    if is_mysql:
        with MySqlServer() as server:
            yield server.create_database()
    else:
        with tempfile.TemporaryDirectory(prefix="paceline-bench-") as folder:
            yield f"sqlite+aiosqlite:///{Path(folder) / 'ledger.sqlite'}"


_writers: dict[Ledger, WriteQueue] = {}
_running: list[asyncio.Task[None]] = []


class Replica:
    """A replica's leases, with the ledger in this process."""

    def __init__(self, ledger: Ledger) -> None:
        self.leases, self._requests = LeaseCache(LIVES), 0
        if ledger not in _writers:
            _writers[ledger] = WriteQueue(ledger)
            _running.append(asyncio.create_task(_writers[ledger].keep_writing()))
        self._writer = _writers[ledger]

    async def beat(self, is_last: bool = False) -> None:
        asked_s = time.monotonic()
        beat = self.leases.beat(asked_s, is_last=is_last)
        reply = await self._writer.beat(beat)
        self.leases.heard(beat, reply, asked_s, time.monotonic())

    def claim(self) -> Claim:
        self._requests += 1
        return Claim("bench", f"{id(self)}-{self._requests}", "0" * 64, 1, (), 1.0)

    def win(self, offer: Offer) -> bool:
        now_s = time.monotonic()
        if self.leases.refusal(offer, now_s) is not None:
            return False
        claim = self.claim()
        self.leases.draw(claim, claim.request_id, offer, now_s)
        return True


def offer(brand: int, amount_micros: int = DEAREST) -> Offer:
    return Offer(
        "bid",
        Placement(f"brand-{brand}", "partner", "slot", "mobile", "160x600", 0.5),
        "cpm",
        amount_micros,
        2.0 * amount_micros,
        amount_micros,
    )


async def opened(url: str, brands: int, budget_micros: int | None) -> tuple[Database, Ledger]:
    database = Database(DatabaseSettings(url=url))
    now = dt.datetime.now(dt.UTC)
    settings = BrandSettings(daily_budget_micros=budget_micros).model_dump()
    rows = [{**settings, "brand_id": f"brand-{n}", "created_at": now, "updated_at": now} for n in range(brands)]
    async with database.write() as connection:
        await connection.execute(insert(t.brands), rows)
    return database, await Ledger.open(database)


async def draw(url: str, rounds: int = 200, each: int = 1000) -> str:
    database, ledger = await opened(url, 1, None)
    replica = Replica(ledger)
    await replica.beat()
    await replica.beat()
    times = []
    for _ in range(rounds):
        one = offer(0)
        replica.leases.want(offer(0, DEAREST * each))
        await replica.beat()
        claims = [replica.claim() for _ in range(each)]
        began = time.perf_counter()
        for claim in claims:
            now_s = time.monotonic()
            if replica.leases.refusal(one, now_s) is None:
                replica.leases.draw(claim, claim.request_id, one, now_s)
        times.append((time.perf_counter() - began) / each * 1e6)
        replica.leases._wins.clear()
    await database.close()
    return f"{statistics.median(times):.2f} µs median a win (reservation id and record included), {rounds} × {each}"


async def keep(url: str, seconds: int, brands: int = 10_000, replicas: int = 4, active: int = 500) -> str:
    """CPU of the ledger and of all replicas' leases together, as a share of one core."""
    found = []
    database, ledger = await opened(url, brands, 10**12)
    group = [Replica(ledger) for _ in range(replicas)]
    for replica in group:
        await replica.beat()
        for brand in range(brands):
            replica.leases.want(offer(brand))
        while not all(replica.leases.left(f"brand-{brand}") for brand in range(brands)):
            await replica.beat()
    lent = sum(replica.leases.left(f"brand-{n}") > 0 for replica in group for n in range(brands))
    random_ = random.Random(0)
    for each in (1, replicas):  # each active brand wins at one replica, or at all of them
        wins, cpu_s, began = 0, time.process_time(), time.monotonic()
        for beat in range(seconds):
            for brand in random_.sample(range(brands), active):
                for replica in random_.sample(group, each):
                    one = offer(brand, random_.randint(1, DEAREST))
                    if not replica.win(one):
                        replica.leases.want(one)
                    else:
                        wins += 1
            await asyncio.gather(*(replica.beat() for replica in group))  # as replicas beat: together
            await asyncio.sleep(max(0.0, began + beat + 1 - time.monotonic()))
        passed = time.monotonic() - began
        share = (time.process_time() - cpu_s) / passed
        found.append(f"{share:.1%} of a core at {wins / passed:.0f} wins/s")
    await database.close()
    return f"{lent} leases of {brands} brands at {replicas} replicas, {active} brands active a second: " + ", ".join(
        found
    )


async def last_cent(url: str, replicas: int = 8, holds: int = 10_000) -> str:
    budget = holds * DEAREST
    database, ledger = await opened(url, 1, budget)
    random_, group = random.Random(0), [Replica(ledger) for _ in range(replicas)]
    for replica in group:
        await replica.beat()
    spent = refused = beats = 0
    while refused < 50:
        before = spent
        for replica in group:
            for _ in range(random_.randint(0, 60)):
                one = offer(0, random_.randint(1, DEAREST))
                if replica.win(one):
                    spent += one.amount_micros
                else:
                    replica.leases.want(one)
        for replica in group:
            await replica.beat()
        beats += 1
        refused = refused + 1 if spent == before else 0
        await asyncio.sleep(0.3 if spent == before else 0.0)
    await database.close()
    return (
        f"{spent / budget:.4%} of {holds} × the dearest hold spent by {replicas} replicas in {beats} beats, "
        f"overspent {max(0, spent - budget)} µ"
    )


def restart(url: str, number: int) -> str:
    """Open a ledger on a database with so many open reservations, in a process of its own."""
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    engine = create_engine(url.replace("+aiosqlite", "").replace("+aiomysql", "+pymysql"))
    brands, amount = 1000, 100
    common = {
        "sub": "bench", "request_hash": "0" * 64, "bid_id": "bid", "portfolio_id": None, "partner_id": "p",
        "slot_id": "s", "device_type": "d", "creative_type": "c", "placement_score": None, "pricing_model": "cpm",
        "day": now.date(), "amount_micros": amount, "held_micros": amount, "settled_micros": 0, "status": "open",
        "created_at": now.replace(tzinfo=dt.UTC), "expires_at": (now + dt.timedelta(hours=1)).replace(tzinfo=dt.UTC),
        "due_at": (now + dt.timedelta(hours=1)).replace(tzinfo=dt.UTC), "ended_at": None, "session_id": 1,
        "instead_id": None,
    }  # fmt: skip
    stamp = now.replace(tzinfo=dt.UTC)
    settings = BrandSettings().model_dump() | {"created_at": stamp, "updated_at": stamp}
    with engine.begin() as connection:
        connection.execute(insert(t.brands), [{**settings, "brand_id": f"brand-{n}"} for n in range(brands)])
        for start in range(0, number, 50_000):
            rows = [
                {
                    **common,
                    "reservation_id": f"{n:048}",
                    "award_id": str(n),
                    "request_id": str(n),
                    "brand_id": f"brand-{n % brands}",
                }
                for n in range(start, min(start + 50_000, number))
            ]
            connection.execute(insert(t.reservations), rows)
    engine.dispose()
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        found = pool.apply(_open, (url,))
    return f"with {number} open reservations: {json.dumps(found)}"


def _open(url: str) -> dict[str, float]:
    async def opening() -> dict[str, float]:
        began = time.perf_counter()
        database = Database(DatabaseSettings(url=url))
        ledger = await Ledger.open(database)
        replica = Replica(ledger)
        await replica.beat()
        replica.leases.want(offer(0))
        await replica.beat()
        assert replica.win(offer(0))
        await replica.beat()
        await ledger.sweep()
        ready_s = time.perf_counter() - began
        await database.close()
        return {"ready_s": round(ready_s, 2), "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}

    return asyncio.run(opening())
