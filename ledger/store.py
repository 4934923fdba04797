"""The ledger's SQL. Every write happens under the epoch row's lock, and is given up if the epoch has moved on.

Statements are neutral between SQLite and MySQL. What is read inside a fenced transaction cannot change before it
commits, so an upsert is a look and then an INSERT or an UPDATE. Keys are sorted: two writers meet in the same order.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Date,
    Double,
    Table,
    and_,
    bindparam,
    case,
    column,
    delete,
    exists,
    extract,
    func,
    insert,
    literal_column,
    or_,
    select,
    table,
    update,
)
from sqlalchemy.dialects.mysql import insert as mysql_insert
from sqlalchemy.exc import IntegrityError, InterfaceError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from db import Database
from db import tables as t
from db.brands import BrandSettings, PortfolioSettings
from db.performance import PRECEDENCE, key_hash
from ledger.account import MONEY_MOST, Budget
from ledger.brand import Brand, Fit, Portfolio, Scheduled
from ledger.errors import Fenced, LayoutReplaced, LedgerUnavailable, StatementRefused
from ledger.leasing import NOBODY, Recorded
from ledger.pacing import DaySums
from ledger.page import BudgetKey, LeaseKey, Lent, Page
from ledger.reservation import Reservation
from ledger.settlement import Fact, Figures, RowKey

T = TypeVar("T")
OPEN, LAPSED, CLOSED = "open", "lapsed", "closed"
CHUNK = 500
"""Keys in one IN list."""

EventKey = tuple[str, str, str]
"""brand_id, partner_id, event_id: unique for ever."""

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
_S = t.ledger_sessions.c
_L = t.leases.c
_LEASE_KEY = and_(
    _L.session_id == bindparam("k_session_id"), _L.brand_id == bindparam("k_brand_id"), _L.day == bindparam("k_day")
)
_E = t.events.c
_EVENT = (
    _E.brand_id, _E.partner_id, _E.event_id, _E.type, _E.occurred_at, _E.slot_id, _E.device_type, _E.creative_type,
    _E.placement_score, _E.day, _E.portfolio_id, _E.reservation_id, _E.click_id, _E.conversion_id, _E.status,
    _E.cost_micros, _E.revenue_micros,
)  # fmt: skip
_IS_CONVERSION = _E.type.in_(("conversion", "conversion_update"))
_P = t.performance_hourly.c
_FIGURES = (
    _P.key_hash, _P.impressions, _P.clicks, _P.conversions, _P.cost_micros, _P.revenue_micros,
    _P.pending_revenue_micros,
)  # fmt: skip

PERFORMANCE = table(
    "performance",
    column("brand_id", t.ID),
    column("day", Date),
    column("hour", t.UtcDateTime),
    *(column(name, BigInteger) for name in Figures._fields),
)
"""The view: of each day and tuple, the kind of rows that counts."""

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
_UPDATE_FIGURES = (
    update(t.performance_hourly)
    .where(_P.key_hash == bindparam("k_key_hash"))
    .values({name: bindparam(name) for name in Figures._fields})
)
_COMPLETE_EVENT = (
    update(t.events)
    .where(
        _E.brand_id == bindparam("k_brand_id"),
        _E.partner_id == bindparam("k_partner_id"),
        _E.event_id == bindparam("k_event_id"),
    )
    .values(
        {
            name: bindparam(name)
            for name in (
                "day", "portfolio_id", "reservation_id", "slot_id", "device_type", "creative_type", "placement_score"
            )
        }
    )
)  # fmt: skip
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


class Session(NamedTuple):
    """An ingress replica, as a shard's ledger knows it."""

    session_id: int
    secret: bytes
    status: str  # open | lapsed | closed
    beat: int
    renewed_at: dt.datetime


