"""Files into the memory, on both databases: what is kept, what is replaced, what is added."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text

from db.brands import new_brand
from db.performance import key_hash
from db.session import Database
from db.settings import DatabaseSettings
from db.tables import brands, imports, performance_hourly
from training.etl.csv_reader import Unreadable
from training.etl.importer import TRANSACTION_ROWS, Source, import_file, import_frame, is_imported, known_sources
from training.etl.reader import day_number, newest_day, read_history
from training.etl.row_parser import CANONICAL
from training.etl.simulated_market import performance

ONLINE_ADS = Path(__file__).resolve().parents[3] / "shared" / "data" / "online_ads.csv.gz"
FIRST = dt.date(2020, 4, 1)
ROW = ("2020-04-01T00:00:00Z", "b1", "p1", "s1", "mobile", "300x250", "0.5", "100", "3", "1", "0.25", "0.5")


def quiet(_line: str) -> None:
    pass


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Not audited: some rows say that they sum events, which nobody has sent."""
    opened = Database(DatabaseSettings(url=database_url))
    yield opened
    await opened.close()


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    def write(*rows: dict[str, Any], name: str = "perf.csv") -> Path:
        path = tmp_path / name
        given = [dict(zip(CANONICAL, ROW, strict=True)) | row for row in rows]
        path.write_text("\n".join([",".join(CANONICAL), *(",".join(row.values()) for row in given), ""]))
        return path

    return write


async def stored(database: Database) -> list[Any]:
    async with database.read() as connection:
        order = (performance_hourly.c.source, performance_hourly.c.slot_id, performance_hourly.c.key_hash)
        return list(await connection.execute(select(performance_hourly).order_by(*order)))


async def test_a_row_lands_with_its_key_and_its_micros(database, file):
    done = await import_file(database, file({"cost": ""}), say=quiet)
    assert (done.source, done.rows, done.keys, done.rejected, done.brands) == ("perf.csv", 1, 1, 0, 1)
    (row,) = await stored(database)
    at = dt.datetime(2020, 4, 1, tzinfo=dt.UTC)
    key = key_hash("import", "perf.csv", "day", at, "b1", "p1", "s1", "mobile", "300x250", 0.5)
    assert (row.key_hash, row.kind, row.precedence, row.period) == (key, "import", 2, "day")
    assert (row.hour, row.day) == (at, FIRST)
    assert (row.impressions, row.cost_micros, row.revenue_micros, row.pending_revenue_micros) == (100, None, 500_000, 0)


async def test_rows_of_no_possible_time_are_rejected_one_by_one(database, file, monkeypatch):
    """One row dated 2062 became the night's newest day for ever, and no later night was judged."""
    times = {
        "2020-04-01T00:00:00Z": None,
        "2020-04-01T12:05:00Z": None,
        "2020-04-02T00:00:00+14:00": None,  # a local date that has begun
        "2020-04-01T12:05:01Z": "in_the_future",
        "2020-04-01T23:00:00Z": "in_the_future",
        "2062-09-29T00:00:00Z": "in_the_future",
        "2010-04-01 00:00:00Z": None,
        "2010-03-31t23:59:60z": None,  # a leap second is the second after
        "2010-03-31T23:59:59Z": "too_old",
        "1969-12-31T23:59:59Z": "ts",
    }
    path = file(*({"ts": ts, "slot_id": f"s{number}"} for number, ts in enumerate(times)))
    done = await import_file(database, path, say=quiet, clock=lambda: dt.datetime(2020, 4, 1, 12, tzinfo=dt.UTC))
    wrong = {ts: code for ts, code in times.items() if code is not None}
    assert (done.rows, done.rejected) == (len(times) - len(wrong), len(wrong))
    assert {row.slot_id for row in await stored(database)} == {
        f"s{number}" for number, code in enumerate(times.values()) if code is None
    }
    with done.rejects_file.open(newline="") as written:
        rejects = list(csv.reader(written))[1:]
    assert all(code in row[1] for row, code in zip(rejects, wrong.values(), strict=True)), rejects
    monkeypatch.setenv("PACELINE_HISTORY_FROM", "2020-04-02")
    with pytest.raises(Unreadable, match="no usable row"):
        await import_file(database, file({}), say=quiet)


async def test_every_brand_that_is_met_can_bid_at_once_and_one_that_is_known_stays_as_it_is(database, file):
    now = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    kept = new_brand().model_dump() | {"brand_id": "b2", "target_roas": 3.5, "created_at": now, "updated_at": now}
    async with database.write() as connection:
        await connection.execute(insert(brands).values(kept))
    done = await import_file(database, file({}, {"brand_id": "b2"}, {"brand_id": "B1"}), say=quiet)
    assert done.brands == 2
    async with database.read() as connection:
        found = {row.brand_id: row for row in await connection.execute(select(brands))}
    assert {name: row.target_roas for name, row in found.items()} == {"b1": 1.0, "B1": 1.0, "b2": 3.5}
    assert found["b1"].daily_budget_micros == 1_000_000_000_000
    assert found["b1"].active


