"""The ledger's SQL. Every write happens under the epoch row's lock, and is given up if the epoch has moved on.

Statements are neutral between SQLite and MySQL. What is read inside a fenced transaction cannot change before it
commits, so an upsert is a look and then an INSERT or an UPDATE. Keys are sorted: two writers meet in the same order.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, InterfaceError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from db import tables as t
from db.brands import BrandSettings, PortfolioSettings
from db.rows import by_column, chunks, insert_columns, one_of, replace_rows
from db.session import Database
from ledger.domain.brand import Brand, Fit, Portfolio, Scheduled
from ledger.domain.budget import Budget
from ledger.domain.errors import Fenced, LayoutReplaced, LedgerUnavailable, StatementRefused
from ledger.domain.reservation import Reservation
from ledger.storage.event_store import EventStore
from ledger.transaction.lease_granting import NOBODY, Recorded
from ledger.transaction.working_set import BudgetKey, Entry, LeaseKey, Lent, WorkingSet

T = TypeVar("T")
OPEN, LAPSED, CLOSED = "open", "lapsed", "closed"
_BUDGET = (
    t.budget_days.c.owner, t.budget_days.c.owner_id, t.budget_days.c.day, t.budget_days.c.budget_micros,
    t.budget_days.c.available_micros, t.budget_days.c.leased_micros, t.budget_days.c.reserved_micros,
    t.budget_days.c.settled_micros,
)  # fmt: skip
_R = t.reservations.c
_RESERVATION = (
    _R.reservation_id, _R.brand_id, _R.portfolio_id, _R.partner_id, _R.pricing_model, _R.day, _R.amount_micros,
    _R.held_micros, _R.settled_micros, _R.status, _R.created_at, _R.expires_at, _R.due_at, _R.ended_at,
    _R.session_id, _R.award_id, _R.instead_id,
)  # fmt: skip
_COLUMNS = tuple(Reservation.__dataclass_fields__)
_VALUES_OF, _ID_OF = attrgetter(*_COLUMNS), attrgetter("reservation_id")
_S = t.ledger_sessions.c
_L = t.leases.c
_LEASE_KEY = and_(
    _L.session_id == bindparam("k_session_id"), _L.brand_id == bindparam("k_brand_id"), _L.day == bindparam("k_day")
)
_INSERT_BUDGET = insert(t.budget_days)
_UPDATE_RESERVATION = (
    update(t.reservations)
    .where(_R.reservation_id == bindparam("k_reservation_id"))
    .values({name: bindparam(name) for name in ("held_micros", "settled_micros", "status", "due_at", "ended_at")})
)
_COMPLETE_RESERVATION = (
    update(t.reservations)
    .where(_R.reservation_id == bindparam("k_reservation_id"))
    .values(
        {
            name: bindparam(name)
            for name in (
                "award_id", "sub", "request_id", "request_hash", "bid_id", "slot_id", "device_type", "creative_type",
                "placement_score",
            )
        }
    )
)  # fmt: skip
_DELETE_LEASE = delete(t.leases).where(_LEASE_KEY)
_RENEW_SESSION = (
    update(t.ledger_sessions)
    .where(_S.session_id == bindparam("k_session_id"))
    .values({name: bindparam(name) for name in ("status", "beat", "renewed_at")})
)
_EP = t.ledger_epochs.c
_LAYOUT = select(_EP.shard, _EP.epoch, _EP.shards, _EP.decided_at).order_by(_EP.shard).with_for_update()
_SEEN_EPOCH = select(_EP.epoch, _EP.shards).where(_EP.shard == bindparam("shard"))
_EPOCH = _SEEN_EPOCH.with_for_update()
_UNMOVED = ("budget", "lend", "take_back")


class Signature(NamedTuple):
    """Differs whenever another process wrote brands, portfolios, λ fits or imports."""

    brands: tuple[Any, ...]
    portfolios: tuple[Any, ...]
    lambda_seq: int
    imports: tuple[Any, ...]


class LedgerSession(NamedTuple):
    """An ingress replica, as a shard's ledger knows it."""

    session_id: int
    secret: bytes
    status: str  # open | lapsed | closed
    beat: int
    renewed_at: dt.datetime


