"""λ by day, from the ledger that solves for it to the registry that is asked for it, on both databases."""

import datetime as dt
import itertools

import pytest
from sqlalchemy import select

from db import tables as t
from db.brands import BrandSettings
from ledger.bidding.demand import Demand
from ledger.domain.settings import RoasSettings
from ledger.service.controller_loop import ControllerLoop
from ledger.service.lambda_history import LambdaHistory
from ledger.service.ledger import Ledger
from tests.contract.ledgers import NOON
from tests.unit.ledger.bidding.test_controller import market
from training.registry.activations import as_of, forget

MINUTE = dt.timedelta(minutes=1)


async def test_the_lambda_that_was_live_at_a_time_is_known(database, ledger, clock):
    for brand_id in ("b", "quiet"):
        await ledger.administration.put_brand(
            brand_id, BrandSettings(target_roas=2.6, daily_budget_micros=None, strategy_multiplier=2)
        )
    record = LambdaHistory(ledger, database)
    assert await record.look() == 2
    assert await record.look() == 0, "nothing has moved"
    hours = itertools.count(0.0, 3600.0)  # one between two looks, for λ falls slowly
    pilot = ControllerLoop(ledger, RoasSettings(min_impressions=3, watch_s=0), stopwatch=lambda: next(hours))
    for some in (market(number=1), market(number=5000)):
        seen = Demand()
        seen.add(some)
        pilot.observe(seen.take())
        await pilot.step()
    steered = ledger.terms.newest.brands["b"].lambda_
    assert await record.look() == 0, "once a minute at most"
    clock.forward(MINUTE)
    assert await record.look() == 1
    assert await LambdaHistory(ledger, database).look() == 2, "a ledger that starts writes them all"
    async with database.read() as connection:
        assert len((await connection.execute(select(t.lambda_history))).all()) == 5

    (before,) = (await as_of(database, NOON + MINUTE / 2, "b")).prices
    assert (before.lambda_, before.kappa, before.since, before.night_kappa) == (5.2, None, NOON, None)
    (after,) = (await as_of(database, NOON + 5 * MINUTE, "b")).prices
    assert (after.lambda_, after.kappa, after.since) == (steered, steered / 2, NOON + MINUTE)
    assert [price.brand_id for price in (await as_of(database, NOON)).prices] == ["b", "quiet"]
    await forget(database, NOON + MINUTE)
    assert (await as_of(database, NOON)).prices == []
    assert (await as_of(database, NOON + MINUTE, "b")).prices == [after]


async def test_a_database_that_was_away_is_told_later(ledger: Ledger, database, monkeypatch):
    await ledger.administration.put_brand("b", BrandSettings())
    record = LambdaHistory(ledger, database)

    async def away(_work):
        raise OSError("away")

    with monkeypatch.context() as patched:
        patched.setattr(database, "run_write", away)
        with pytest.raises(OSError, match="away"):
            await record.look()
    assert await record.look() == 1
