"""Rows of `ledger_sessions`: the sessions of ingress replicas with a shard's ledger."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, bindparam, exists, insert, or_, select, update

from db import tables as t
from db.rows import chunks
from ledger.storage.epochs import Epochs

OPEN, LAPSED, CLOSED = "open", "lapsed", "closed"
_S = t.ledger_sessions.c
_RENEW_SESSION = (
    update(t.ledger_sessions)
    .where(_S.session_id == bindparam("k_session_id"))
    .values({name: bindparam(name) for name in ("status", "beat", "renewed_at")})
)
_HAS_LEASE = exists().where(t.leases.c.session_id == _S.session_id)


class LedgerSession(NamedTuple):
    """A replica's session with a shard's ledger."""

    session_id: int
    secret: bytes
    status: str  # open | lapsed | closed
    beat: int
    renewed_at: dt.datetime


class SessionStore:
    """Rows of `ledger_sessions`."""

    def __init__(self, epochs: Epochs) -> None:
        self._epochs = epochs

    def open(self, connection: Connection, secret: bytes, number: int, now: dt.datetime) -> LedgerSession:
        values = {
            "shard": self._epochs.shard, "secret": secret.hex(), "status": OPEN, "beat": number, "opened_at": now,
            "renewed_at": now,
        }  # fmt: skip
        (session_id,) = connection.execute(insert(t.ledger_sessions), values).inserted_primary_key or (0,)
        return LedgerSession(int(session_id), secret, OPEN, number, now)

    def load(self, connection: Connection, ids: Collection[int]) -> dict[int, LedgerSession]:
        found: dict[int, LedgerSession] = {}
        for chunk in chunks(sorted(ids)):
            found |= {one.session_id: one for one in self._where(connection, _S.session_id.in_(chunk))}
        return found

    def all_open(self, connection: Connection) -> list[LedgerSession]:
        """This shard's open sessions; for the first shard also those of shards that no longer exist."""
        own = _S.shard == self._epochs.shard
        if self._epochs.shard == 0:
            own = or_(own, _S.shard >= self._epochs.shards)
        return self._where(connection, and_(own, _S.status == OPEN))

    def _where(self, connection: Connection, condition: ColumnElement[bool]) -> list[LedgerSession]:
        query = select(_S.session_id, _S.secret, _S.status, _S.beat, _S.renewed_at).where(condition)
        return [LedgerSession(row[0], bytes.fromhex(row[1]), *row[2:]) for row in connection.execute(query)]

    def put(self, connection: Connection, sessions: Iterable[LedgerSession]) -> None:
        rows = [
            {"k_session_id": one.session_id, "status": one.status, "beat": one.beat, "renewed_at": one.renewed_at}
            for one in sorted(sessions)
        ]
        if rows:
            connection.execute(_RENEW_SESSION, rows)

    def has_emptied(self, connection: Connection) -> bool:
        """Whether `close_emptied` would find something."""
        return (
            connection.execute(select(_S.session_id).where(_S.status == LAPSED, ~_HAS_LEASE).limit(1)).first()
            is not None
        )

    def close_emptied(self, connection: Connection) -> None:
        """Close the lapsed sessions that hold no lease any more."""
        connection.execute(update(t.ledger_sessions).where(_S.status == LAPSED, ~_HAS_LEASE).values(status=CLOSED))
