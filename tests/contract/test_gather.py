"""The night's ETL, on both databases: whatever came, in whatever order, however often it was killed."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, text, update

from db.brands import BrandSettings
from db.errors import CannotMigrate
from db.files import atomic_write
from db.session import Database
from db.settings import DatabaseSettings
from db.state import State
from db.tables import events, performance_hourly
from ledger.domain.messages import Event, Placement
from ledger.domain.settlement import Effect, Fact, Figures, RowKey, effect_of, effect_of_group
from ledger.service.ledger import Ledger
from tests.contract.ledgers import DAY, HOUR, NOON, Clock, brand, event, statuses, update_of
from training.columns import ID_COLUMNS
from training.etl import parquet_store
from training.etl.cli import main
from training.etl.importer import import_file
from training.etl.reader import COLUMNS, read_history
from training.etl.reconcile import Gathered, gather, read
from training.etl.recount import recount
from training.etl.row_parser import CANONICAL

P, E = performance_hourly.c, events.c
TODAY = NOON.date()
LAST = dt.date(2030, 1, 1)


def quiet(_line: str) -> None:
    pass


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state")


@pytest.fixture
async def books(ledger: Ledger, clock: Clock) -> Ledger:
    """A ledger with one brand, which hears two days later of what has happened."""
    clock.forward(2 * DAY)
    await brand(ledger, budget=None)
    return ledger


@pytest.fixture
def imported(tmp_path: Path, database: Database) -> Callable[..., Any]:
    """Import rows: (ts, impressions), of one tuple that no event has, or of another slot."""

    async def do(*rows: tuple[str, int], name: str = "perf.csv", slot: str = "imported") -> None:
        path = tmp_path / name
        lines = [f"{ts},b,p,{slot},mobile,160x600,0.5,{number},1,0,0.5,0.75" for ts, number in rows]
        path.write_text("\n".join([",".join(CANONICAL), *lines, ""]))
        await import_file(database, path, say=quiet)

    return do


def conversion(event_id: str, at: dt.datetime = NOON, **fields: Any) -> Event:
    given = {"conversion_id": "c", "status": "pending", "revenue_micros": 900, "cost_micros": 300}
    return event(event_id, "conversion", at, **(given | fields))


def a_bit_of_all(since: dt.datetime = NOON) -> list[Event]:
    return [
        *(event(f"i{n}", "impression", since + n * HOUR, cost_micros=n) for n in range(30)),
        event("k", "click", since + HOUR, click_id="k-1", cost_micros=7),
        conversion("c", since + 3 * HOUR, click_id="k-1"),
        event("a", "aggregate", since, period="day", impressions=9, clicks=2, revenue_micros=-5),
    ]


async def figures(database: Database) -> dict[Any, Any]:
    """Every row that sums events, by what tells it apart."""
    query = select(P.kind, P.period, P.hour, P.day, *(P[name] for name in COLUMNS[2:])).order_by(P.key_hash)
    async with database.read() as connection:
        found = list(await connection.execute(query.where(P.kind != "import")))
    rows = {tuple(row[:10]): tuple(row[10:]) for row in found}
    assert len(rows) == len(found)
    return rows


def files(state: State) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (state.root / "history").iterdir()}


def written(state: State) -> dict[str, int]:
    """When each file was written."""
    return {path.name: path.stat().st_mtime_ns for path in (state.root / "history").iterdir()}


async def same_as_the_database(database: Database, state: State, through: dt.date = LAST) -> pd.DataFrame:
    seen = await read(database, state, through)
    pd.testing.assert_frame_equal(seen, await read_history(database, through), check_exact=True)
    return seen


async def test_what_is_gathered_is_what_the_database_holds(database, books, state, imported):
    await imported(("2024-05-01T00:00:00Z", 50), ("2024-04-02T00:00:00Z", 70))
    await books.record(a_bit_of_all())
    done = await gather(database, state, quiet)
    assert (done.events, done.repaired, done.unfounded) == (33, 0, 0)
    assert (done.days, done.refreshed, done.vanished) == (3, 3, 0)
    assert done.newest == TODAY + DAY
    seen = await same_as_the_database(database, state)
    assert len(seen) == done.rows
    assert [str(kind) for kind in seen.dtypes] == ["int64"] * 2 + ["object"] * 5 + ["float64"] * 7
    assert len(await same_as_the_database(database, state, TODAY)) < len(seen)
    assert (await same_as_the_database(database, state, dt.date(2024, 4, 1))).empty


async def test_twice_is_once(database, books, state, imported):
    await imported(("2024-04-02T00:00:00Z", 70))
    await books.record(a_bit_of_all())
    await gather(database, state, quiet)
    before = written(state)
    again = await gather(database, state, quiet)
    assert (again.events, again.brand_days, again.refreshed, again.vanished) == (0, 0, 0, 0)
    assert written(state) == before


async def test_an_empty_database_is_an_empty_history(database, state):
    done = await gather(database, state, quiet)
    assert (done.days, done.rows, done.newest) == (0, 0, None)
    assert (await same_as_the_database(database, state)).empty


async def test_before_anything_was_gathered_the_database_is_read(database, books, state):
    await books.record(a_bit_of_all())
    assert len(await same_as_the_database(database, state)) > 0


@pytest.mark.parametrize(
    ("first", "late", "days"),
    [
        pytest.param([conversion("c", NOON - 3 * DAY)], [update_of("u", conversion_id="c", status="approved")],
                     {TODAY - 3 * DAY, TODAY}, id="an update restates its conversion's day"),
        pytest.param([update_of("u", conversion_id="c", status="approved")], [conversion("c", NOON - 2 * DAY)],
                     {TODAY - 2 * DAY, TODAY}, id="a conversion after its update"),
        pytest.param([conversion("c", NOON - 2 * DAY)], [conversion("d", NOON - 4 * DAY)],
                     {TODAY - 4 * DAY, TODAY - 2 * DAY}, id="an earlier conversion of the same id moves it"),
        pytest.param([update_of("u", NOON - 5 * DAY, conversion_id="c", click_id="k", status="approved",
                                revenue_micros=5)],
                     [event("k", "click", click_id="k")],
                     {TODAY - 5 * DAY, TODAY}, id="a click completes what came before it"),
        pytest.param([event("i", "impression")], [event("j", "impression", NOON - 9 * DAY)],
                     {TODAY - 9 * DAY}, id="an impression of last week"),
    ],
)  # fmt: skip
async def test_late_data_bears_on_the_day_that_it_belongs_to(database, books, state, first, late, days):
    await books.record([event("other", "impression", NOON - 20 * DAY), *first])
    await gather(database, state, quiet)
    before = written(state)
    assert statuses(await books.record(late)) == ["accepted"]
    done = await gather(database, state, quiet)
    assert (done.events, done.brand_days, done.repaired) == (1, len(days), 0)
    await same_as_the_database(database, state)
    after = written(state)
    kept = {name for name, at in after.items() if before.get(name) == at}
    assert kept == before.keys() - {f"{day}.parquet" for day in days} - {"manifest.json"}


async def test_an_event_that_commits_after_greater_numbers_is_seen(database, books, state):
    """As with two shards' ledgers: a number is given before its transaction commits."""
    await books.record([event("a", "impression"), event("b", "impression", NOON - DAY)])

    async def renumber(event_id: str, seq: int) -> None:
        async with database.write() as connection:
            await connection.execute(update(events).where(E.event_id == event_id).values(seq=seq))

    await renumber("b", 1_000_000)
    await gather(database, state, quiet)
    await books.record([event("late", "impression", NOON - 7 * DAY)])
    await renumber("late", 999_990)
    done = await gather(database, state, quiet)
    assert (done.events, done.refreshed) == (1, 1)
    assert (await gather(database, state, quiet)).events == 0
    await same_as_the_database(database, state)