async def test_the_same_file_again_changes_nothing(database, file):
    path = file({}, {"slot_id": "s2", "placement_score": ""})
    await import_file(database, path, say=quiet)
    first = await stored(database)
    again = await import_file(database, path, say=quiet)
    assert await stored(database) == first
    assert (again.rows, again.brands) == (2, 0)


async def test_a_later_import_under_the_same_source_replaces_the_keys_that_it_has(database, file):
    await import_file(database, file({}, {"slot_id": "s2"}), say=quiet)
    await import_file(database, file({"revenue": "7", "cost": ""}), say=quiet)
    assert [(row.slot_id, row.revenue_micros, row.cost_micros) for row in await stored(database)] == [
        ("s1", 7_000_000, None),
        ("s2", 500_000, 250_000),
    ]


async def test_different_files_add_and_a_source_given_by_name_joins_them(database, file):
    await import_file(database, file({}), say=quiet)
    await import_file(database, file({"revenue": "7"}, name="other.csv"), say=quiet)
    known = await read_history(database, FIRST)
    assert known["revenue_micros"].sum() == 7_500_000
    await import_file(database, file({"revenue": "9"}, name="third.csv"), "perf.csv", say=quiet)
    assert (await read_history(database, FIRST))["revenue_micros"].sum() == 16_000_000


async def test_keys_repeated_within_a_file_are_summed_and_ids_compare_case_sensitively(database, file):
    await import_file(
        database, file({}, {}, {"slot_id": "S1"}, {"placement_score": "-0.0"}, {"placement_score": "0"}), say=quiet
    )
    counts = {(row.slot_id, row.placement_score): row.impressions for row in await stored(database)}
    assert counts == {("s1", 0.5): 200, ("S1", 0.5): 100, ("s1", 0.0): 200}


async def test_bad_rows_go_to_a_file_beside_with_line_and_reason(database, file, tmp_path):
    done = await import_file(database, file({}, {"cost": "-1"}, {"brand_id": "a b"}), say=quiet)
    assert (done.rows, done.rejected, done.rejects_file) == (1, 2, tmp_path / "perf.csv.rejects.csv")
    assert done.rejects_file is not None
    lines = done.rejects_file.read_text().splitlines()
    assert lines[0] == "line,reason,content"
    assert [line[:2] for line in lines[1:]] == ["3,", "4,"]
    assert "below zero" in lines[1]
    assert "brand_id" in lines[2]
    assert len(await stored(database)) == 1


async def test_an_import_is_remembered_only_when_it_is_whole(database, file):
    path = file({}, {"cost": "-1"})
    assert not await is_imported(database, path)
    await import_file(database, path, say=quiet)
    assert await is_imported(database, path)
    async with database.read() as connection:
        (row,) = await connection.execute(select(imports))
    assert (row.source, row.rows, row.rejected, row.simulated) == ("perf.csv", 1, 1, False)
    assert not await is_imported(database, file({"revenue": "7"}))


async def test_a_file_without_a_good_row_is_refused_and_not_remembered(database, file, tmp_path):
    path = file({"cost": "-1"}, {"brand_id": "a b"})
    with pytest.raises(Unreadable, match=r"no usable row, 2 rejected; see .*perf\.csv\.rejects\.csv"):
        await import_file(database, path, say=quiet)
    assert "below zero" in (tmp_path / "perf.csv.rejects.csv").read_text()
    assert await known_sources(database) == {}
    assert not await is_imported(database, path)
    await import_file(database, file({}), say=quiet)
    with pytest.raises(Unreadable):
        await import_file(database, file({"cost": "-1"}), say=quiet)
    assert await is_imported(database, file({})), "what was imported before stays"


class Killed(Exception):
    """Stands for the end of the process."""


@contextmanager
def killed_after(database: Database, writes: int) -> Iterator[None]:
    """What runs inside gets so many transactions and no more."""
    transact, left = database.transact, iter(range(writes))

    async def transact_or_die(work: Any, tries: int = 5) -> Any:
        if next(left, None) is None:
            raise Killed
        return await transact(work, tries)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "transact", transact_or_die)
        with pytest.raises(Killed):
            yield


