"""The audit itself: each of these breaks one promise, and is found."""

import pytest
from sqlalchemy import text, update

from db import tables as t
from db.brands import PortfolioSettings
from db.session import Database
from db.settings import DatabaseSettings
from ledger.invariants import audit
from ledger.service.ledger import Ledger
from tests.contract.ledgers import brand, claim, event
from tests.contract.replica import reserve

LEASE = "INSERT INTO leases (session_id, brand_id, day, portfolio_id, leased_micros, lasting, quarantined_until)"


@pytest.mark.parametrize(
    ("sabotage", "promise", "culprit"),
    [
        ("UPDATE budget_days SET available_micros = available_micros + 1", "budget = available", "owner_id=b"),
        (
            "UPDATE budget_days SET available_micros = -1, settled_micros = settled_micros + 901",
            "negative",
            "owner_id=b",
        ),
        ("UPDATE budget_days SET reserved_micros = 0, available_micros = 920", "reserved = Σ", "owner_id=b"),
        ("UPDATE budget_days SET settled_micros = 81, available_micros = 819", "settled = Σ", "owner_id=b"),
        ("UPDATE budget_days SET budget_micros = 1001, available_micros = 821", "budget = Σ", "owner_id=b"),
        ("UPDATE reservations SET held_micros = 99 WHERE status = 'open'", "holds what the journal", "brand_id=b"),
        ("UPDATE reservations SET settled_micros = 0", "a reservation's settled", "brand_id=b"),
        ("UPDATE reservations SET due_at = NULL", "due some time", "brand_id=b"),
        ("DELETE FROM ledger_journal WHERE kind = 'reserve'", "debited once", "brand_id=b"),
        ("UPDATE events SET cost_micros = 79", "what the events cost", "owner_id=b"),
        ("DELETE FROM events", "shows in the performance once", "brand_id=b"),
        ("DELETE FROM budget_days", "settled = Σ", "owner_id=b"),
        ("UPDATE reservations SET request_id = 'r'", "paid for once", "request_id=r"),
        ("UPDATE budget_days SET leased_micros = 1, available_micros = 819", "leased = Σ", "owner_id=b"),
        (
            f"{LEASE} VALUES (1, 'b', '2024-05-01', NULL, 5, 0, NULL)",
            "a lease holds what its session's journal says",
            "brand_id=b",
        ),
        (
            f"{LEASE} SELECT session_id, 'b', '2024-05-01', NULL, 0, 0, renewed_at FROM ledger_sessions",
            "is in quarantine",
            "brand_id=b",
        ),
        ("UPDATE ledger_journal SET epoch = 99 WHERE kind = 'budget'", "no epoch", "epoch=1"),
        ("UPDATE slack_days SET revenue_micros = revenue_micros + 1", "slack: revenue = Σ", "owner_id=b"),
        ("UPDATE reservations SET revenue_micros = 0", "slack: revenue = Σ", "owner_id=b"),
        ("UPDATE slack_days SET cost_micros = cost_micros - 1", "slack: cost = Σ", "owner_id=b"),
        ("DELETE FROM slack_days", "slack: revenue = Σ", "owner_id=b"),
        ("UPDATE slack_days SET pending_micros = 1", "slack: pending = Σ", "owner_id=b"),
        ("UPDATE slack_days SET leased_micros = 1", "slack: leased = Σ", "owner_id=b"),
        ("UPDATE reservations SET lack_micros = 1 WHERE confirmed", "only unconfirmed wins", "brand_id=b"),
        ("UPDATE reservations SET confirmed = 1 WHERE status = 'open'", "confirmed only if", "brand_id=b"),
        ("UPDATE slack_days SET leased_micros = -1", "no slack is negative", "brand_id=b"),
    ],
)
async def test_the_audit_names_what_is_broken(database_url, clock, sabotage, promise, culprit):
    database = Database(DatabaseSettings(url=database_url))
    ledger = await Ledger.open(database, clock=clock)
    await brand(ledger)
    two = await reserve(ledger, [claim(clock, "1"), claim(clock, "2")])
    await ledger.record([event("i", "impression", reservation_id=two[0].wins[0].reservation_id, cost_micros=80)])
    assert await audit(database) == []
    async with database.write() as connection:
        await connection.execute(text(sabotage))
    problems = await audit(database)
    await database.close()
    assert any(promise in problem and culprit in problem for problem in problems), problems


async def test_the_audit_names_a_sum_that_the_database_cannot_hold(database_url, clock):
    database = Database(DatabaseSettings(url=database_url))
    ledger = await Ledger.open(database, clock=clock)
    await brand(ledger)
    await ledger.record([event(str(n), "impression", cost_micros=1) for n in range(3)])
    async with database.write() as connection:
        await connection.execute(text(f"UPDATE ledger_journal SET settled_delta_micros = {2**62}"))
    problems = await audit(database)
    await database.close()
    assert any(problem.startswith("settled = Σ of the journal") for problem in problems), problems


async def test_the_audit_knows_a_portfolios_members(database_url, clock):
    database = Database(DatabaseSettings(url=database_url))
    ledger = await Ledger.open(database, clock=clock)
    await ledger.administration.put_portfolio("f", PortfolioSettings(daily_budget_micros=500))
    await brand(ledger, portfolio_id="f")
    await reserve(ledger, [claim(clock, "1")])
    assert await audit(database) == []
    async with database.write() as connection:
        moved = {"reserved_micros": 90, "available_micros": 410}
        await connection.execute(update(t.budget_days).where(t.budget_days.c.owner == "portfolio").values(moved))
    problems = await audit(database)
    await database.close()
    assert any(problem.startswith("a portfolio's day is the sum") and "owner_id=f" in problem for problem in problems)