async def test_a_later_import_and_a_vanished_day_are_noticed(database, books, state, imported):
    await imported(("2024-04-01T00:00:00Z", 50), ("2024-04-02T00:00:00Z", 70))
    await gather(database, state, quiet)
    await imported(("2024-04-02T00:00:00Z", 80))
    done = await gather(database, state, quiet)
    assert done.refreshed >= 1
    seen = await same_as_the_database(database, state)
    assert seen["impressions"].tolist() == [50, 80]
    async with database.write() as connection:
        await connection.execute(delete(performance_hourly).where(P.day == dt.date(2024, 4, 1)))
    done = await gather(database, state, quiet)
    assert (done.days, done.refreshed, done.vanished) == (1, 0, 1)
    assert len(await same_as_the_database(database, state)) == 1
    assert files(state).keys() == {"2024-04-02.parquet", "manifest.json"}


async def test_an_import_that_is_not_complete_is_looked_at_until_it_is(database, books, state, imported):
    await imported(("2024-04-01T00:00:00Z", 50), ("2024-04-02T00:00:00Z", 70))
    async with database.write() as connection:
        await connection.execute(text("UPDATE imports SET sha256 = ''"))
    await gather(database, state, quiet)
    async with database.write() as connection:
        await connection.execute(update(performance_hourly).where(P.impressions == 50).values(impressions=51))
    await gather(database, state, quiet)
    assert (await same_as_the_database(database, state))["impressions"].tolist() == [51, 70]


