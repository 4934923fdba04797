"""What tests of the ledger say again and again: its clock, offers, requests, events, and what its tables show."""

import datetime as dt

from sqlalchemy import select

from db import tables as t
from db.brands import BrandSettings
from ledger.domain.messages import Claim, Event, Offer, Placement

NOON = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)


class Clock:
    def __init__(self, now: dt.datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> dt.datetime:
        return self.now

    def forward(self, by: dt.timedelta) -> None:
        self.now += by


def offer(brand_id="b", amount=100, model="cpm", bid_id=None) -> Offer:
    where = Placement(brand_id, "p", "s", "mobile", "160x600", 0.7)
    return Offer(bid_id or f"bid-{brand_id}", where, model, amount, 10.0 * amount, amount)


def claim(clock, request_id, *offers, winners=1, body="body", within_s=3600.0) -> Claim:
    return Claim("sub", request_id, body, winners, offers or (offer(),), within_s)


def event(event_id, type_, at=NOON, brand_id="b", **fields) -> Event:
    place = {"slot_id": "s", "device_type": "mobile", "creative_type": "160x600", "placement_score": 0.7}
    return Event(event_id, type_, at, brand_id, "p", **(place | fields))


def update_of(event_id, at=NOON, **fields) -> Event:
    return Event(event_id, "conversion_update", at, "b", "p", **fields)


async def today(ledger, brand_id="b"):
    shown = (await ledger.administration.get_brand(brand_id))["today"]
    return tuple(shown[name] for name in ("budget", "available", "reserved", "settled", "excess", "overspend"))


async def journal(database):
    async with database.read() as connection:
        query = (
            select(t.ledger_journal.c.kind)
            .where(t.ledger_journal.c.kind.not_in(("budget", "lend", "take_back")))
            .order_by(t.ledger_journal.c.seq)
        )
        return list((await connection.execute(query)).scalars())


async def brand(ledger, brand_id="b", budget=1000, **fields):
    return await ledger.administration.put_brand(brand_id, BrandSettings(daily_budget_micros=budget, **fields))


def statuses(results):
    return [result.code or result.status for result in results]
