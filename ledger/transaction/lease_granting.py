"""The ledger's side of leases: applies replicas' beats to a working set. Pure: `Beats` reads and writes the rows.

A lease is debited from its budgets before the replica gets it, and a win that was drawn from it becomes a hold when it
is recorded. A beat states what the replica holds of a lease ("40 that I have not drawn"), not what changed. So the beat
after a lost reply puts things right: what the ledger has lent beyond that is taken back.
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
from ledger.domain.messages import NO_DETAILS, Grant, LeaseLine, Placement, SlackLine, WinDetails, WinRecord
from ledger.domain.reservation import OPEN, VOID, Lifetimes, Reservation, due_at, expires_at
from ledger.domain.reservation_ids import DecodedId
from ledger.domain.slack import Price
from ledger.transaction.reservation_batch import ReservationBatch
from ledger.transaction.working_set import NO_MICROS, LeaseKey, SlackMicros, WorkingSet, budget_keys

logger = logging.getLogger("paceline.ledger")

SHARE_OF_ROOM = 2
"""A grant is at most 1 ÷ this of an even share of what is left, so that grants shrink as the budget runs out."""

NOBODY = ""
"""The `sub` of a hold that was made from an event, because no replica had recorded the win."""

Request = tuple[str, str]
"""sub, request_id: what identifies a request, which is paid for once."""


class Recorded(NamedTuple):
    """A win of a request that is recorded already."""

    award_id: str
    reservation_id: str
    brand_id: str
    status: str


def block(least_micros: int, want_micros: int, room_micros: int | None, holders: int) -> int:
    """How many micros of a budget one replica gets; 0 if less than `least_micros` is left.

    >>> block(10, 100, 1000, 4), block(10, 100, 30, 4), block(10, 100, 9, 4), block(10, 100, None, 4)
    (100, 10, 0, 100)
    """
    most = MONEY_MOST if room_micros is None else room_micros
    if least_micros > most:
        return 0
    fair = most // (SHARE_OF_ROOM * max(holders, 1))
    return max(least_micros, min(want_micros, fair), 0)


class LeaseGranting:
    """Applies beats one after the other; each sees what the ones before it have changed.

    Args:
        brands: those that the beats name, as they are now.
        holds: reservations by id, of the beats' wins that are recorded already.
        recorded: recorded wins of the beats' requests.
        holders: how many sessions share the budgets.
        adopted: micros by lease of holds that events have made for wins that no beat has recorded; the replica may
            have drawn them after it made its beat.
        details: by reservation id, what else is recorded of the beats' wins.
        prices: by brand id, what slack is measured with: the brand's, and the portfolio's if it has one.
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
        details: Mapping[str, WinDetails] | None = None,
        prices: Mapping[str, Sequence[Price]] | None = None,
    ) -> None:
        self._working_set, self._brands, self._lifetimes, self._holders = working_set, brands, lifetimes, holders
        self._adopted, self._details, self._prices = adopted or {}, details or {}, prices or {}
        self._known = dict(holds)
        self._held_ids: set[str] = set()
        self._recorded = {request: list(wins) for request, wins in recorded.items()}
        self.rows: dict[str, dict[str, Any]] = {}
        """By id of each new reservation, the columns that only its win's record has."""
        self.completed: dict[str, dict[str, Any]] = {}
        """The same for holds that were made from an event before."""
        self.short: set[tuple[str, str | None, dt.date]] = set()
        """(brand, portfolio, day) of budgets that were too short for a request: others' unused leases are recalled."""

    # Wins

    def record_all(self, session_id: int, wins: Sequence[WinRecord], drawn: Mapping[str, DecodedId | None]) -> None:
        """`record` each win, in order; as one batch where the result is the same.

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
            details = [self._details_of(win.reservation_id) for win in plain]
            now = self._working_set.now
            batch = ReservationBatch(session_id, plain, decoded, portfolio_ids, now, self._lifetimes, details)
            self._working_set.hold_all(batch, totals, _lacks(session_id, plain, decoded, details))
            for win in plain:
                self._remember((win.sub, win.request_id), win, OPEN)

    def _plain(
        self, session_id: int, wins: Sequence[WinRecord], drawn: Mapping[str, DecodedId | None]
    ) -> tuple[list[WinRecord], dict[LeaseKey, int]]:
        """(wins that can be recorded as one batch, what they take from each lease).

        These are wins of requests that have no recorded win. There are none unless the leases cover all wins of the
        beat: otherwise the order decides which wins are void.
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
        """Record a win as a hold; as void if its request has been paid for, or its lease does not cover it any more.

        Args:
            drawn: its decoded id.
        """
        if win.reservation_id in self._held_ids:
            return
        known, request = self._known.get(win.reservation_id), (win.sub, win.request_id)
        before = [one for one in self._recorded.get(request, ()) if one.status != VOID]
        paid = [one for one in before if one.award_id != win.award_id]
        if known is not None:
            if win.reservation_id not in self.completed and not known.award_id and not paid:
                self.completed[win.reservation_id] = {"award_id": win.award_id, **_recorded_columns(win)}
                if drawn is not None:
                    record = self._reservation(win.where, win.reservation_id, drawn, win.award_id)
                    key = LeaseKey(drawn.session_id, win.where.brand_id, drawn.day)
                    self._working_set.complete(known, record, key)
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
                lacks = SlackMicros(reservation.lack_micros, reservation.portfolio_lack_micros)
                self._take_back_slack(key, self._slack_lent(key).plus(-lacks))
            same = [one.reservation_id for one in paid if one.brand_id == win.where.brand_id]
            self._working_set.void(replace(reservation, instead_id=same[0] if same else None))
        self._known[win.reservation_id] = self._working_set.new_reservations[win.reservation_id]
        self._remember(request, win, self._known[win.reservation_id].status)

    def adopt(self, reservation_id: str, drawn: DecodedId, place: Placement) -> Reservation | None:
        """Make the hold of a win that an event names and that no replica has recorded.

        Args:
            drawn: its decoded id, which is genuine.

        Returns:
            None if the lease does not cover it any more, or it has expired.
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
        """Whether the lease covers the win. One that costs nothing needs none: its lease may be used up and gone."""
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
        created_at, details = min(drawn.created_at, self._working_set.now), self._details_of(reservation_id)
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
            **details._asdict(),
        )

    def _details_of(self, reservation_id: str) -> WinDetails:
        return self._details.get(reservation_id, NO_DETAILS)

    # Leases

    def grant(self, session_id: int, line: LeaseLine) -> Grant | str | None:
        """Take back what the replica does not hold, and lend it what it wants.

        Returns:
            A grant, or the reason why there is none (`brand_budget` …); None if it wants nothing.

        Raises:
            LeaseMismatch: the replica says that it holds more than it was lent.
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

    def grant_slack(self, session_id: int, line: LeaseLine, slack: SlackLine) -> tuple[int, int, int] | None:
        """Take back the slack that the replica does not hold, and lend it what it wants. After `grant`.

        Returns:
            What is added to its lease (see `Reply.slack`); None if there is less than the line's least.
        """
        key = LeaseKey(session_id, line.brand_id, line.day)
        self._take_back_slack(key, SlackMicros(slack.holds_micros, slack.portfolio_holds_micros))
        prices = self._prices.get(line.brand_id)
        lent = self._working_set.lent(key)
        if not slack.is_wanting or prices is None or lent is None:
            return None
        parts = []
        asked = (slack.least_micros, slack.want_micros), (slack.portfolio_least_micros, slack.portfolio_want_micros)
        owners = budget_keys(line.brand_id, lent.portfolio_id, line.day)
        for owner, price, (least, want) in zip(owners, prices, asked, strict=False):
            part = block(least, want, max(self._working_set.slack(owner).available(price), 0), self._holders)
            if part < least:
                return None
            parts.append(part)
        micros = SlackMicros(*parts)
        if micros == NO_MICROS:
            return None
        try:
            self._working_set.lend_slack(key, lent.portfolio_id, micros)
        except MoneyOutOfRange:
            return None
        return line.day.toordinal(), *micros

    def _slack_lent(self, key: LeaseKey) -> SlackMicros:
        lent = self._working_set.lent(key)
        return NO_MICROS if lent is None else SlackMicros(lent.slack_micros, lent.portfolio_slack_micros)

    def _take_back_slack(self, key: LeaseKey, holds: SlackMicros) -> None:
        """Take back what is lent beyond `holds`. A replica that says that it holds more gets no more for it."""
        lent = self._slack_lent(key)
        beyond = SlackMicros(max(lent.brand - max(holds.brand, 0), 0), max(lent.portfolio - max(holds.portfolio, 0), 0))
        self._working_set.lend_slack(key, None, -beyond)

    def return_all(self, keys: Sequence[LeaseKey]) -> None:
        """Take back all leases of a session that has ended."""
        for key in keys:
            self._take_back_beyond(key, 0)
            self._take_back_slack(key, NO_MICROS)

    def _take_back_beyond(self, key: LeaseKey, holds_micros: int) -> None:
        lent = self._working_set.lent(key)
        leased = 0 if lent is None else lent.leased_micros
        if holds_micros > leased + self._adopted.get(key, 0):
            raise LeaseMismatch(key, holds_micros, leased)
        if leased > holds_micros:
            self._working_set.take_back(key, leased - holds_micros)


class LeaseMismatch(Exception):
    """A replica says that it holds more of a lease than it was lent: its session must end."""

    def __init__(self, key: LeaseKey, holds_micros: int, leased_micros: int) -> None:
        super().__init__(key, holds_micros, leased_micros)
        self.key, self.holds_micros, self.leased_micros = key, holds_micros, leased_micros

    def __str__(self) -> str:
        return (
            f"session {self.key.session_id} says that it holds {self.holds_micros} µ of brand {self.key.brand_id} "
            f"for {self.key.day}, but the ledger has lent it {self.leased_micros} µ"
        )


def _lacks(
    session_id: int, wins: Sequence[WinRecord], drawn: Sequence[DecodedId], details: Sequence[WinDetails]
) -> dict[LeaseKey, SlackMicros]:
    """The slack that these wins take from each lease."""
    found: dict[LeaseKey, SlackMicros] = {}
    for win, one, more in zip(wins, drawn, details, strict=True):
        if more.lack_micros or more.portfolio_lack_micros:
            key = LeaseKey(session_id, win.where.brand_id, one.day)
            found[key] = found.get(key, NO_MICROS).plus(SlackMicros(more.lack_micros, more.portfolio_lack_micros))
    return found


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
