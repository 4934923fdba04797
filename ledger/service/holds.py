"""Ends and shrinks holds: on release, and as time passes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from sqlalchemy import Connection

from ledger.bidding.terms import NEVER
from ledger.domain.messages import ENDED, NOT_FOUND, RELEASED, SHOWN, Release
from ledger.domain.reservation import RETURNED, DelayCurve, Reservation, linear
from ledger.service.budgets import Budgets
from ledger.service.directory import Clock, Directory
from ledger.storage.store import Store
from ledger.transaction.working_set import BudgetKey, WorkingSet, budget_keys


class Expired(NamedTuple):
    looked: int  # holds that were looked at
    goes_on: bool  # more may be due; False if nothing changed


class Holds:
    """The holds of wins. Methods that take a connection run inside a transaction."""

    def __init__(self, store: Store, directory: Directory, budgets: Budgets, clock: Clock) -> None:
        self._store, self._directory, self._budgets, self._clock = store, directory, budgets, clock
        self._curves: dict[str, DelayCurve] = {}

    def set_delay_curves(self, curves: Mapping[str, DelayCurve]) -> None:
        """Let these brands' holds for conversions shrink along these curves; other brands' shrink linearly."""
        self._curves = dict(curves)

    def release(self, connection: Connection, reservation_ids: Collection[str]) -> int:
        """Release holds. Returns how many were open; the others stay as they are."""
        now = self._clock()
        held = self._locked(connection, self._store.reservations.load(connection, reservation_ids))
        working_set = self._budgets.working_set(connection, now, _keys_of(held.values()))
        returned = sum(working_set.end(held[id_], RETURNED) for id_ in sorted(held))
        self._store.write(connection, working_set)
        return returned

    def give_back(self, connection: Connection, release: Release) -> dict[str, str]:
        """Release the holds that the caller may release. Returns what became of each, by id."""
        now, ids = self._clock(), set(release.reservation_ids)
        held = self._locked(connection, self._store.reservations.load(connection, ids))
        working_set = self._budgets.working_set(connection, now, _keys_of(held.values()))
        became = {id_: _given_back(working_set, held.get(id_), release.partner_ids) for id_ in sorted(ids)}
        self._store.write(connection, working_set)
        return became

    def expire(self, connection: Connection, most: int) -> Expired:
        """Expire or shrink the holds that are due, at most so many."""
        now, moved = self._clock(), 0
        found = self._store.reservations.due(connection, now, most)
        held = self._locked(connection, {one.reservation_id: one for one in found})
        due = [held[one.reservation_id] for one in found if _due_at(held[one.reservation_id]) <= now]
        if due:
            working_set = self._budgets.working_set(connection, now, _keys_of(due))
            for reservation in due:
                working_set.age(reservation, self._curves.get(reservation.brand_id, linear))
            self._store.write(connection, working_set)
            moved = sum(_due_at(working_set.current(one)) > now for one in due)
        return Expired(len(due), len(found) == most and (moved > 0 or len(due) < len(found)))

    def _locked(self, connection: Connection, found: Mapping[str, Reservation]) -> dict[str, Reservation]:
        """These reservations, read again after locking their brands, so that no other shard changes them."""
        if self._directory.shards == 1 or not found:
            return dict(found)
        self._directory.read_as_of(connection, {held.brand_id for held in found.values()}, self._clock())
        return self._store.reservations.load(connection, found)


def _given_back(working_set: WorkingSet, held: Reservation | None, partner_ids: frozenset[str] | None) -> str:
    if held is None or (partner_ids is not None and held.partner_id not in partner_ids):
        return NOT_FOUND
    if not held.is_open:
        return ENDED
    if held.confirmed:
        return SHOWN
    working_set.end(held, RETURNED)
    return RELEASED


def _due_at(reservation: Reservation) -> dt.datetime:
    return reservation.due_at or NEVER


def _keys_of(reservations: Iterable[Reservation]) -> set[BudgetKey]:
    return {key for held in reservations for key in budget_keys(held.brand_id, held.portfolio_id, held.day)}