ODD = {
    "days in between are missing": [{"ts": "2024-03-01T00:00:00Z"}, {"ts": "2024-04-30T00:00:00Z"}],
    "days out of order, one of them twice": [{"ts": f"2024-04-{day:02}T00:00:00Z"} for day in (9, 3, 9, 1)],
    "one day": [{}],
    "hours and a midnight": [{"ts": "2024-04-01T05:59:59Z"}, {"ts": "2024-04-01T00:00:00Z"}],
    "a cost without impressions": [{"impressions": "0", "clicks": "0", "conversions": "0", "cost": "7"}],
    "a revenue below zero": [{"revenue": "-3.5"}],
    "more conversions than clicks": [{"clicks": "1", "conversions": "9"}],
    "a cost that is not known beside one that is": [{"cost": ""}, {"slot_id": "t"}],
    "a score of zero, one below it, none": [{"placement_score": score} for score in ("0", "-0.0", "-1", "")],
    "ids that differ by case": [{"slot_id": "s"}, {"slot_id": "S"}],
}


@pytest.mark.parametrize("rows", ODD.values(), ids=ODD.keys())
async def test_odd_rows_come_back_as_they_are(database, state, tmp_path, rows):
    given = ("2024-04-01T00:00:00Z", "b", "p", "s", "mobile", "160x600", "0.5", "100", "3", "1", "0.5", "0.75")
    usual = dict(zip(CANONICAL, given, strict=True))
    path = tmp_path / "odd.csv"
    path.write_text("\n".join([",".join(CANONICAL), *(",".join((usual | row).values()) for row in rows), ""]))
    done = await import_file(database, path, say=quiet)
    assert done.rejected == 0
    assert (await gather(database, state, quiet)).rows == done.keys
    seen = await same_as_the_database(database, state)
    # Two sources with the same rows: which comes first is decided by nothing but what they say.
    await import_file(database, path, "other", say=quiet)
    await gather(database, state, quiet)
    assert len(await same_as_the_database(database, state)) == 2 * len(seen)


async def test_two_sources_rows_of_one_key_stand_in_one_order(database, state, imported):
    for number in (3, 1, 2):
        await imported(("2024-04-01T00:00:00Z", number), name=f"{number}.csv")
    await gather(database, state, quiet)
    assert (await same_as_the_database(database, state))["impressions"].tolist() == [1, 2, 3]


PLANTED = {
    "figures of another count": update(performance_hourly).where(P.period == "hour").values(impressions=1000),
    "an unknown cost": update(performance_hourly).where(P.kind == "event").values(cost_micros=None),
    "no row": delete(performance_hourly).where(P.kind == "event"),
    "no aggregate": delete(performance_hourly).where(P.kind == "aggregate"),
}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED.keys())
async def test_a_row_that_differs_from_its_events_is_repaired_and_told(database, books, state, planted):
    await books.record(a_bit_of_all())
    right = await figures(database)
    async with database.write() as connection:
        wrong = (await connection.execute(planted)).rowcount
    assert wrong
    told: list[str] = []
    done = await gather(database, state, told.append)
    assert done.repaired == wrong
    assert sum(line.startswith("warning: ") for line in told) == min(wrong, 20) + (wrong > 20)
    assert await figures(database) == right
    await same_as_the_database(database, state)
    assert (await gather(database, state, quiet, everything=True)).repaired == 0


