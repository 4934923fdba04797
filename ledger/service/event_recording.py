"""Records a batch of events in one transaction: reads the rows they concern, applies the rules, writes the result."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from ledger.domain.brand import Brand
from ledger.domain.messages import Event, Placement, Result
from ledger.domain.reservation import Lifetimes, Reservation
from ledger.domain.reservation_ids import parse
from ledger.domain.settlement import CLICK, CONVERSIONS
from ledger.service.budgets import Budgets
from ledger.service.directory import Clock, Directory
from ledger.service.performance import BrandDay, Performance
from ledger.service.transactions import Transactions
from ledger.storage.store import Store
from ledger.transaction.event_posting import EventPosting
from ledger.transaction.lease_granting import LeaseGranting
from ledger.transaction.working_set import LeaseKey, WorkingSet


class _Adopted(NamedTuple):
    """The state that a transaction of events begins with."""

    working_set: WorkingSet
    leasing: LeaseGranting
    known: dict[str, Reservation]  # recorded ones that the events name


class EventRecording:
    def __init__(
        self,
        store: Store,
        directory: Directory,
        budgets: Budgets,
        performance: Performance,
        transactions: Transactions,
        lifetimes: Lifetimes,
        clock: Clock,
    ) -> None:
        self._store, self._directory, self._budgets, self._performance = store, directory, budgets, performance
        self._transactions, self._lifetimes, self._clock = transactions, lifetimes, clock

    async def record(self, events: Sequence[Event]) -> list[Result]:
        """See `Ledger.record`."""

        def work(connection: Connection) -> tuple[list[Result], set[BrandDay]]:
            now = self._clock()
            brands = self._directory.read_as_of(connection, {event.brand_id for event in events}, now)
            adopted = self._adopted(connection, events, now)
            working_set = adopted.working_set
            posting = self._posting(connection, events, brands, adopted)
            self._budgets.add(connection, working_set, posting.budget_keys)
            figures = self._store.events.figures(connection, posting.row_keys)
            results = posting.post(working_set, figures)
            self._store.events.insert_events(connection, posting.event_rows)
            self._store.events.complete_events(connection, posting.completed)
            self._store.events.put_figures(connection, figures, posting.changed_figures)
            self._store.write(connection, working_set, adopted.leasing.rows)
            return results, {(key.place.brand_id, key.hour.date()) for key in posting.changed_figures}

        results, changed = await self._transactions.move(work)
        self._performance.note_changed(changed)
        return results

    def _adopted(self, connection: Connection, events: Sequence[Event], now: dt.datetime) -> _Adopted:
        """Make holds for wins that these events name and that no replica has recorded yet.

        The replica may have died, or its next beat may be on its way; the win was drawn from its lease in any case.
        """
        named = {event.reservation_id for event in events if event.reservation_id is not None}
        claimed = {id_: one for id_ in named if (one := parse(id_)) is not None}
        known = self._store.reservations.load(connection, claimed)
        unknown = {id_: one for id_, one in claimed.items() if id_ not in known}
        sessions = self._store.sessions.load(connection, {one.drawn.session_id for one in unknown.values()})
        # Of several events that name the same win, only those of its own brand and partner are true.
        genuine = {
            id_: event
            for event in events
            if (id_ := event.reservation_id) is not None
            and (one := unknown.get(id_)) is not None
            and (session := sessions.get(one.drawn.session_id)) is not None
            and one.is_genuine(event.brand_id, event.partner_id, session.secret)
        }
        drawn = {id_: unknown[id_].drawn for id_ in genuine}
        keys = [LeaseKey(drawn[id_].session_id, event.brand_id, drawn[id_].day) for id_, event in genuine.items()]
        working_set = self._budgets.working_set(connection, now, (), self._store.leases.load(connection, keys))
        leasing = LeaseGranting(working_set, {}, {}, {}, self._lifetimes, 1)
        for id_, event in sorted(genuine.items()):
            leasing.adopt(id_, drawn[id_], _place(event))
        return _Adopted(working_set, leasing, known)

    def _posting(
        self, connection: Connection, events: Sequence[Event], brands: Mapping[str, Brand], adopted: _Adopted
    ) -> EventPosting:
        """The events, with all rows that they concern."""
        rows = self._store.events
        known = [event for event in events if event.brand_id in brands]
        hashes = rows.event_hashes(connection, [(event.brand_id, event.partner_id, event.event_id) for event in known])
        conversions = [event for event in known if event.type in CONVERSIONS]
        clicks = rows.clicks(
            connection,
            [
                (event.brand_id, event.click_id)
                for event in conversions
                if event.click_id is not None and (event.slot_id is None or event.reservation_id is None)
            ],
        )
        waiting = rows.waiting(
            connection,
            [(event.brand_id, event.click_id) for event in known if event.type == CLICK and event.click_id],
        )
        groups = rows.conversions(
            connection,
            [(event.brand_id, event.conversion_id) for event in conversions if event.conversion_id] + waiting,
        )
        named = [event.reservation_id for event in known] + [row.reservation_id for row in (*clicks, *groups)]
        reservations = self._reservations(connection, {id_ for id_ in named if id_ is not None}, adopted)
        return EventPosting(adopted.working_set.now, events, brands, hashes, clicks, groups, reservations)

    def _reservations(self, connection: Connection, ids: set[str], adopted: _Adopted) -> dict[str, Reservation]:
        """Reservations by the id that events name; for a void win, the one of its request that was recorded first."""
        known, new = adopted.known, adopted.working_set.new_reservations
        found = {id_: known[id_] for id_ in ids & known.keys()} | new
        found |= self._store.reservations.load(connection, ids - found.keys())
        instead = {id_: held.instead_id for id_, held in found.items() if held.instead_id is not None}
        first = self._store.reservations.load(connection, set(instead.values()))
        return found | first | {id_: first[other] for id_, other in instead.items() if other in first}


def _place(event: Event) -> Placement:
    """The win's placement, as far as the event names it."""
    unknown = event.slot_id or "", event.device_type or "", event.creative_type or ""
    return Placement(event.brand_id, event.partner_id, *unknown, event.placement_score)
