"""Rows of `slack_days`, one for each owner and day that has confirmed wins or has lent slack."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, insert, select

from db import tables as t
from db.rows import chunks, one_of, replace_rows
from ledger.domain.slack import Slack
from ledger.transaction.working_set import BudgetKey, WorkingSet

_S = t.slack_days.c
_KEY = (_S.owner, _S.owner_id, _S.day)
_MICROS = ("revenue_micros", "cost_micros", "pending_micros", "leased_micros")


class SlackStore:
    """Rows of `slack_days`."""

    def load(self, connection: Connection, keys: Iterable[BudgetKey], lock: bool = False) -> list[Slack]:
        """The days that exist among these.

        Args:
            lock: lock the rows, to write them.
        """
        query = select(*_KEY, *(_S[name] for name in _MICROS)).order_by(*_KEY)
        if lock:
            query = query.with_for_update()
        rows: list[Slack] = []
        for chunk in chunks(sorted(set(keys))):
            rows += [Slack(*row) for row in connection.execute(query.where(one_of(_KEY, chunk, inner=1)))]
        return rows

    def write(self, connection: Connection, working_set: WorkingSet) -> None:
        """Write the days that have changed."""
        new: list[dict[str, Any]] = []
        old: list[dict[str, Any]] = []
        for key in sorted(working_set.changed_slacks):
            slack = working_set.changed_slacks[key]
            row = {**key._asdict(), **{name: getattr(slack, name) for name in _MICROS}, "updated_at": working_set.now}
            (old if key in working_set.existing_slacks else new).append(row)
        if new:
            connection.execute(insert(t.slack_days), new)
        replace_rows(connection, t.slack_days, old)