async def test_a_row_too_many_goes_and_a_day_without_any_event_stays(database, books, state):
    await books.record(a_bit_of_all())
    right = await figures(database)
    async with database.read() as connection:
        (row, *_) = await connection.execute(select(performance_hourly).where(P.kind == "event", P.clicks > 0))
    twin, stranger = (dict(row._mapping) | {"key_hash": digit * 64} for digit in "01")
    other = dict(row._mapping) | {"key_hash": "2" * 64, "slot_id": "never"}
    stranger |= {"day": dt.date(2020, 1, 1), "hour": dt.datetime(2020, 1, 1, tzinfo=dt.UTC), "clicks": 0,
                 "impressions": 0}  # fmt: skip
    async with database.write() as connection:
        await connection.execute(insert(performance_hourly), [twin, other, stranger])
    told: list[str] = []
    done = await gather(database, state, told.append)
    assert (done.repaired, done.unfounded) == (2, 1)
    assert "rows but no event" in told[-1]
    assert (await same_as_the_database(database, state))["day"].min() == 18_262
    async with database.write() as connection:
        await connection.execute(delete(performance_hourly).where(P.key_hash == "1" * 64))
    assert await figures(database) == right


@pytest.mark.parametrize(
    "broken", [b"", b"PAR1" + b"rubbish" * 9, None], ids=["an empty file", "rubbish", "no file"]
)  # fmt: skip
async def test_a_damaged_day_is_made_anew_and_read_from_the_database_until_then(database, books, state, broken):
    await books.record(a_bit_of_all())
    await gather(database, state, quiet)
    right = files(state)
    path = state.root / "history" / f"{TODAY}.parquet"
    path.unlink()
    if broken is not None:
        path.write_bytes(broken)
    await same_as_the_database(database, state)
    assert (await gather(database, state, quiet)).refreshed == 1
    assert files(state) == right


@pytest.mark.parametrize(
    "manifest",
    [b"[1, 2]", b'{"format": 999999}', b"\xff\xfe", b'{"format": 1, "watermark": [1, "x", [[7]]]}'],
)
async def test_a_manifest_that_nobody_can_read_makes_everything_anew(database, books, state, manifest):
    await books.record(a_bit_of_all())
    await gather(database, state, quiet)
    right = files(state)
    (state.root / "history" / "manifest.json").write_bytes(manifest)
    (state.root / "history" / "2011-11-11.parquet").write_bytes(b"left behind")
    assert (await gather(database, state, quiet)).refreshed == 2
    assert files(state) == right


async def test_the_files_of_another_database_do_not_count(database, books, state, tmp_path, migrated_sqlite_file):
    await books.record(a_bit_of_all())
    await gather(database, state, quiet)
    other = tmp_path / "other.sqlite"
    other.write_bytes(migrated_sqlite_file.read_bytes())
    empty = Database(DatabaseSettings(url=f"sqlite+aiosqlite:///{other}"))
    assert (await same_as_the_database(empty, state)).empty
    assert (await gather(empty, state, quiet)).days == 0
    assert (await same_as_the_database(empty, state)).empty
    await empty.close()


async def test_a_database_that_began_anew_under_the_same_address_is_another(database, books, state):
    await books.record(a_bit_of_all())
    await gather(database, state, quiet)
    async with database.write() as connection:
        await connection.execute(text("UPDATE events SET content_hash = 'of another event'"))
    assert (await gather(database, state, quiet)).refreshed == 2


class Killed(Exception):
    """Stands for the end of the process."""


