"""A batch of events in one transaction: read what bears on them, let the rules decide, write what they say."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from ledger.domain.brand import Brand
from ledger.domain.messages import Event, Placement, Result
from ledger.domain.reservation import Lifetimes, Reservation
from ledger.domain.reservation_ids import decode, is_genuine
from ledger.service.budgets import Budgets
from ledger.service.directory import Clock, Directory
from ledger.service.performance import BrandDay, Performance
from ledger.service.transactions import Transactions
from ledger.storage.store import Store
from ledger.transaction.event_posting import EventPosting
from ledger.transaction.lease_granting import LeaseGranting
from ledger.transaction.working_set import LeaseKey, WorkingSet


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
            working_set, leasing = self._adopted(connection, events, now)
            posting = self._posting(connection, events, brands, working_set)
            known_days = posting.budget_keys - working_set.existing
            working_set.add(self._store.budgets.load(connection, known_days, lock=True))
            figures = self._store.events.figures(connection, posting.row_keys)
            results = posting.post(working_set, figures)
            self._store.events.insert_events(connection, posting.event_rows)
            self._store.events.complete_events(connection, posting.completed)
            self._store.events.put_figures(connection, figures, posting.changed_figures)
            self._store.write(connection, working_set, leasing.rows)
            return results, {(key.place.brand_id, key.hour.date()) for key in posting.changed_figures}

        results, changed = await self._transactions.move(work)
        self._performance.note_changed(changed)
        return results

    def _adopted(
        self, connection: Connection, events: Sequence[Event], now: dt.datetime
    ) -> tuple[WorkingSet, LeaseGranting]:
        """A working set with the holds of wins that these events name and no replica has recorded yet.

        The replica may have died, or its next beat be on its way: the money was drawn from its lease all the same.
        """
        named = [(event.reservation_id, event) for event in events if event.reservation_id is not None]
        drawn = {id_: one for id_, _ in named if (one := decode(id_)) is not None}
        known = self._store.reservations.load(connection, drawn)
        sessions = self._store.sessions.load(connection, {drawn[id_].session_id for id_ in drawn.keys() - known.keys()})
        # Of several events that name the same win, only those of its own brand and partner are true.
        genuine = {
            id_: event
            for id_, event in named
            if id_ in drawn.keys() - known.keys()
            and (session := sessions.get(drawn[id_].session_id)) is not None
            and is_genuine(id_, event.brand_id, event.partner_id, session.secret)
        }
        leases = self._store.leases.load(
            connection,
            [LeaseKey(drawn[id_].session_id, event.brand_id, drawn[id_].day) for id_, event in genuine.items()],
        )
        working_set = self._budgets.working_set(connection, now, (), leases)
        leasing = LeaseGranting(working_set, {}, {}, {}, self._lifetimes, 1)
        for id_, event in sorted(genuine.items()):
            leasing.adopt(id_, _place(event))
        return working_set, leasing

    def _posting(
        self, connection: Connection, events: Sequence[Event], brands: Mapping[str, Brand], working_set: WorkingSet
    ) -> EventPosting:
        """The events with everything recorded that bears on them."""
        rows = self._store.events
        known = [event for event in events if event.brand_id in brands]
        hashes = rows.event_hashes(connection, [(event.brand_id, event.partner_id, event.event_id) for event in known])
        conversions = [event for event in known if event.type in ("conversion", "conversion_update")]
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
            [(event.brand_id, event.click_id) for event in known if event.type == "click" and event.click_id],
        )
        groups = rows.conversions(
            connection,
            [(event.brand_id, event.conversion_id) for event in conversions if event.conversion_id] + waiting,
        )
        named = [event.reservation_id for event in known] + [row.reservation_id for row in (*clicks, *groups)]
        reservations = self._reservations(connection, {id_ for id_ in named if id_ is not None}, working_set)
        return EventPosting(working_set.now, events, brands, hashes, clicks, groups, reservations)

    def _reservations(self, connection: Connection, ids: set[str], working_set: WorkingSet) -> dict[str, Reservation]:
        """By the id that was named; a request's void win stands for the one that was recorded first."""
        found = self._store.reservations.load(connection, ids) | working_set.new_reservations
        instead = {id_: held.instead_id for id_, held in found.items() if held.instead_id is not None}
        first = self._store.reservations.load(connection, set(instead.values()))
        return found | first | {id_: first[other] for id_, other in instead.items() if other in first}


def _place(event: Event) -> Placement:
    """Where the event says that the win was; an event need not say it."""
    unknown = event.slot_id or "", event.device_type or "", event.creative_type or ""
    return Placement(event.brand_id, event.partner_id, *unknown, event.placement_score)
