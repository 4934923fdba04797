"""Rows of `budget_days`, one for each owner and day, and of the journal of their movements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, insert, select

from db import tables as t
from db.rows import chunks, insert_columns, one_of, replace_rows
from ledger.domain.budget import Budget
from ledger.storage.epochs import Epochs
from ledger.transaction.working_set import BudgetKey, Entry, WorkingSet

_B = t.budget_days.c
_BUDGET = (
    _B.owner, _B.owner_id, _B.day, _B.budget_micros, _B.available_micros, _B.leased_micros, _B.reserved_micros,
    _B.settled_micros,
)  # fmt: skip
_INSERT_BUDGET = insert(t.budget_days)


class BudgetStore:
    """Rows of `budget_days`."""

    def load(self, connection: Connection, keys: Iterable[BudgetKey], lock: bool = False) -> list[Budget]:
        """The days that exist among these.

        Args:
            lock: lock the rows, to write them; another shard may be writing the same portfolio's old day.
        """
        key = (_B.owner, _B.owner_id, _B.day)
        query = select(*_BUDGET).order_by(*key)
        if lock:
            query = query.with_for_update()
        rows: list[Budget] = []
        for chunk in chunks(sorted(set(keys))):
            rows += [Budget(*row) for row in connection.execute(query.where(one_of(key, chunk, inner=1)))]
        return rows

    def write(self, connection: Connection, working_set: WorkingSet) -> None:
        """Write the budgets that have changed."""
        new: list[dict[str, Any]] = []
        old: list[dict[str, Any]] = []
        for key in sorted(working_set.changed_budgets):
            budget = working_set.changed_budgets[key]
            row = {
                **key._asdict(),
                "budget_micros": budget.budget_micros,
                "available_micros": budget.available_micros,
                "leased_micros": budget.leased_micros,
                "reserved_micros": budget.reserved_micros,
                "settled_micros": budget.settled_micros,
                "updated_at": working_set.now,
            }
            (old if key in working_set.existing else new).append(row)
        if new:
            connection.execute(_INSERT_BUDGET, new)
        replace_rows(connection, t.budget_days, old)


class JournalStore:
    """Rows of `ledger_journal`, which are inserted and never changed."""

    def __init__(self, epochs: Epochs) -> None:
        self._epochs = epochs

    def write(self, connection: Connection, working_set: WorkingSet) -> None:
        """Insert a row for each movement of the working set, with shard and epoch."""
        journal: list[dict[str, Sequence[Any]]] = [batch.entries() for batch in working_set.batches]
        if working_set.entries:
            journal.append(dict(zip(Entry._fields, zip(*working_set.entries, strict=True), strict=True)))
        for columns in journal:
            n = len(columns["kind"])
            columns |= {"shard": [self._epochs.shard] * n, "epoch": [self._epochs.epoch] * n}
            columns["at"] = [working_set.now] * n
            insert_columns(connection, t.ledger_journal, columns)