class Store(EventStore):
    """A shard's rows, and what all shards read.

    Args:
        shards, decided_at: the layout: how many ledgers there are, and when that was decided (seconds since 1970).
    """

    def __init__(self, database: Database, shard: int = 0, shards: int = 1, decided_at: float = 0.0) -> None:
        if not 0 <= shard < shards:
            raise ValueError(f"there is no shard {shard} of {shards}")
        self.database, self.shard, self.shards, self.decided_at = database, shard, shards, decided_at
        self.epoch = 0

    async def take_epoch(self, now: dt.datetime) -> int:
        """Become the one writer of the shard: every older epoch's writes fail from here on.

        Who comes with another number of shards ends the epochs of all: no two layouts ever write side by side.

        Raises:
            LayoutReplaced: another number of shards was decided later.
            LedgerUnavailable: the database is away.
        """

        def work(connection: Connection) -> int:
            rows = connection.execute(_LAYOUT).all()
            epochs = {int(row.shard): int(row.epoch) for row in rows}
            newest = max(rows, key=lambda row: float(row.decided_at), default=None)
            decided_at = self.decided_at
            if newest is not None and newest.shards != self.shards:
                if newest.decided_at >= self.decided_at:
                    raise LayoutReplaced(self.shard, self.epoch, epochs.get(self.shard, 0), newest.shards)
                connection.execute(update(t.ledger_epochs).values(epoch=_EP.epoch + 1, taken_at=now))
            elif newest is not None:
                decided_at = max(decided_at, newest.decided_at)
            connection.execute(update(t.ledger_epochs).values(shards=self.shards, decided_at=decided_at))
            epoch = epochs.get(self.shard, 0) + 1
            values = {"shard": self.shard, "epoch": epoch, "taken_at": now}
            if self.shard not in epochs:
                connection.execute(insert(t.ledger_epochs), {**values, "shards": self.shards, "decided_at": decided_at})
            else:
                connection.execute(update(t.ledger_epochs).where(_EP.shard == self.shard).values(values))
            return epoch

        try:
            self.epoch = await available(self.database.run_write(work))
        except StatementRefused:  # another one made the shard's first epoch a moment ago
            self.epoch = await available(self.database.run_write(work))
        return self.epoch

    async def transact(self, work: Callable[[Connection], T]) -> T:
        """Run `work` as the one writer. It may run more than once; nothing of an earlier run stays.

        Raises:
            Fenced: another ledger has taken a newer epoch.
            LedgerUnavailable: the database is away; after a lost COMMIT the outcome is unknown.
        """

        def fenced(connection: Connection) -> T:
            self._confirm_epoch(connection, _EPOCH)
            return work(connection)

        try:
            return await available(self.database.run_write(fenced))
        except StatementRefused as error:
            # Two shards may begin the same day of a portfolio at once, when a brand has moved: the second finds it now.
            if self.shards == 1 or not isinstance(error.__cause__, IntegrityError):
                raise
            return await available(self.database.run_write(fenced))

    async def look(self, work: Callable[[Connection], T]) -> T:
        """`work` in a read transaction of the one writer: what it finds due is its own to do.

        Raises:
            Fenced: another ledger has taken a newer epoch.
            LedgerUnavailable: the database is away.
        """

        def confirmed(connection: Connection) -> T:
            self._confirm_epoch(connection, _SEEN_EPOCH)
            return work(connection)

        return await self.read(confirmed)

    def _confirm_epoch(self, connection: Connection, query: Any) -> None:
        found = connection.execute(query, {"shard": self.shard}).one_or_none()
        if found is None or found.epoch != self.epoch:
            newest = found.epoch if found is not None else 0
            if found is not None and found.shards != self.shards:
                raise LayoutReplaced(self.shard, self.epoch, newest, found.shards)
            raise Fenced(self.shard, self.epoch, newest)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """`work` in a read transaction.

        Raises:
            LedgerUnavailable: the database is away.
        """
        return await available(self.database.run_read(work))

    # Brands, portfolios, λ

    def signature(self, connection: Connection) -> Signature:
        row = (
            connection.execute(
                select(
                    select(func.count()).select_from(t.brands).scalar_subquery(),
                    select(func.max(t.brands.c.updated_at)).scalar_subquery(),
                    select(func.count()).select_from(t.portfolios).scalar_subquery(),
                    select(func.max(t.portfolios.c.updated_at)).scalar_subquery(),
                    select(func.max(t.lambda_fits.c.seq)).scalar_subquery(),
                    select(func.count()).select_from(t.imports).scalar_subquery(),
                    select(func.max(t.imports.c.imported_at)).scalar_subquery(),
                )
            )
        ).one()
        return Signature(tuple(row[0:2]), tuple(row[2:4]), int(row[4] or 0), tuple(row[5:7]))

    def brands(
        self, connection: Connection, ids: Collection[str] | None = None, lock: bool = False
    ) -> dict[str, Brand]:
        """These brands, or all.

        Args:
            lock: nobody else may write them, or move their money, before this transaction ends.
        """
        found: dict[str, Brand] = {}
        for chunk in [None] if ids is None else chunks(sorted(ids)):
            query = select(t.brands)
            if chunk is not None:
                query = query.where(t.brands.c.brand_id.in_(chunk)).order_by(t.brands.c.brand_id)
            if lock:
                query = query.with_for_update()
            for row in connection.execute(query):
                found[row.brand_id] = _brand(row)
        return found

    def members(self, connection: Connection, portfolio_id: str) -> dict[str, Brand]:
        """Brands that are, or are about to be, in a portfolio."""
        b = t.brands.c
        ids = connection.execute(
            select(b.brand_id).where(or_(b.portfolio_id == portfolio_id, b.next_portfolio_id == portfolio_id))
        )
        return self.brands(connection, list(ids.scalars()))

    def put_brand(self, connection: Connection, brand: Brand, is_new: bool, now: dt.datetime) -> None:
        start = brand.scheduled
        values = {
            **brand.settings.model_dump(),
            "next_portfolio_id": start.portfolio_id if start else None,
            "next_timezone": start.timezone if start else None,
            "next_from": start.start if start else None,
            "updated_at": now,
        }
        if is_new:
            connection.execute(insert(t.brands), {**values, "brand_id": brand.brand_id, "created_at": now})
        else:
            connection.execute(update(t.brands).where(t.brands.c.brand_id == brand.brand_id).values(values))

    def portfolios(self, connection: Connection) -> dict[str, Portfolio]:
        fields = tuple(PortfolioSettings.model_fields)
        return {
            row.portfolio_id: Portfolio(
                row.portfolio_id,
                PortfolioSettings.model_construct(**{name: getattr(row, name) for name in fields}),
                row.updated_at,
            )
            for row in connection.execute(select(t.portfolios))
        }

    def put_portfolio(self, connection: Connection, portfolio: Portfolio, is_new: bool, now: dt.datetime) -> None:
        values = {**portfolio.settings.model_dump(), "updated_at": now}
        if is_new:
            connection.execute(
                insert(t.portfolios), {**values, "portfolio_id": portfolio.portfolio_id, "created_at": now}
            )
        else:
            connection.execute(
                update(t.portfolios).where(t.portfolios.c.portfolio_id == portfolio.portfolio_id).values(values)
            )

    def fits(self, connection: Connection) -> dict[str, Fit]:
        """Each brand's newest λ fit that converged."""
        fits = t.lambda_fits.c
        newest = select(func.max(fits.seq)).where(fits.converged).group_by(fits.brand_id)
        query = select(fits.brand_id, *(fits[name] for name in Fit._fields)).where(fits.seq.in_(newest))
        return {row[0]: Fit(*row[1:]) for row in connection.execute(query)}

    def brand_money_moved(self, connection: Connection, brand_id: str) -> bool:
        """Whether any amount in the brand's currency has been held, spent or earned, or may be just now.

        Imports do not count, nor does a lease that went back undrawn.
        """
        lines = exists().where(t.ledger_journal.c.brand_id == brand_id, t.ledger_journal.c.kind.not_in(_UNMOVED))
        lent = exists().where(_L.brand_id == brand_id)
        e = t.events.c
        sums = exists().where(e.brand_id == brand_id, or_(e.cost_micros.is_not(None), e.revenue_micros.is_not(None)))
        return bool((connection.execute(select(or_(lines, lent, sums)))).scalar_one())

    def portfolio_money_moved(self, connection: Connection, portfolio_id: str) -> bool:
        """The same of a portfolio's members while they were in it."""
        j = t.ledger_journal.c
        lines = exists().where(j.portfolio_id == portfolio_id, j.kind.not_in(_UNMOVED))
        lent = exists().where(_L.portfolio_id == portfolio_id)
        return bool(connection.execute(select(or_(lines, lent))).scalar_one())

    # Budgets, reservations, journal

    def budgets(self, connection: Connection, keys: Iterable[BudgetKey], lock: bool = False) -> list[Budget]:
        """The days that exist among these.

        Args:
            lock: for a transaction that writes them: another shard may have the same portfolio's old day in hand.
        """
        key = (t.budget_days.c.owner, t.budget_days.c.owner_id, t.budget_days.c.day)
        query = select(*_BUDGET).order_by(*key)
        if lock:
            query = query.with_for_update()
        rows: list[Budget] = []
        for chunk in chunks(sorted(set(keys))):
            rows += [Budget(*row) for row in connection.execute(query.where(one_of(key, chunk, inner=1)))]
        return rows

    def reservations(self, connection: Connection, ids: Iterable[str]) -> dict[str, Reservation]:
        found: dict[str, Reservation] = {}
        row: Any
        for chunk in chunks(sorted(set(ids))):
            for row in connection.execute(select(*_RESERVATION).where(_R.reservation_id.in_(chunk))):
                found[row[0]] = Reservation(*row)
        return found

    def due(self, connection: Connection, now: dt.datetime, limit: int) -> list[Reservation]:
        query = select(*_RESERVATION).where(_R.due_at <= now).order_by(_R.due_at, _R.reservation_id).limit(limit)
        rows: Iterable[Any] = connection.execute(query)
        return [Reservation(*row) for row in rows]

    def recorded(
        self, connection: Connection, requests: Iterable[tuple[str, str]]
    ) -> dict[tuple[str, str], list[Recorded]]:
        """The wins of requests that were recorded before, by (sub, request_id)."""
        found: dict[tuple[str, str], list[Recorded]] = {}
        query = select(_R.sub, _R.request_id, _R.award_id, _R.reservation_id, _R.brand_id, _R.status)
        for chunk in chunks(sorted(set(requests))):
            for row in connection.execute(query.where(one_of((_R.sub, _R.request_id), chunk))):
                found.setdefault((row[0], row[1]), []).append(Recorded(*row[2:]))
        return found

    def called_to_mind(self, connection: Connection, sessions: Collection[int]) -> dict[LeaseKey, int]:
        """What events have made of these sessions' wins, Σ by lease, that no record has completed."""
        found: dict[LeaseKey, int] = {}
        for chunk in chunks(sorted(sessions)):
            query = select(_R.session_id, _R.brand_id, _R.day, func.sum(_R.amount_micros))
            query = query.where(_R.sub == NOBODY, _R.session_id.in_(chunk))
            for row in connection.execute(query.group_by(_R.session_id, _R.brand_id, _R.day)):
                found[LeaseKey(*row[:3])] = int(row[3])
        return found

    def complete_reservations(self, connection: Connection, said: Mapping[str, Mapping[str, Any]]) -> None:
        """What the record of a win adds to a hold that an event had brought to mind before."""
        if said:
            rows = [{"k_reservation_id": id_, **columns} for id_, columns in sorted(said.items())]
            connection.execute(_COMPLETE_RESERVATION, rows)

    # Sessions and leases

    def open_session(self, connection: Connection, secret: bytes, number: int, now: dt.datetime) -> LedgerSession:
        values = {
            "shard": self.shard, "secret": secret.hex(), "status": OPEN, "beat": number, "opened_at": now,
            "renewed_at": now,
        }  # fmt: skip
        (session_id,) = connection.execute(insert(t.ledger_sessions), values).inserted_primary_key or (0,)
        return LedgerSession(int(session_id), secret, OPEN, number, now)

    def sessions(self, connection: Connection, ids: Collection[int]) -> dict[int, LedgerSession]:
        found: dict[int, LedgerSession] = {}
        for chunk in chunks(sorted(ids)):
            found |= {one.session_id: one for one in self._sessions(connection, _S.session_id.in_(chunk))}
        return found

    def open_sessions(self, connection: Connection) -> list[LedgerSession]:
        """This shard's; the first one's too those of shards that there are no longer."""
        own = _S.shard == self.shard
        if self.shard == 0:
            own = or_(own, _S.shard >= self.shards)
        return self._sessions(connection, and_(own, _S.status == OPEN))

    def _sessions(self, connection: Connection, condition: ColumnElement[bool]) -> list[LedgerSession]:
        query = select(_S.session_id, _S.secret, _S.status, _S.beat, _S.renewed_at).where(condition)
        return [LedgerSession(row[0], bytes.fromhex(row[1]), *row[2:]) for row in connection.execute(query)]

    def put_sessions(self, connection: Connection, sessions: Iterable[LedgerSession]) -> None:
        rows = [
            {"k_session_id": one.session_id, "status": one.status, "beat": one.beat, "renewed_at": one.renewed_at}
            for one in sorted(sessions)
        ]
        if rows:
            connection.execute(_RENEW_SESSION, rows)

    def leases(self, connection: Connection, keys: Iterable[LeaseKey]) -> dict[LeaseKey, Lent]:
        found: dict[LeaseKey, Lent] = {}
        for chunk in chunks(sorted(set(keys))):
            found |= self._leases(connection, one_of((_L.session_id, _L.brand_id, _L.day), chunk, inner=1))
        return found

    def leases_of(self, connection: Connection, session_id: int) -> dict[LeaseKey, Lent]:
        return self._leases(connection, _L.session_id == session_id)

    def lenders(self, connection: Connection, short: Iterable[tuple[str, str | None, dt.date]]) -> dict[LeaseKey, Lent]:
        """Who has something of these brands' and portfolios' days, or of a lapsed session's."""
        found: dict[LeaseKey, Lent] = {}
        for brand_id, portfolio_id, day in sorted(short, key=repr):
            owned = _L.brand_id == brand_id if portfolio_id is None else _L.portfolio_id == portfolio_id
            found |= self._leases(connection, and_(owned, _L.day == day, _L.quarantined_until.is_(None)))
        return found

    def _leases(
        self, connection: Connection, condition: ColumnElement[bool], limit: int | None = None
    ) -> dict[LeaseKey, Lent]:
        query = select(_L.session_id, _L.brand_id, _L.day, _L.portfolio_id, _L.leased_micros, _L.lasting).limit(limit)
        return {LeaseKey(*row[:3]): Lent(*row[3:]) for row in connection.execute(query.where(condition))}

    def quarantine(
        self, connection: Connection, session_id: int, until: dt.datetime, lasting_until: dt.datetime
    ) -> None:
        """Nothing of this session's leases goes back before what it may have won with them has expired."""
        for lasting, end in ((False, until), (True, lasting_until)):
            connection.execute(
                update(t.leases)
                .where(_L.session_id == session_id, _L.lasting.is_(lasting))
                .values(quarantined_until=end)
            )

    def out_of_quarantine(self, connection: Connection, now: dt.datetime, limit: int) -> dict[LeaseKey, Lent]:
        return self._leases(connection, _L.quarantined_until <= now, limit)

    def has_emptied(self, connection: Connection) -> bool:
        """Whether `close_emptied` would find something."""
        holding = exists().where(_L.session_id == _S.session_id)
        return (
            connection.execute(select(_S.session_id).where(_S.status == LAPSED, ~holding).limit(1)).first() is not None
        )

    def close_emptied(self, connection: Connection) -> None:
        """Lapsed sessions that hold nothing any more."""
        holding = exists().where(_L.session_id == _S.session_id)
        connection.execute(update(t.ledger_sessions).where(_S.status == LAPSED, ~holding).values(status=CLOSED))

    def write(
        self, connection: Connection, page: WorkingSet, said: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        """Everything that the page has changed.

        Args:
            said: for each new reservation, the columns that only its record knows.
        """
        new, old = [], []
        for key in sorted(page.changed_budgets):
            budget = page.changed_budgets[key]
            values = {
                "budget_micros": budget.budget_micros,
                "available_micros": budget.available_micros,
                "leased_micros": budget.leased_micros,
                "reserved_micros": budget.reserved_micros,
                "settled_micros": budget.settled_micros,
                "updated_at": page.now,
            }
            if key in page.existing:
                old.append({**values, **key._asdict()})
            else:
                new.append({**values, **key._asdict()})
        if new:
            connection.execute(_INSERT_BUDGET, new)
        replace_rows(connection, t.budget_days, old)
        if page.new_reservations:
            columns = _columns(list(page.new_reservations.values()), said or {})
            insert_columns(connection, t.reservations, columns)
        for held in page.held:
            insert_columns(connection, t.reservations, held.reservations())
        if page.changed_reservations:
            rows = [
                {
                    "k_reservation_id": id_,
                    "held_micros": reservation.held_micros,
                    "settled_micros": reservation.settled_micros,
                    "status": reservation.status,
                    "due_at": reservation.due_at,
                    "ended_at": reservation.ended_at,
                }
                for id_, reservation in sorted(page.changed_reservations.items())
            ]
            connection.execute(_UPDATE_RESERVATION, rows)
        self._write_leases(connection, page)
        journal: list[dict[str, Sequence[Any]]] = [held.entries() for held in page.held]
        if page.entries:
            journal.append(dict(zip(Entry._fields, zip(*page.entries, strict=True), strict=True)))
        for columns in journal:
            n = len(columns["kind"])
            columns |= {"shard": [self.shard] * n, "epoch": [self.epoch] * n, "at": [page.now] * n}
            insert_columns(connection, t.ledger_journal, columns)

    def _write_leases(self, connection: Connection, page: WorkingSet) -> None:
        new, old, gone = [], [], []
        for key, lent in sorted(page.changed_leases.items()):
            if not lent.leased_micros:
                if key in page.existing_leases:
                    gone.append({"k_session_id": key.session_id, "k_brand_id": key.brand_id, "k_day": key.day})
            elif key in page.existing_leases:
                old.append({**key._asdict(), "leased_micros": lent.leased_micros, "lasting": lent.lasting})
            else:
                new.append({**key._asdict(), **lent._asdict(), "quarantined_until": None})
        if new:
            connection.execute(insert(t.leases), new)
        replace_rows(connection, t.leases, old)
        if gone:
            connection.execute(_DELETE_LEASE, gone)


def _columns(new: list[Reservation], said: Mapping[str, Mapping[str, Any]]) -> dict[str, Sequence[Any]]:
    """New reservations, in the order of their ids: they lie side by side."""
    new.sort(key=_ID_OF)
    said_rows = [said[one.reservation_id] for one in new]
    columns: dict[str, Sequence[Any]] = dict(zip(_COLUMNS, zip(*map(_VALUES_OF, new), strict=True), strict=True))
    return columns | by_column(said_rows)


async def available(work: Awaitable[T]) -> T:
    """Turn whatever the database raises into the ledger's own error.

    Raises:
        StatementRefused: one of the transaction's statements is at fault.
        LedgerUnavailable: the database is away, full, locked or too slow.
    """
    try:
        return await work
    except (OperationalError, InterfaceError, InternalError, PoolTimeout, OSError) as error:  # TimeoutError: an OSError
        raise LedgerUnavailable(_reason(error)) from error
    except SQLAlchemyError as error:
        if getattr(error, "connection_invalidated", False):
            raise LedgerUnavailable(_reason(error)) from error
        raise StatementRefused(_reason(error)) from error


def _reason(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return (str(cause).splitlines() or [type(cause).__name__])[0]


def _brand(row: Any) -> Brand:
    settings = BrandSettings.model_construct(**{name: getattr(row, name) for name in BrandSettings.model_fields})
    if row.next_from is None:
        return Brand(row.brand_id, settings, row.updated_at)
    return Brand(
        row.brand_id, settings, row.updated_at, Scheduled(row.next_portfolio_id, row.next_timezone, row.next_from)
    )