@contextmanager
def killed_at(database: Database, write: int) -> Iterator[None]:
    """What runs inside gets so many writes, of rows or of files, and half of one more file."""
    number = itertools.count()
    run_write = database.run_write

    def write_or_die(path: Path, content: str | bytes, *, durable: bool = False) -> None:
        if next(number) == write:
            path.parent.mkdir(exist_ok=True)
            whole = content.encode() if isinstance(content, str) else content
            path.with_name(f".{path.name}.0").write_bytes(whole[: len(whole) // 2])
            raise Killed
        atomic_write(path, content, durable=durable)

    async def run_or_die(work: Any, tries: int = 5) -> Any:
        if next(number) == write:
            raise Killed
        return await run_write(work, tries)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_store, "atomic_write", write_or_die)
        patch.setattr(database, "run_write", run_or_die)
        yield


async def test_a_run_that_is_killed_between_any_two_writes_is_finished_by_the_next(database, books, state, tmp_path):
    history = [
        a_bit_of_all(),
        [conversion("d", NOON - DAY, conversion_id="d"), update_of("u", conversion_id="c", status="approved")],
    ]
    clean, tried = State(tmp_path / "clean"), 0
    spoil = update(performance_hourly).where(P.impressions == 1, P.day == TODAY).values(impressions=2)
    for batch in history:
        await books.record(batch)
        right = await figures(database)
        for write in itertools.count():
            async with database.write() as connection:
                await connection.execute(spoil)
            try:
                with killed_at(database, write):
                    await gather(database, state, quiet)
            except Killed:
                tried += 1
                # Whatever lies in the folder now, what is read is no mixture of two states of a day.
                seen = await read(database, state, LAST)
                assert not seen.duplicated(["day", "hour", *ID_COLUMNS, "placement_score"]).any()
                continue
            break
        assert await figures(database) == right
        await gather(database, clean, quiet)
        assert files(state) == files(clean)
        await same_as_the_database(database, state)
    assert tried >= 8


async def test_two_at_once_do_it_once(database, books, state):
    await books.record(a_bit_of_all())
    done = await asyncio.gather(*(gather(database, state, quiet) for _ in range(2)))
    assert sorted(one.refreshed for one in done) == [0, 2]


# Whatever comes, in whatever order

NUMBERS = itertools.count()
TYPES = ("impression", "click", "conversion", "conversion_update", "aggregate")
PLACE = st.tuples(st.sampled_from("st"), st.sampled_from("xy"), st.sampled_from((None, 0.5, -0.0)))


@st.composite
def happenings(draw: st.DrawFn, brand_id: str) -> Event:
    """Of few names, so that they meet."""
    type_ = draw(st.sampled_from(TYPES))
    place = draw(PLACE) if type_ in ("impression", "click", "aggregate") else draw(st.none() | PLACE)
    fields: dict[str, Any] = {"slot_id": None, "device_type": None, "creative_type": None, "placement_score": None}
    if place is not None:
        fields = {"slot_id": place[0], "device_type": place[1], "creative_type": "z", "placement_score": place[2]}
    if type_ in ("click", "conversion", "conversion_update"):
        fields["click_id"] = draw(st.none() | st.sampled_from(("k1", "k2")))
    if type_ in ("conversion", "conversion_update"):
        fields["conversion_id"] = draw(st.sampled_from(("c1", "c2", "c3")))
        fields["status"] = draw(st.sampled_from((None, "pending", "approved", "rejected")))
    if type_ == "aggregate":
        fields |= {name: draw(st.integers(0, 3)) for name in ("impressions", "clicks", "conversions")}
        fields["period"] = draw(st.sampled_from(("hour", "day")))
    if type_ in ("conversion", "conversion_update", "aggregate"):
        fields["revenue_micros"] = draw(st.none() | st.integers(-5, 9))
    return Event(
        f"e{next(NUMBERS)}",
        type_,
        NOON + dt.timedelta(minutes=draw(st.sampled_from((-4321, -1500, -1, 0, 30, 60, 719, 720)))),
        brand_id,
        draw(st.sampled_from("pq")),
        cost_micros=draw(st.none() | st.integers(0, 9)),
        **fields,
    )


async def settled(database: Database, brand_ids: set[str]) -> dict[RowKey, Figures]:
    """What the ledger's rules make of the events, one by one and conversion by conversion."""
    async with database.read() as connection:
        recorded = [row for row in await connection.execute(select(events)) if row.brand_id in brand_ids]
    effects: list[Effect] = []
    groups: dict[tuple[str, str, str], list[Fact]] = {}
    for row in recorded:
        place = Placement(*(getattr(row, name) for name in Placement._fields)) if row.slot_id is not None else None
        of_event = {name: getattr(row, name) for name in Fact._fields if name not in ("place", "pricing_model")}
        fact = Fact(**of_event, place=place, pricing_model=None)
        if row.type in ("conversion", "conversion_update"):
            groups.setdefault((row.brand_id, row.partner_id, row.conversion_id), []).append(fact)
        else:
            effects.append(effect_of(fact))
    effects += [effect_of_group(facts) for facts in groups.values()]
    sums: dict[RowKey, Figures] = {}
    for one in effects:
        if one.row is not None:
            sums[one.row] = sums[one.row].plus(one.figures) if one.row in sums else one.figures
    return {key: figures for key, figures in sums.items() if key.kind != "event" or any(figures)}


async def counted(database: Database, brand_ids: set[str]) -> dict[RowKey, Figures | None]:
    """What a count gives while no row is there."""
    days = [TODAY + number * DAY for number in range(-5, 2)]
    one_by_one = [[brand_id] for brand_id in sorted(brand_ids)]
    looks = [await database.run_read(partial(recount, day=day, batches=one_by_one)) for day in days]
    return {one.key: one.counted for found in looks for one in found.differences}


async def play(url: str, state: State, batches: list[list[Event]]) -> None:
    database = Database(DatabaseSettings(url=url))
    try:
        ledger = await Ledger.open(database, clock=Clock())
        brand_ids = {one.brand_id for batch in batches for one in batch}
        for brand_id in brand_ids:
            await ledger.administration.put_brand(brand_id, BrandSettings())
        for batch in batches:
            await ledger.record(batch)
            done = await gather(database, state, quiet)
            assert (done.repaired, done.unfounded) == (0, 0)
            await same_as_the_database(database, state)
        right = await figures(database)
        async with database.write() as connection:
            await connection.execute(delete(performance_hourly).where(P.brand_id.in_(brand_ids)))
        assert await counted(database, brand_ids) == await settled(database, brand_ids)
        await gather(database, state, quiet, everything=True)
        async with database.write() as connection:
            await connection.execute(delete(performance_hourly).where(P.clicks == 0))
            await connection.execute(update(performance_hourly).values(cost_micros=1, revenue_micros=2))
        await gather(database, state, quiet, everything=True)
        assert await figures(database) == right, "the events alone say what the ledger said"
    finally:
        await database.close()


@settings(
    max_examples=8,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_the_events_alone_add_up_to_what_the_ledger_wrote(database_url, tmp_path, data):
    brand_ids = [f"b{next(NUMBERS)}" for _ in range(2)]  # each example has brands of its own in the one database
    one = st.sampled_from(brand_ids).flatmap(happenings)
    batches = data.draw(st.lists(st.lists(one, min_size=1, max_size=12), min_size=1, max_size=4))
    asyncio.run(play(database_url, State(tmp_path / "state"), batches))


# The command


@pytest.fixture
def here(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACELINE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PACELINE_DATABASE_URL", sqlite_url)
    return tmp_path


def test_the_command_says_what_it_did(here, capsys):
    path = here / "perf.csv"
    path.write_text(f"{','.join(CANONICAL)}\n2024-04-01T00:00:00Z,b,p,s,d,c,,1,0,0,,0.5\n")
    assert main(["import", str(path)]) == 0
    for options, refreshed in (([], 1), ([], 0), (["--all"], 1)):
        capsys.readouterr()
        assert main(["gather", "--json", *options]) == 0
        summary = json.loads(capsys.readouterr().out)  # and nothing else
        assert summary.keys() == set(Gathered._fields)
        assert (summary["refreshed"], summary["rows"], summary["newest"]) == (refreshed, 1, "2024-04-01")
        assert main(["gather", *options]) == 0
        assert "1 rows" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["gather"], ["import", "no-such-file.csv"], ["import", "/"]])
def test_the_command_makes_no_database_for_nothing(arguments, here, monkeypatch, capsys):
    monkeypatch.delenv("PACELINE_DATABASE_URL")
    assert main(arguments) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (here / "state").exists()


async def test_a_database_of_another_version_is_refused_in_a_line(database, state):
    async with database.write() as connection:
        at = (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one()
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        with pytest.raises(CannotMigrate, match=r"9999.*paceline migrate") as told:
            await gather(database, state, quiet)
    finally:
        async with database.write() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = :at"), {"at": at})
    assert "\n" not in str(told.value)


def test_the_command_refuses_in_a_line_what_it_cannot_use(here, sqlite_url, capsys):
    (here / "state").mkdir()
    in_the_way = here / "state" / "history"
    in_the_way.write_text("a file")
    test_path = here / "perf.csv"
    test_path.write_text(f"{','.join(CANONICAL)}\n2024-04-01T00:00:00Z,b,p,s,d,c,,1,0,0,,0.5\n")
    assert main(["import", str(test_path)]) == 0
    assert main(["gather"]) == 1
    assert str(in_the_way) in capsys.readouterr().err
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite+aiosqlite:///"))) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert main(["gather"]) == 1
    assert "newer Paceline" in capsys.readouterr().err
