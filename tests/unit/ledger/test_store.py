"""Whatever the database raises, callers hear of it in the ledger's words."""

import datetime as dt
import sqlite3

import pytest
from sqlalchemy import Boolean, Column, Date, Integer, MetaData, Table, create_engine, exc, insert, select

from db import tables as t
from db.rows import insert_rows
from ledger.errors import Fenced, LedgerUnavailable, StatementRefused
from ledger.store import available


async def raising(error):
    raise error


def wrapped(kind, text="gone", invalidated=False):
    return kind("SELECT 1", {}, sqlite3.Error(text), connection_invalidated=invalidated)


@pytest.mark.parametrize(
    "error",
    [
        wrapped(exc.OperationalError, "database is locked"),
        wrapped(exc.OperationalError, "database or disk is full"),
        wrapped(exc.OperationalError, "no such table: reservations"),
        wrapped(exc.InterfaceError),
        wrapped(exc.InternalError),
        wrapped(exc.ProgrammingError, invalidated=True),
        exc.TimeoutError("QueuePool limit reached"),
        TimeoutError(),
        ConnectionResetError("reset"),
        OSError(28, "No space left on device"),
    ],
)
async def test_a_database_that_cannot_is_away(error):
    with pytest.raises(LedgerUnavailable) as told:
        await available(raising(error))
    assert type(told.value) is LedgerUnavailable
    assert "SELECT" not in str(told.value)


@pytest.mark.parametrize(
    "error",
    [
        wrapped(exc.IntegrityError),
        wrapped(exc.DataError, "Data too long"),
        wrapped(exc.ProgrammingError, "Table 'x' doesn't exist"),
        wrapped(exc.DatabaseError, "file is not a database"),
        exc.StatementError("not a date", "SELECT 1", {}, ValueError("x")),
        exc.InvalidRequestError("odd"),
    ],
)
async def test_a_database_that_will_not_names_a_culprit(error):
    with pytest.raises(StatementRefused) as told:
        await available(raising(error))
    assert "SELECT" not in str(told.value)


async def test_other_errors_keep_their_names():
    for error in (Fenced(0, 1, 2), KeyError("bug")):
        with pytest.raises(type(error)):
            await available(raising(error))


def test_many_rows_are_written_as_sqlalchemy_writes_them(tmp_path):
    """To the character: text that stands for times is compared as text."""
    engine = create_engine("sqlite://")
    times = Table(
        "times", MetaData(), Column("id", Integer), Column("day", Date), Column("at", t.UtcDateTime),
        Column("lasting", Boolean), Column("until", t.UtcDateTime),
    )  # fmt: skip
    noon = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)
    rows = [
        {"id": 1, "day": noon.date(), "at": noon, "lasting": True, "until": None},
        {"id": 2, "day": noon.date(), "at": noon.replace(microsecond=5), "lasting": False, "until": noon},
    ]
    with engine.begin() as connection:
        times.create(connection)
        connection.execute(insert(times), rows)
        insert_rows(connection, times, rows)
        found = connection.exec_driver_sql("SELECT * FROM times ORDER BY id").all()
        assert found[0] == found[1] and found[2] == found[3]
        assert found[0] != found[2]
        assert [dict(row._mapping) for row in connection.execute(select(times))] == [*rows, *rows]
