"""λ from the score log to what the ledger reads, on both databases."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import insert, select

from db.state import State
from db.tables import brands, lambda_fits, portfolios, score_log
from ledger.storage.directory_store import DirectoryStore
from tests.contract.conftest import LAST
from training.nightly import lambda_step
from training.nightly.lambda_step import fit_lambdas
from training.nightly.pipeline import run
from training.pricing import lagrange
from training.settings import ModelSettings

NOW = dt.datetime(2026, 3, 1, 2, tzinfo=dt.UTC)
SETTINGS = ModelSettings(trees=10, min_rows_in_leaf=5)


def quiet(_line: str) -> None:
    pass


async def put(database, brand_id, portfolio_id=None, active=True, target_roas=1.2, budget=1_000_000):
    row = {
        "brand_id": brand_id, "currency": "EUR", "timezone": "UTC", "portfolio_id": portfolio_id,
        "target_roas": target_roas, "throttle_roas": 0.8, "daily_budget_micros": budget, "strategy_multiplier": 1.0,
        "exploration": 0.02, "active": active, "created_at": NOW, "updated_at": NOW,
    }  # fmt: skip
    async with database.write() as connection:
        await connection.execute(insert(brands), row)


async def put_portfolio(database, portfolio_id):
    row = {
        "portfolio_id": portfolio_id, "currency": "EUR", "timezone": "UTC", "target_roas": 1.5, "throttle_roas": 0.8,
        "daily_budget_micros": 900_000, "created_at": NOW, "updated_at": NOW,
    }  # fmt: skip
    async with database.write() as connection:
        await connection.execute(insert(portfolios), row)


async def log(database, *names, n=1_000, bids=1, seed=0):
    """n opportunities of each brand over a day, `bids` rows a request."""
    random = np.random.default_rng(seed)
    rows = [
        {
            "at": NOW - dt.timedelta(days=(n - number) / n), "request_id": f"r{number}", "bid_id": f"{bid}",
            "brand_id": name, "partner_id": "p", "slot_id": "s", "pricing_model": "cpm",
            "predicted_revenue_micros": float(1_000 * random.lognormal(0, 0.5)), "predicted_cost_micros": 1_000.0,
            "lambda": 1.0, "score": 1.0, "status": "lost", "weight": 100.0, "model_version": "v",
        }
        for number in range(n)
        for name in names
        for bid in range(bids)
    ]  # fmt: skip
    async with database.write() as connection:
        await connection.execute(insert(score_log), rows)


async def stored(database):
    async with database.read() as connection:
        return list(await connection.execute(select(lambda_fits).order_by(lambda_fits.c.seq)))


async def ledgers(database):
    return await database.run_read(DirectoryStore().fits)


@pytest.mark.usefixtures("history")
async def test_a_fit_is_stored_with_its_limits_and_read_by_the_ledger(database, tmp_path: Path):
    await put_portfolio(database, "f")
    await put(database, "member", "f")
    await put(database, "alone", budget=None)
    await put(database, "paused", "f", active=False)
    await log(database, "member", "alone", "paused")
    night = await run(database, State(tmp_path), settings=SETTINGS, say=quiet)
    alone, member = sorted(await stored(database), key=lambda row: row.brand_id)
    limits = ("target_roas", "portfolio_target_roas", "daily_budget_micros", "portfolio_daily_budget_micros")
    assert [getattr(alone, name) for name in limits] == [1.2, None, None, None]
    assert [getattr(member, name) for name in limits] == [1.2, 1.5, 1_000_000, 900_000]
    for row in (alone, member):
        assert row.converged
        assert max(row.kkt_residual, abs(row.duality_gap)) < 1e-6
    found = await ledgers(database)
    assert {name: fit.kappa for name, fit in found.items()} == {row.brand_id: row.kappa for row in (alone, member)}
    assert night.lambdas == night.lambda_fit["fitted"] == 2
    assert night.lambda_fit["lp_gap"] < 1e-6


@pytest.mark.usefixtures("history")
async def test_a_fit_that_did_not_converge_is_stored_told_and_not_used(database, tmp_path: Path, monkeypatch):
    await put(database, "b")
    await log(database, "b")
    await run(database, State(tmp_path), settings=SETTINGS, say=quiet)
    before = await ledgers(database)
    monkeypatch.setattr(lagrange, "TOLERANCE", -1.0)
    said: list[str] = []
    night = await run(database, State(tmp_path), settings=SETTINGS, say=said.append)
    assert [row.converged for row in await stored(database)] == [True, False]
    assert await ledgers(database) == before != {}
    assert night.lambda_fit["not_converged"] == ["b"]
    assert night.lambdas == 0
    assert [line for line in said if line.startswith("warning") and "did not converge" in line]


@pytest.mark.usefixtures("history")
async def test_prices_are_new_every_night_even_when_the_trees_are_not(database, tmp_path: Path):
    await put(database, "b")
    first = await run(database, State(tmp_path), date=LAST, settings=SETTINGS, say=quiet)
    await log(database, "b")
    strict = SETTINGS.model_copy(update={"gate_deviance": 1e-6})
    assert not (await run(database, State(tmp_path), settings=strict, say=quiet)).accepted
    assert [(row.brand_id, row.model_version) for row in await stored(database)] == [("b", first.version)]


async def test_a_log_with_more_rows_than_fit_is_thinned_evenly(database, monkeypatch):
    """Fifty bids a request: a stride that falls on their rhythm would see one brand only."""
    await put(database, "a", budget=300_000_000)
    await put(database, "b", budget=300_000_000)
    await log(database, "a", "b", n=200, bids=25)
    whole = await fit_lambdas(database, NOW)
    monkeypatch.setattr(lambda_step, "MOST_ROWS", 1_000)
    thinned = await fit_lambdas(database, NOW)
    assert [one.opportunities for one in whole.fits] == [5_000, 5_000]
    assert [one.opportunities for one in thinned.fits] == pytest.approx([500, 500], rel=0.02)
    for one, other in zip(thinned.fits, whole.fits, strict=True):
        assert one.kappa == pytest.approx(other.kappa, rel=0.05)


async def test_an_empty_log_fits_nothing(database):
    assert (await fit_lambdas(database)).fits == []
