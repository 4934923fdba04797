"""The ledger's side of leases: what a replica's beat does to the books. Pure: `Beats` reads, and writes what it says.

A lease is debited from its budgets before the replica hears of it, and a win that was drawn from it is a hold from the
moment it is recorded. What a replica says of a lease is absolute ("I hold 40 that I have not drawn"), so that a lost
answer mends itself with the next beat: what the ledger has lent beyond that goes back.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ledger.domain.brand import Brand
from ledger.domain.budget import MONEY_MOST
from ledger.domain.budget_day import day_ends_at
from ledger.domain.errors import MoneyOutOfRange
from ledger.domain.messages import Grant, LeaseLine, Placement, WinRecord
from ledger.domain.reservation import OPEN, VOID, Lifetimes, Reservation, due_at, expires_at
from ledger.domain.reservation_ids import DecodedId
from ledger.transaction.reservation_batch import ReservationBatch
from ledger.transaction.working_set import LeaseKey, WorkingSet

logger = logging.getLogger("paceline.ledger")

SHARE_OF_ROOM = 2
"""A block is at most this part (1 ÷) of an even share of what is left: blocks shrink as the budget runs out."""

NOBODY = ""
"""The `sub` of a hold that an event has named before its replica recorded the win."""

Request = tuple[str, str]
"""sub, request_id: a request is paid for once."""


class Recorded(NamedTuple):
    """A win of a request that the books already have."""

    award_id: str
    reservation_id: str
    brand_id: str
    status: str


def block(least_micros: int, want_micros: int, room_micros: int | None, holders: int) -> int:
    """How much of a budget one replica gets; 0: there is not even the least that is of use.

    >>> block(10, 100, 1000, 4), block(10, 100, 30, 4), block(10, 100, 9, 4), block(10, 100, None, 4)
    (100, 10, 0, 100)
    """
    most = MONEY_MOST if room_micros is None else room_micros
    if least_micros > most:
        return 0
    fair = most // (SHARE_OF_ROOM * max(holders, 1))
    return max(least_micros, min(want_micros, fair), 0)


class LeaseGranting:
    """Does beats one after the other; each sees what the ones before it have moved.

    Args:
        brands: those that the beats name, as they are now.
        holds: reservations that are recorded already, of those that the beats bring.
        recorded: wins that the books have of these requests.
        holders: sessions that share the budgets.
        adopted: what events have adopted of sessions' wins that these have not recorded; they may have been
            drawn after the beat was made.
    """

    def __init__(
        self,
        working_set: WorkingSet,
        brands: Mapping[str, Brand],
        holds: Mapping[str, Reservation],
        recorded: Mapping[Request, Sequence[Recorded]],
        lifetimes: Lifetimes,
        holders: int,
        adopted: Mapping[LeaseKey, int] | None = None,
    ) -> None:
        self._working_set, self._brands, self._lifetimes, self._holders = working_set, brands, lifetimes, holders
        self._adopted = adopted or {}
        self._known = dict(holds)
        self._held_ids: set[str] = set()
        self._recorded = {request: list(wins) for request, wins in recorded.items()}
        self.rows: dict[str, dict[str, Any]] = {}
        """For each new reservation, the columns that only its record knows."""
        self.completed: dict[str, dict[str, Any]] = {}
        """The same for holds that an event had adopted before."""
        self.short: set[tuple[str, str | None, dt.date]] = set()
        """(brand, portfolio, day) whose budget was too short for somebody: who has some unused is asked for it."""

    # Wins

    def record_all(self, session_id: int, wins: Sequence[WinRecord], drawn: Mapping[str, DecodedId | None]) -> None:
        """`record` of each, in order; at once, where that makes no difference.

        Args:
            drawn: what the wins' ids say.
        """
        plain, totals = self._plain(session_id, wins, drawn)
        self._held_ids.update(win.reservation_id for win in plain)
        if len(plain) < len(wins):
            for win in wins:
                self.record(session_id, win, drawn[win.reservation_id])
        if plain:
            portfolio_of = {
                (key.brand_id, key.day): lent.portfolio_id for key in totals if (lent := self._working_set.lent(key))
            }
            decoded = [one for win in plain if (one := drawn[win.reservation_id]) is not None]
            portfolio_ids = [portfolio_of[win.where.brand_id, one.day] for win, one in zip(plain, decoded, strict=True)]
            batch = ReservationBatch(session_id, plain, decoded, portfolio_ids, self._working_set.now, self._lifetimes)
            self._working_set.hold_all(batch, totals)
            for win in plain:
                self._remember((win.sub, win.request_id), win, OPEN)

    def _plain(
        self, session_id: int, wins: Sequence[WinRecord], drawn: Mapping[str, DecodedId | None]
    ) -> tuple[list[WinRecord], dict[LeaseKey, int]]:
        """(wins of which, as of their requests, nothing is known yet; what they take from each lease).

        None, unless the leases have the money for all wins of the beat together: else their order decides.
        """
        plain: list[WinRecord] = []
        awards: dict[Request, str] = {}
        needed: dict[tuple[str, dt.date], int] = {}
        taken: dict[tuple[str, dt.date], int] = {}
        for win in wins:
            id_, request = win.reservation_id, (win.sub, win.request_id)
            if awards.setdefault(request, win.award_id) != win.award_id:
                return [], {}
            if id_ in self._known or id_ in self._held_ids:
                continue
            one = drawn[id_]
            if one is None or one.session_id != session_id:
                return [], {}
            key = win.where.brand_id, one.day
            needed[key] = needed.get(key, 0) + one.amount_micros
            if request not in self._recorded:
                taken[key] = taken.get(key, 0) + one.amount_micros
                plain.append(win)
        if len({win.reservation_id for win in plain}) < len(plain):
            return [], {}
        for (brand_id, day), micros in needed.items():
            lent = self._working_set.lent(LeaseKey(session_id, brand_id, day))
            if lent is None or micros > lent.leased_micros:
                return [], {}
        return plain, {LeaseKey(session_id, *key): micros for key, micros in taken.items()}

    def record(self, session_id: int, win: WinRecord, drawn: DecodedId | None) -> None:
        """A win becomes a hold; void, if its request has been paid for, or its money is no longer there.

        Args:
            drawn: what its id says.
        """
        if win.reservation_id in self._held_ids:
            return
        known, request = self._known.get(win.reservation_id), (win.sub, win.request_id)
        before = [one for one in self._recorded.get(request, ()) if one.status != VOID]
        paid = [one for one in before if one.award_id != win.award_id]
        if known is not None:
            if win.reservation_id not in self.completed and not known.award_id and not paid:
                self.completed[win.reservation_id] = {"award_id": win.award_id, **_recorded_columns(win)}
                self._remember(request, win, known.status)
            return
        if drawn is None or drawn.session_id != session_id:
            logger.error(
                "session %d reports a win that is not its own, not recorded: %s", session_id, win.reservation_id
            )
            return
        key = LeaseKey(session_id, win.where.brand_id, drawn.day)
        reservation = self._reservation(win.where, win.reservation_id, drawn, win.award_id)
        self.rows[win.reservation_id] = _recorded_columns(win)
        has_money = self._has_money(key, drawn)
        if has_money and not paid:
            self._working_set.hold(key, reservation)
        else:
            if has_money:
                self._working_set.take_back(key, drawn.amount_micros)
            same = [one.reservation_id for one in paid if one.brand_id == win.where.brand_id]
            self._working_set.void(replace(reservation, instead_id=same[0] if same else None))
        self._known[win.reservation_id] = self._working_set.new_reservations[win.reservation_id]
        self._remember(request, win, self._known[win.reservation_id].status)

    def adopt(self, reservation_id: str, drawn: DecodedId, place: Placement) -> Reservation | None:
        """The hold of a win that no replica has recorded yet, or ever will: an event names it.

        None: there is no money behind it, or its time is over.

        Args:
            drawn: what the id says, which is genuine.
        """
        key = LeaseKey(drawn.session_id, place.brand_id, drawn.day)
        if not self._has_money(key, drawn):
            return None
        reservation = self._reservation(place, reservation_id, drawn)
        if reservation.expires_at <= self._working_set.now:
            return None
        self._working_set.hold(key, reservation)
        self.rows[reservation_id] = {
            "sub": NOBODY,
            "request_id": reservation_id,
            "request_hash": "",
            "bid_id": "",
            **_place(place),
        }
        return reservation

    def _has_money(self, key: LeaseKey, drawn: DecodedId) -> bool:
        """What costs nothing needs no lease: the one that it was drawn on may have been drawn to its end since."""
        lent = self._working_set.lent(key)
        return drawn.amount_micros <= (0 if lent is None else lent.leased_micros)

    def _remember(self, request: Request, win: WinRecord, status: str) -> None:
        one = Recorded(win.award_id, win.reservation_id, win.where.brand_id, status)
        self._recorded.setdefault(request, []).append(one)

    def _reservation(self, where: Placement, reservation_id: str, drawn: DecodedId, award_id: str = "") -> Reservation:
        lent, brand = (
            self._working_set.lent(LeaseKey(drawn.session_id, where.brand_id, drawn.day)),
            self._brands.get(where.brand_id),
        )
        portfolio_id = brand.settings.portfolio_id if brand is not None else None
        created_at = min(drawn.created_at, self._working_set.now)
        end = expires_at(drawn.pricing_model, created_at, self._lifetimes)
        return Reservation(
            reservation_id=reservation_id,
            brand_id=where.brand_id,
            portfolio_id=portfolio_id if lent is None else lent.portfolio_id,
            partner_id=where.partner_id,
            pricing_model=drawn.pricing_model,
            day=drawn.day,
            amount_micros=drawn.amount_micros,
            held_micros=drawn.amount_micros,
            settled_micros=0,
            status=OPEN,
            created_at=created_at,
            expires_at=end,
            due_at=due_at(drawn.pricing_model, created_at, end, created_at),
            session_id=drawn.session_id,
            award_id=award_id,
        )

    # Leases

    def grant(self, session_id: int, line: LeaseLine) -> Grant | str | None:
        """Take back what a replica has not, and lend it what it wants. A grant, or why there is none, if it wants any.

        Raises:
            LeaseMismatch: the replica says that it holds what was never lent to it.
        """
        self._take_back_beyond(LeaseKey(session_id, line.brand_id, line.day), line.holds_micros)
        if line.want_micros <= 0:
            return None
        brand = self._brands.get(line.brand_id)
        if brand is None:
            return "brand_unknown"
        if not brand.settings.active:
            return "brand_paused"
        now = self._working_set.now
        day, portfolio_id = brand.day(now), brand.settings.portfolio_id
        if day not in line.days_lent:
            return None
        key = LeaseKey(session_id, line.brand_id, day)
        if (lent := self._working_set.lent(key)) is not None:
            portfolio_id = lent.portfolio_id
        room, owner = self._working_set.room(line.brand_id, portfolio_id, day)
        micros = block(line.least_micros, line.want_micros, room, self._holders)
        if not micros:
            self.short.add((line.brand_id, portfolio_id, day))
            if line.least_micros:
                return f"{owner}_budget"
            if not (line.lasting and lent is not None and lent.leased_micros and not lent.lasting):
                return None  # what it has stays as it is; else all of it becomes lasting
        try:
            self._working_set.lend(key, portfolio_id, micros, line.lasting)
        except MoneyOutOfRange:  # an unlimited budget has its end too
            return "brand_budget"
        ends_in_s = (day_ends_at(brand.settings.timezone, now) - now).total_seconds()
        return Grant(line.brand_id, day, micros, self._working_set.changed_leases[key].lasting, ends_in_s)

    def return_all(self, keys: Sequence[LeaseKey]) -> None:
        """A session is over: every lease of it goes back."""
        for key in keys:
            self._take_back_beyond(key, 0)

    def _take_back_beyond(self, key: LeaseKey, holds_micros: int) -> None:
        lent = self._working_set.lent(key)
        leased = 0 if lent is None else lent.leased_micros
        if holds_micros > leased + self._adopted.get(key, 0):
            raise LeaseMismatch(key, holds_micros, leased)
        if leased > holds_micros:
            self._working_set.take_back(key, leased - holds_micros)


class LeaseMismatch(Exception):
    """A replica's books and ours disagree to our disadvantage: its session must end."""

    def __init__(self, key: LeaseKey, holds_micros: int, leased_micros: int) -> None:
        super().__init__(key, holds_micros, leased_micros)
        self.key, self.holds_micros, self.leased_micros = key, holds_micros, leased_micros

    def __str__(self) -> str:
        return (
            f"session {self.key.session_id} says that it holds {self.holds_micros} µ of brand {self.key.brand_id} "
            f"for {self.key.day}, but the ledger has lent it {self.leased_micros} µ"
        )


def _recorded_columns(win: WinRecord) -> dict[str, Any]:
    return {
        "sub": win.sub,
        "request_id": win.request_id,
        "request_hash": win.request_hash,
        "bid_id": win.bid_id,
        **_place(win.where),
    }


def _place(where: Placement) -> dict[str, Any]:
    return {
        "slot_id": where.slot_id,
        "device_type": where.device_type,
        "creative_type": where.creative_type,
        "placement_score": where.placement_score,
    }
