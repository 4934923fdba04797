"""Reads and writes many rows at a time, on SQLite and MySQL, quickly enough for the ledger's hot path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Select,
    Table,
    and_,
    bindparam,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.mysql import insert as mysql_insert

T = TypeVar("T")
CHUNK = 500
"""Most keys in one IN list."""

FETCHED_TOGETHER = 20_000
"""Rows that are in memory as Python objects at a time, where a result may have millions."""

TOGETHER = 64
"""Rows in one INSERT on SQLite; with more, each row costs more."""


def by_column(rows: Sequence[Mapping[str, Any]]) -> dict[str, Sequence[Any]]:
    """Turn rows with the same columns into columns."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def insert_columns(connection: Connection, table_: Table, columns: Mapping[str, Sequence[Any]]) -> None:
    """Insert rows as `connection.execute(insert(table_), rows)` does, at a quarter of the cost.

    SQLite gets many rows in one statement, because its driver releases the interpreter's lock for each statement and
    waits to get it back.
    """
    insertion = _insertion(table_, tuple(columns), connection.dialect)
    parameters = []
    for name, converted in insertion.columns:
        if converted is None:
            parameters.append(columns[name])
        else:  # a transaction's rows share most of their times
            known = {value: converted(value) for value in set(columns[name])}
            parameters.append([known[value] for value in columns[name]])
    rows = list(zip(*parameters, strict=True))
    whole = len(rows) - len(rows) % TOGETHER if connection.dialect.name == "sqlite" else 0
    if whole:
        statement = insertion.of(TOGETHER)
        connection.exec_driver_sql(
            statement, [tuple(chain.from_iterable(rows[at : at + TOGETHER])) for at in range(0, whole, TOGETHER)]
        )
    if rest := rows[whole:]:  # one statement each; MySQL's driver joins them
        connection.exec_driver_sql(insertion.of(1), rest)


class _Insertion(NamedTuple):
    head: str  # INSERT … VALUES
    values: str  # (?, …)
    columns: tuple[tuple[str, Callable[[Any], Any] | None], ...]  # names in order, each with its values' converter

    def of(self, rows: int) -> str:
        return self.head + ", ".join([self.values] * rows)


@lru_cache(maxsize=64)
def _insertion(table_: Table, names: tuple[str, ...], dialect: Dialect) -> _Insertion:
    compiled = insert(table_).compile(dialect=dialect, column_keys=list(names))
    head, values = str(compiled).split(" VALUES ")
    converters = (
        (name, table_.c[name].type.dialect_impl(dialect).bind_processor(dialect)) for name in compiled.positiontup or ()
    )
    return _Insertion(f"{head} VALUES ", values, tuple(converters))


def fetch_columns(connection: Connection, query: Select[Any]) -> Iterator[list[Sequence[Any]]]:
    """Yield a result by column, FETCHED_TOGETHER rows at a time.

    MySQL's driver is pure Python and takes 2 µs for a field, so there a row is read as one text, and split here.

    Args:
        query: selects text without tabs, integers and doubles; empty text is read as None.

    Yields:
        One sequence for each column, None for NULL. Nothing if there are no rows.
    """
    if connection.dialect.name != "mysql":
        cursor = connection.execute(query).cursor  # the driver's own: its text and numbers need no conversion
        assert cursor is not None
        while rows := cursor.fetchmany(FETCHED_TOGETHER):
            yield list(zip(*rows, strict=True))
        return
    columns = query.subquery().c
    packed = select(func.concat_ws("\t", *(func.coalesce(column, "") for column in columns)))
    types = [column.type.python_type for column in columns]
    for lines in connection.execute(packed).scalars().partitions(FETCHED_TOGETHER):
        fields = zip(*(line.split("\t") for line in lines), strict=True)
        yield [_converted(type_, given) for type_, given in zip(types, fields, strict=True)]


def _converted(type_: type, texts: Sequence[str]) -> Sequence[Any]:
    if all(texts):
        return texts if type_ is str else list(map(type_, texts))
    return [type_(one) if one else None for one in texts]


def replace_rows(connection: Connection, table_: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Set new values in existing rows. On MySQL that is an upsert, because its driver sends UPDATEs one by one."""
    if not rows:
        return
    keys = [column_.name for column_ in table_.primary_key]
    values = [name for name in rows[0] if name not in keys]
    if connection.dialect.name == "mysql":
        for chunk in chunks(rows):
            upsert = mysql_insert(table_).values(list(chunk))
            connection.execute(upsert.on_duplicate_key_update({name: upsert.inserted[name] for name in values}))
        return
    where = and_(*(table_.c[name] == bindparam(f"k_{name}") for name in keys))
    statement = update(table_).where(where).values({name: bindparam(name) for name in values})
    connection.execute(
        statement,
        [{(f"k_{name}" if name in keys else name): value for name, value in row.items()} for row in rows],
    )


def one_of(columns: Sequence[Any], keys: Iterable[Sequence[Any]], inner: int = -1) -> ColumnElement[bool]:
    """The condition that a row has one of these keys.

    It is of the form `a = 1 AND b IN (…) OR …`, for which SQLite uses the index; for `(a, b) IN (VALUES …)` it would
    read the whole table.

    Args:
        inner: index of the column with the most values, which gets the IN lists.
    """
    position = inner % len(columns)
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for key in keys:
        groups.setdefault((*key[:position], *key[position + 1 :]), []).append(key[position])
    outer = [*columns[:position], *columns[position + 1 :]]
    return or_(
        *(
            and_(*(column_ == value for column_, value in zip(outer, rest, strict=True)), columns[position].in_(values))
            for rest, values in groups.items()
        )
    )


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]