@pytest.mark.parametrize("writes", [1, 2, 3, 4])
async def test_a_simulated_import_that_was_cut_off_is_known_as_such_and_repaired_by_a_repetition(database, writes):
    frame = performance(dt.date(2020, 11, 21), days=5)
    assert TRANSACTION_ROWS < len(frame) <= 2 * TRANSACTION_ROWS, "writes: begun, brands, rows, rows, complete"
    with killed_after(database, writes):
        await import_frame(database, frame, "simulated", simulated=True, say=quiet)
    assert await known_sources(database) == {"simulated": Source("", simulated=True)}
    await import_frame(database, frame, "simulated", simulated=True, say=quiet)
    assert (await known_sources(database))["simulated"].complete
    assert len(await stored(database)) == len(frame)


async def test_an_import_that_was_cut_off_is_not_remembered_until_it_is_repeated(database, file):
    await import_file(database, file({"revenue": "7"}), say=quiet)
    path = file({}, {"slot_id": "s2"})
    with killed_after(database, 1):
        await import_file(database, path, say=quiet)
    assert await known_sources(database) == {"perf.csv": Source("", simulated=False)}
    assert not await is_imported(database, path)
    await import_file(database, path, say=quiet)
    assert await is_imported(database, path)


async def test_real_rows_never_pass_under_the_simulated_markets_name(database, file):
    await import_frame(database, performance(FIRST, days=1), "simulated", simulated=True, say=quiet)
    with pytest.raises(Unreadable, match="--source"):
        await import_file(database, file({}), "simulated", say=quiet)
    assert (await known_sources(database))["simulated"].simulated


async def test_a_statement_is_one_that_every_mysql_8_and_9_knows(database, file):
    statements: list[str] = []
    event.listen(database.engine.sync_engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    await import_file(database, file({}), say=quiet)
    await import_file(database, file({"revenue": "7"}), say=quiet)
    assert any("performance_hourly" in statement for statement in statements)
    for statement in statements:
        assert " AS new" not in statement, "8.0.19"
        assert "VALUES(" not in statement, "deprecated since 8.0.20: a warning for each row"


async def test_a_day_that_events_cover_is_not_counted_twice(database, file):
    await import_file(database, file({}, {"ts": "2020-04-02T00:00:00Z"}), say=quiet)
    (first, _) = await stored(database)
    event = dict(first._mapping) | {
        "key_hash": "0" * 64,
        "kind": "event",
        "precedence": 0,
        "source": "",
        "impressions": 7,
    }
    async with database.write() as connection:
        await connection.execute(insert(performance_hourly).values(event | {"day": FIRST}))
    known = await read_history(database, dt.date(2020, 4, 2))
    assert known["impressions"].tolist() == [7, 100]
    async with database.read() as connection:  # the view says the same
        seen = await connection.execute(text("SELECT impressions FROM performance ORDER BY day"))
        assert list(seen.scalars()) == [7, 100]


async def test_history_ends_with_the_day_asked_for_and_knows_hours(database, file):
    hours = [{"ts": f"2020-04-0{day}T05:30:00Z"} for day in (1, 2, 3)]
    await import_file(database, file(*hours), say=quiet)
    assert await newest_day(database) == dt.date(2020, 4, 3)
    known = await read_history(database, dt.date(2020, 4, 2))
    assert known["day"].tolist() == [day_number(FIRST), day_number(FIRST) + 1]
    assert known["hour"].tolist() == [5, 5]
    assert (await read_history(database, dt.date(2020, 3, 1))).empty


async def test_the_simulated_market_is_marked_as_such(database):
    frame = performance(dt.date(2020, 11, 21), days=5)
    done = await import_frame(database, frame, "simulated", simulated=True, say=quiet)
    assert done.rows == len(frame)
    async with database.read() as connection:
        (row,) = await connection.execute(select(imports))
    assert row.simulated
    known = await read_history(database, dt.date(2020, 11, 21))
    assert known["pending_revenue_micros"].sum() == pytest.approx(frame["pending_revenue"].sum() * 1e6, rel=1e-6)


@pytest.mark.skipif(not ONLINE_ADS.is_file(), reason=f"real data is missing: {ONLINE_ADS}")
async def test_real_files_keep_every_unit_of_currency(database):
    done = await import_file(database, ONLINE_ADS, say=quiet)
    assert (done.rows, done.rejected, done.brands) == (10_974, 0, 3)
    with gzip.open(ONLINE_ADS, "rt") as opened:
        revenue = sum(round(float(line.rsplit(",", 1)[1]) * 1e6) for line in list(opened)[1:])
    known = await read_history(database, dt.date(2020, 5, 31))
    assert known["revenue_micros"].sum() == revenue
    assert known["day"].nunique() == 61