class Store:
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
        sums = exists().where(_E.brand_id == brand_id, or_(_E.cost_micros.is_not(None), _E.revenue_micros.is_not(None)))
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

    def open_session(self, connection: Connection, secret: bytes, number: int, now: dt.datetime) -> Session:
        values = {
            "shard": self.shard, "secret": secret.hex(), "status": OPEN, "beat": number, "opened_at": now,
            "renewed_at": now,
        }  # fmt: skip
        (session_id,) = connection.execute(insert(t.ledger_sessions), values).inserted_primary_key or (0,)
        return Session(int(session_id), secret, OPEN, number, now)

    def sessions(self, connection: Connection, ids: Collection[int]) -> dict[int, Session]:
        found: dict[int, Session] = {}
        for chunk in chunks(sorted(ids)):
            found |= {one.session_id: one for one in self._sessions(connection, _S.session_id.in_(chunk))}
        return found

    def open_sessions(self, connection: Connection) -> list[Session]:
        """This shard's; the first one's too those of shards that there are no longer."""
        own = _S.shard == self.shard
        if self.shard == 0:
            own = or_(own, _S.shard >= self.shards)
        return self._sessions(connection, and_(own, _S.status == OPEN))

    def _sessions(self, connection: Connection, condition: ColumnElement[bool]) -> list[Session]:
        query = select(_S.session_id, _S.secret, _S.status, _S.beat, _S.renewed_at).where(condition)
        return [Session(row[0], bytes.fromhex(row[1]), *row[2:]) for row in connection.execute(query)]

    def put_sessions(self, connection: Connection, sessions: Iterable[Session]) -> None:
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

    def write(self, connection: Connection, page: Page, said: Mapping[str, Mapping[str, Any]] | None = None) -> None:
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
            rows = [
                {**_reservation_row(reservation), **(said or {})[id_]}
                for id_, reservation in sorted(page.new_reservations.items())
            ]
            insert_rows(connection, t.reservations, rows)
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
        if page.entries:
            common = {"shard": self.shard, "epoch": self.epoch, "at": page.now}
            insert_rows(connection, t.ledger_journal, [{**entry._asdict(), **common} for entry in page.entries])

    def _write_leases(self, connection: Connection, page: Page) -> None:
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

    # Events and performance

    def event_hashes(self, connection: Connection, keys: Iterable[EventKey]) -> dict[EventKey, str]:
        found: dict[EventKey, str] = {}
        query = select(_E.brand_id, _E.partner_id, _E.event_id, _E.content_hash)
        for chunk in chunks(sorted(set(keys))):
            for row in connection.execute(query.where(one_of((_E.brand_id, _E.partner_id, _E.event_id), chunk))):
                found[(row[0], row[1], row[2])] = row[3]
        return found

    def clicks(self, connection: Connection, keys: Iterable[tuple[str, str]]) -> list[Any]:
        """Click events by (brand_id, click_id)."""
        return self._events(connection, (_E.brand_id, _E.click_id), keys, _E.type == "click")

    def conversions(self, connection: Connection, keys: Iterable[tuple[str, str]]) -> list[Any]:
        """Conversions and their updates by (brand_id, conversion_id)."""
        return self._events(connection, (_E.brand_id, _E.conversion_id), keys, _IS_CONVERSION)

    def waiting(self, connection: Connection, clicks: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Conversions that came before their click: (brand_id, conversion_id) by (brand_id, click_id)."""
        lacks = or_(_E.reservation_id.is_(None), _E.slot_id.is_(None))
        rows = self._events(connection, (_E.brand_id, _E.click_id), clicks, and_(_IS_CONVERSION, lacks))
        return [(row.brand_id, row.conversion_id) for row in rows]

    def _events(
        self, connection: Connection, columns: Sequence[Any], keys: Iterable[tuple[str, str]], condition: Any
    ) -> list[Any]:
        rows: list[Any] = []
        for chunk in chunks(sorted(set(keys))):
            rows += (connection.execute(select(*_EVENT).where(one_of(columns, chunk), condition))).all()
        return rows

    def insert_events(self, connection: Connection, rows: list[dict[str, Any]]) -> None:
        if rows:
            connection.execute(insert(t.events), rows)

    def complete_events(self, connection: Connection, completed: Mapping[EventKey, Fact]) -> None:
        """Fill in what recorded conversions inherit from a click that came after them."""
        rows = []
        for key in sorted(completed):
            fact = completed[key]
            names = ("slot_id", "device_type", "creative_type", "placement_score")
            place = {name: getattr(fact.place, name, None) for name in names}
            inherited = {"day": fact.day, "portfolio_id": fact.portfolio_id, "reservation_id": fact.reservation_id}
            rows.append(
                {**place, **inherited, **dict(zip(("k_brand_id", "k_partner_id", "k_event_id"), key, strict=True))}
            )
        if rows:
            connection.execute(_COMPLETE_EVENT, rows)

    def figures(self, connection: Connection, keys: Iterable[RowKey]) -> dict[RowKey, Figures]:
        by_hash = {hash_of(key): key for key in keys}
        found: dict[RowKey, Figures] = {}
        for chunk in chunks(sorted(by_hash)):
            for row in connection.execute(select(*_FIGURES).where(_P.key_hash.in_(chunk))):
                found[by_hash[row[0]]] = Figures(*row[1:])
        return found

    def results(self, connection: Connection, brand_id: str, start: dt.datetime, end: dt.datetime) -> tuple[int, int]:
        """Cost and approved revenue of the hours in [start, end); beyond ±`MONEY_MOST` that much is shown."""
        p = PERFORMANCE.c
        query = select(total(p.cost_micros), total(p.revenue_micros)).where(
            p.brand_id == brand_id, p.day.between(start.date(), end.date()), p.hour >= start, p.hour < end
        )
        cost, revenue = (max(-MONEY_MOST, min(int(value), MONEY_MOST)) for value in connection.execute(query).one())
        return cost, revenue

    def sums_since(self, connection: Connection, brand_ids: Sequence[str], start: dt.datetime) -> dict[str, DaySums]:
        """What these brands' hours from `start` on have brought; revenue only where its cost is known."""
        p = PERFORMANCE.c
        costed = p.cost_micros.is_not(None)
        query = (
            select(
                p.brand_id,
                total(p.impressions),
                total(p.clicks),
                total(p.conversions),
                total(p.cost_micros),
                total(case((costed, p.revenue_micros), else_=0)),
                total(case((costed, p.pending_revenue_micros), else_=0)),
            )
            .where(p.day >= start.date(), p.hour >= start)
            .group_by(p.brand_id)
        )
        found: dict[str, DaySums] = {}
        for chunk in chunks(brand_ids):
            for row in connection.execute(query.where(p.brand_id.in_(chunk))):
                found[row[0]] = DaySums(*map(int, row[1:]))
        return found

    def impressions_by_hour(self, connection: Connection, since: dt.date) -> list[tuple[str, int, float]]:
        """(brand, hour of the day in UTC, impressions) of rows that know their hour."""
        hour = extract("hour", _P.hour)
        query = (
            select(_P.brand_id, hour, total(_P.impressions))
            .where(_P.period == "hour", _P.day >= since)
            .group_by(_P.brand_id, hour)
        )
        return [(row[0], int(row[1]), float(row[2])) for row in connection.execute(query)]

    def put_figures(
        self, connection: Connection, existing: Collection[RowKey], changed: Mapping[RowKey, Figures]
    ) -> None:
        """Absolute values. An event row from which everything was taken back goes away."""
        new, old, gone = [], [], []
        for key_hash_, key in sorted((hash_of(key), key) for key in changed):
            figures = changed[key]
            if key.kind == "event" and not any(figures):
                if key in existing:
                    gone.append(key_hash_)
            elif key in existing:
                old.append({**figures._asdict(), "k_key_hash": key_hash_})
            else:
                new.append(
                    {
                        **figures._asdict(),
                        **key.place._asdict(),
                        "key_hash": key_hash_,
                        "kind": key.kind,
                        "precedence": PRECEDENCE[key.kind],
                        "source": "",
                        "period": key.period,
                        "hour": key.hour,
                        "day": key.hour.date(),
                    }
                )
        if new:
            connection.execute(insert(t.performance_hourly), new)
        if old:
            connection.execute(_UPDATE_FIGURES, old)
        for chunk in chunks(gone):
            connection.execute(delete(t.performance_hourly).where(_P.key_hash.in_(chunk)))


def hash_of(key: RowKey) -> str:
    return key_hash(key.kind, "", key.period, key.hour, *key.place)


def total(micros: ColumnElement[int | None]) -> ColumnElement[float]:
    """A sum to show. Exact up to 2^53; beyond, SQLite's own sum of integers would fail instead of rounding."""
    return func.coalesce(func.sum(micros + literal_column("0e0", Double)), 0.0)


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


def insert_rows(connection: Connection, table_: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """What `connection.execute(insert(table_), rows)` does, at a third of the cost: the hot path's rows are many.

    Args:
        rows: with the same columns each.
    """
    dialect, names = connection.dialect, tuple(rows[0])
    compiled = insert(table_).compile(dialect=dialect, column_keys=list(names))
    columns = []
    for name in compiled.positiontup or ():
        converted = table_.c[name].type.dialect_impl(dialect).bind_processor(dialect)
        if converted is None:
            columns.append([row[name] for row in rows])
        else:
            known: dict[Any, Any] = {}  # a transaction's rows share most of their times
            for row in rows:
                if (value := row[name]) not in known:
                    known[value] = converted(value)
            columns.append([known[row[name]] for row in rows])
    connection.exec_driver_sql(str(compiled), list(zip(*columns, strict=True)))


def replace_rows(connection: Connection, table_: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """New values for rows that exist. The driver of MySQL sends UPDATEs one by one; many rows at once are an upsert."""
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
    """Rows with one of these keys.

    SQLite reads a whole table for `(a, b) IN (VALUES …)`; for a = 1 AND b IN (…) it uses the index.

    Args:
        inner: the column with the many values; there is one alternative for each combination of the others.
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


def _brand(row: Any) -> Brand:
    settings = BrandSettings.model_construct(**{name: getattr(row, name) for name in BrandSettings.model_fields})
    if row.next_from is None:
        return Brand(row.brand_id, settings, row.updated_at)
    return Brand(
        row.brand_id, settings, row.updated_at, Scheduled(row.next_portfolio_id, row.next_timezone, row.next_from)
    )


def _reservation_row(reservation: Reservation) -> dict[str, Any]:
    return {name: getattr(reservation, name) for name in Reservation.__dataclass_fields__}
