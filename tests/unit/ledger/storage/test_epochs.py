"""Whatever the database raises, callers hear of it in the ledger's words."""

import datetime as dt
import sqlite3

import pytest
from sqlalchemy import Boolean, Column, Date, Integer, MetaData, Table, create_engine, exc, insert, select

from db import tables as t
from db.rows import TOGETHER, by_column, insert_columns
from ledger.domain.errors import Fenced, LedgerUnavailable, StatementRefused
from ledger.storage.epochs import available


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


@pytest.mark.parametrize("number", [1, TOGETHER - 1, TOGETHER, 2 * TOGETHER + 1])
def test_many_rows_are_written_as_sqlalchemy_writes_them(number):
    """To the character: text that stands for times is compared as text."""
    engine = create_engine("sqlite://")
    noon = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)
    rows = [
        {"id": id_, "day": noon.date(), "at": noon, "lasting": True, "until": None}
        if id_ % 2
        else {"id": id_, "day": noon.date(), "at": noon.replace(microsecond=id_), "lasting": False, "until": noon}
        for id_ in range(number)
    ]
    tables = [
        Table(
            name, MetaData(), Column("id", Integer), Column("day", Date), Column("at", t.UtcDateTime),
            Column("lasting", Boolean), Column("until", t.UtcDateTime),
        )
        for name in ("slowly", "at_once")
    ]  # fmt: skip
    with engine.begin() as connection:
        for table in tables:
            table.create(connection)
        connection.execute(insert(tables[0]), rows)
        insert_columns(connection, tables[1], by_column(rows))
        slowly, at_once = (connection.exec_driver_sql(f"SELECT * FROM {one.name} ORDER BY id").all() for one in tables)
        assert slowly == at_once and len(at_once) == number
        assert [dict(row._mapping) for row in connection.execute(select(tables[1]))] == rows
