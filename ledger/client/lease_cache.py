"""An ingress replica's leases of one shard: draws wins from them in memory, makes beats, takes in the replies. Pure.

    beat = leases.beat(now_s)                  # wins, what is held, what is wanted
    reply = …the ledger…                       # then leases.heard(beat, reply, asked_s, now_s), or leases.failed(beat)
    if leases.refusal(offer, now_s) is None:   # in memory
        win = leases.draw(claim, award_id, offer, now_s)

One beat is under way at a time. Times are seconds of a monotonic clock. A lease's time runs from when its beat was
*sent*, so that the replica always stops drawing before the ledger takes the lease back.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from ledger.client.slack_lease import AHEAD_LACKS, ROAS_SLACK, SlackLease, lacks_of
from ledger.domain.budget import MONEY_MOST
from ledger.domain.messages import (
    NO_SLACK,
    Beat,
    BrandTerms,
    Claim,
    Grant,
    LeaseLine,
    Offer,
    Reply,
    SlackLine,
    Terms,
    Win,
    WinDetails,
    WinRecord,
)
from ledger.domain.reservation import CONVERSION_MODELS, Lifetimes
from ledger.domain.reservation_ids import ReservationIdMaker

NO_LEASE = "no_lease"
AHEAD_S = 4.0
"""A lease should last for so many seconds at the current rate of drawing…"""

AHEAD_WINS = 32
"""…or for so many wins of the highest recent amount, whichever is more."""

REFILL_SHARE = 0.5
"""Below this share of the wanted size, more is asked for while the rest is drawn on."""

RATE_HALF_LIFE_S = 2.0
RECENT_S = 0.5
"""A rate is taken over at least this long: two wins at one moment do not make a rate."""

DEAREST_DECAY = 0.9
REFUSED_S, REFUSED_MOST_S = 0.25, 4.0
"""Wait before a refused budget is asked for again; it doubles up to the second figure."""

IDLE_S = 60.0
"""A lease that nobody has drawn on for so long is returned."""

LOOK_AROUND_S = 1.0
"""How often all leases are checked for an end or idleness; in between only those that were drawn on."""

LINES_MOST = 1000
"""Most brands in one beat; the others follow in the next."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class SessionKey(NamedTuple):
    session_id: int
    secret: bytes


@dataclass(slots=True)
class Lease:
    day: dt.date
    ordinal: int  # of the day
    left_micros: int
    ends_s: float  # the brand's midnight
    lasting: bool  # may be drawn on for cpa and revshare
    used_s: float  # last drawn on
    looked_s: float  # when a beat last decided whether to ask for more
    drawn_micros: int = 0  # since then
    rate: float = 0.0  # micros a second
    dearest_micros: int = 0  # highest recent amount of a win
    slack: SlackLease = field(default_factory=SlackLease)


@dataclass(slots=True)
class _Refusal:
    reason: str
    least_micros: int  # refused; smaller offers may still fit
    until_s: float
    wait_s: float


@dataclass(slots=True)
class _Want:
    amount_micros: int  # of the dearest offer that waits
    lasting: bool
    lacks: tuple[int, int]  # of the offer that lacks most


class LeaseCache:
    """One replica's leases of one shard's budgets."""

    def __init__(self, lifetimes: Lifetimes) -> None:
        self._ttl_s, self._lasting_s = lifetimes.reservation_ttl_s, lifetimes.conversion_days * 86_400
        self.terms = Terms(version=-1, brands={})
        self._session: SessionKey | None = None
        self._maker = ReservationIdMaker(0, b"")
        self._leases: dict[str, Lease] = {}
        self._until_s = -1.0
        self._wall_ahead_s = 0.0  # the ledger's clock in seconds since 1970 − our monotonic clock
        self._number = 0
        self._sequence = 0
        self._wins: list[WinRecord] = []
        self._details: list[WinDetails] = []  # of the wins
        self._refused: dict[str, _Refusal] = {}
        self._slack_refused: dict[str, _Refusal] = {}
        self._wanted: dict[str, _Want] = {}
        self._touched: set[str] = set()
        self._recalled: set[str] = set()
        self._doubtful: set[tuple[str, dt.date]] = set()
        """Leases that a lost reply may have changed: the next beat states what we hold of them."""
        self._old_session: SessionKey | None = None
        """A lapsed session whose last wins have not been reported yet."""
        self._looked_s = 0.0

    @property
    def is_open(self) -> bool:
        return self._session is not None

    @property
    def has_old_session(self) -> bool:
        return self._old_session is not None

    @property
    def wins_waiting(self) -> int:
        """Wins that the ledger has not confirmed."""
        return len(self._wins)

    def left(self, brand_id: str) -> int:
        """Micros that can still be drawn from the brand's lease; 0 without one."""
        lease = self._leases.get(brand_id)
        return 0 if lease is None else lease.left_micros

    # For a request

    def refusal(self, offer: Offer, now_s: float) -> str | None:
        """Why this offer cannot be drawn now; None if it can. `no_lease`: the ledger might grant what it lacks."""
        brand_id, amount = offer.where.brand_id, offer.amount_micros
        lease = self._leases.get(brand_id)
        if (
            lease is not None
            and amount <= lease.left_micros
            and now_s < self._until_s
            and now_s < lease.ends_s
            and (lease.lasting or offer.pricing_model not in CONVERSION_MODELS)
        ):
            lacks = lacks_of(offer, self.terms.brands.get(brand_id))
            if lease.slack.covers(lacks):
                return None
            refused = self._slack_refused.get(brand_id)
            if refused is not None and now_s < refused.until_s and sum(lacks) >= refused.least_micros:
                return refused.reason
            return NO_LEASE
        refused = self._refused.get(brand_id)
        if refused is not None and now_s < refused.until_s and amount >= refused.least_micros:
            return refused.reason
        return NO_LEASE

    def draw(self, claim: Claim, award_id: str, offer: Offer, now_s: float) -> Win:
        """Draw a win from its lease. `refusal` must have returned None just before, with no await in between."""
        where, amount = offer.where, offer.amount_micros
        lease = self._leases[where.brand_id]
        lease.left_micros -= amount
        lease.drawn_micros += amount
        lease.used_s = now_s
        if amount > lease.dearest_micros:
            lease.dearest_micros = amount
        lacks = lacks_of(offer, self.terms.brands.get(where.brand_id))
        lease.slack.draw(lacks, now_s)
        self._touched.add(where.brand_id)
        self._sequence = (self._sequence + 1) & 0xFFFF_FFFF
        created_ms = int((now_s + self._wall_ahead_s) * 1000)
        model = offer.pricing_model
        reservation_id = self._maker.make(
            created_ms, self._sequence, amount, lease.ordinal, model, where.brand_id, where.partner_id
        )
        self._wins.append(
            WinRecord(reservation_id, award_id, claim.sub, claim.request_id, claim.request_hash, offer.bid_id, where)
        )
        revenue = int(min(offer.revenue_micros, MONEY_MOST))
        self._details.append(WinDetails(revenue, *lacks, offer.price_micros, offer.revenue_share))
        lives_s = self._lasting_s if model in CONVERSION_MODELS else self._ttl_s
        return Win(offer.bid_id, reservation_id, amount, dt.datetime.fromtimestamp(created_ms / 1000 + lives_s, dt.UTC))

    def want(self, offer: Offer) -> None:
        """Let the next beat ask for a lease, and for slack, that are large enough for this offer."""
        lasting = offer.pricing_model in CONVERSION_MODELS
        before = self._wanted.get(offer.where.brand_id)
        lacks = lacks_of(offer, self.terms.brands.get(offer.where.brand_id))
        if before is None:
            self._wanted[offer.where.brand_id] = _Want(offer.amount_micros, lasting, lacks)
        else:
            before.lacks = max(before.lacks[0], lacks[0]), max(before.lacks[1], lacks[1])
            before.amount_micros = max(before.amount_micros, offer.amount_micros)
            before.lasting = before.lasting or lasting

    # For a beat

    def until_next(self, every_s: float, now_s: float) -> float:
        """Seconds to the next beat. All replicas beat at the same time by the ledger's clock, to share transactions."""
        return every_s - (now_s + self._wall_ahead_s) % every_s

    def beat(self, now_s: float, seen: bytes = b"", is_last: bool = False) -> Beat:
        """Make the next beat. Call `heard` or `failed` for it before making another one.

        Args:
            seen: the demand since the last beat (`Demand.take`).
            is_last: nothing is drawn any more; the session ends.
        """
        known_version = self.terms.version
        self._number += 1
        wins, details = tuple(self._wins), tuple(self._details)
        if self._old_session is not None:
            old = self._old_session.session_id
            return Beat(old, self._number, wins, known_version=known_version, is_last=True, details=details)
        if self._session is None:
            return Beat(None, self._number, known_version=known_version)
        if is_last:
            self._leases.clear()
            return Beat(self._session.session_id, self._number, wins, is_last=True, seen=seen, details=details)
        pairs = list(self._lines(now_s))
        lines, slack = tuple(line for line, _ in pairs), tuple(slack for _, slack in pairs)
        if not any(map(any, slack)):
            slack = ()
        id_ = self._session.session_id
        return Beat(id_, self._number, wins, lines, known_version, seen=seen, details=details, slack=slack)

    def heard(self, beat: Beat, reply: Reply, asked_s: float, now_s: float) -> None:
        """Take in the beat's reply: terms, grants, refusals, recalls.

        Args:
            asked_s: when the beat was sent.
        """
        for line in beat.lines:
            self._doubtful.discard((line.brand_id, line.day))
        if reply.terms is not None:
            self._learn(reply.terms)  # what it makes doubtful, the next beat states
        del self._wins[: len(beat.wins)], self._details[: len(beat.wins)]
        if beat.is_last:
            self._old_session = None
            if self._session is not None and beat.session_id == self._session.session_id:
                self._lapse(None)
            return
        if not reply.is_open:
            # The beat's wins are recorded; wins drawn since go with the old session's last beat.
            self._lapse(self._session if reply.secret else None)
            return
        if beat.session_id is None:
            self._session = SessionKey(reply.session_id, reply.secret)
            self._maker = ReservationIdMaker(*self._session)
        self._until_s = asked_s + reply.lease_s
        self._wall_ahead_s = (reply.now - _EPOCH).total_seconds() - now_s
        for grant in reply.grants:
            self._take(grant, asked_s, now_s)
        least = {line.brand_id: line.least_micros + line.holds_micros for line in beat.lines if line.want_micros}
        for brand_id, reason in reply.refused.items():
            self._refuse(self._refused, brand_id, reason, least.get(brand_id, 0), now_s)
        self._take_slack(beat, reply, now_s)
        self._recalled.update(reply.recalled)

    def _refuse(
        self, refused: dict[str, _Refusal], brand_id: str, reason: str, least_micros: int, now_s: float
    ) -> None:
        before = refused.get(brand_id)
        wait_s = REFUSED_S if before is None else min(2 * before.wait_s, REFUSED_MOST_S)
        until_s = min(now_s + wait_s, self._midnight_s(brand_id))
        refused[brand_id] = _Refusal(reason, least_micros, until_s, wait_s)

    def _take_slack(self, beat: Beat, reply: Reply, now_s: float) -> None:
        """Add the slack that was lent to its leases, and note where there is none."""
        least = {
            line.brand_id: slack.least_micros + slack.portfolio_least_micros
            for line, slack in beat.slack_lines()
            if slack.is_wanting
        }
        for brand_id, least_micros in least.items():
            lent = reply.slack.get(brand_id)  # a ledger of the version before knows of no slack, and lends none
            if lent is None:
                self._refuse(self._slack_refused, brand_id, ROAS_SLACK, least_micros, now_s)
                continue
            lease = self._leases.get(brand_id)
            if lease is None or lease.ordinal != lent[0]:
                self._doubtful.add((brand_id, dt.date.fromordinal(lent[0])))
                continue
            lease.slack.brand.left_micros += lent[1]
            lease.slack.portfolio.left_micros += lent[2]
            self._slack_refused.pop(brand_id, None)

    def _midnight_s(self, brand_id: str) -> float:
        terms = self.terms.brands.get(brand_id)
        return math.inf if terms is None else terms.day_ends_at.timestamp() - self._wall_ahead_s

    def _learn(self, terms: Terms) -> None:
        """Take over new terms. Where a budget or its day has changed, forget refusals and return the lease."""
        before = self.terms.brands
        self.terms = terms if terms.is_whole else Terms(terms.version, before | terms.brands)
        for brand_id, new in terms.brands.items():
            old = before.get(brand_id)
            if old is not None and _limits(old) == _limits(new):
                continue
            self._refused.pop(brand_id, None)
            if old is not None and (lease := self._leases.pop(brand_id, None)) is not None:
                self._doubtful.add((brand_id, lease.day))

    def failed(self, beat: Beat) -> None:
        """The beat was not answered. It may have arrived, and its leases may have been granted without our knowing."""
        for line in beat.lines:
            days = line.days_lent if line.want_micros else [line.day]
            self._doubtful.update((line.brand_id, day) for day in days)

    def _lapse(self, session: SessionKey | None) -> None:
        """Drop all leases; nothing can be drawn until a new session is open. `session`: owes its last wins."""
        self._old_session, self._session = session, None
        self._leases.clear()
        self._doubtful.clear()
        self._until_s = -1.0
        self._sequence = 0

    def _take(self, grant: Grant, asked_s: float, now_s: float) -> None:
        lease = self._leases.get(grant.brand_id)
        if lease is not None and lease.day != grant.day:
            self._doubtful.add((grant.brand_id, lease.day))
            lease = None
        if lease is None:
            lease = self._leases[grant.brand_id] = Lease(grant.day, grant.day.toordinal(), 0, 0.0, False, now_s, now_s)
        lease.left_micros += grant.micros
        lease.lasting = grant.lasting  # holds for the whole lease
        lease.ends_s = asked_s + grant.ends_in_s
        self._refused.pop(grant.brand_id, None)

    def _lines(self, now_s: float) -> Iterable[tuple[LeaseLine, SlackLine]]:
        due = self._touched | self._wanted.keys() | self._recalled
        if now_s - self._looked_s >= LOOK_AROUND_S:
            self._looked_s = now_s
            due |= {
                brand_id
                for brand_id, lease in self._leases.items()
                if now_s >= lease.ends_s or now_s - lease.used_s > IDLE_S or lease.slack.is_idle(now_s)
            }
        in_order = sorted(due)
        now, later = in_order[:LINES_MOST], in_order[LINES_MOST:]
        lines = [
            line
            for brand_id in now
            for line in self._lines_of(brand_id, now_s, self._wanted.pop(brand_id, None), brand_id in self._recalled)
        ]
        self._touched = set(later)
        self._recalled &= self._touched
        # Doubtful leases go first: once a line has been granted something new of a day, "I hold nothing of that day"
        # would return the grant, too.
        doubtful = sorted(self._doubtful - {(line.brand_id, line.day) for line, _ in lines})
        stated = set(now)
        urgent = [one for one in doubtful if one[0] in stated]
        others = [one for one in doubtful if one[0] not in stated and one[0] not in self._wanted]
        for brand_id, day in [*urgent, *others[:LINES_MOST]]:
            lease = self._leases.get(brand_id)
            if lease is not None and lease.day == day:
                yield LeaseLine(brand_id, day, lease.left_micros), SlackLine(*lease.slack.holds)
            else:
                yield LeaseLine(brand_id, day, 0), NO_SLACK
        yield from lines

    def _lines_of(
        self, brand_id: str, now_s: float, want: _Want | None, is_recalled: bool
    ) -> Iterable[tuple[LeaseLine, SlackLine]]:
        lease = self._leases.get(brand_id)
        if lease is not None and now_s >= lease.ends_s:
            yield LeaseLine(brand_id, lease.day, 0), NO_SLACK  # its day is over, all of it goes back
            del self._leases[brand_id]
            lease = None
        if lease is None:
            terms = self.terms.brands.get(brand_id)
            if want is not None and terms is not None:
                amount = max(want.amount_micros, 1)  # a win that costs nothing needs a lease, too
                asked = SlackLine(0, 0, *want.lacks, *(AHEAD_LACKS * micros for micros in want.lacks))
                yield LeaseLine(brand_id, terms.day, 0, amount, AHEAD_WINS * amount, want.lasting), asked
            return
        line = self._budget_line(brand_id, lease, now_s, want, is_recalled)
        if brand_id not in self._leases:
            yield line or LeaseLine(brand_id, lease.day, 0), NO_SLACK
            return
        if want is not None:
            lease.slack.want(want.lacks, now_s)
        held = lease.slack.holds
        refused = self._slack_refused.get(brand_id)
        slack = lease.slack.line(now_s, refused is None or now_s >= refused.until_s)
        if line is not None or slack.is_wanting or lease.slack.holds != held:
            yield line or LeaseLine(brand_id, lease.day, lease.left_micros), slack

    def _budget_line(
        self, brand_id: str, lease: Lease, now_s: float, want: _Want | None, is_recalled: bool
    ) -> LeaseLine | None:
        """What the next beat says of a lease; None if nothing has to be said."""
        elapsed_s, lease.looked_s = now_s - lease.looked_s, now_s
        recent, keep = lease.drawn_micros / max(elapsed_s, RECENT_S), 0.5 ** (elapsed_s / RATE_HALF_LIFE_S)
        lease.rate = max(recent, lease.rate * keep + lease.drawn_micros * math.log(2) / RATE_HALF_LIFE_S)
        lease.drawn_micros = 0
        ahead = max(int(lease.rate * AHEAD_S), AHEAD_WINS * lease.dearest_micros)
        lease.dearest_micros = int(lease.dearest_micros * DEAREST_DECAY)
        if want is None and (is_recalled or now_s - lease.used_s > IDLE_S):
            # Others need it: keep what the next second will draw; nothing if nothing was drawn in the last second.
            lease.left_micros = min(lease.left_micros, int(lease.rate) if now_s - lease.used_s < 1.0 else 0)
            if not lease.left_micros:
                del self._leases[brand_id]
            return LeaseLine(brand_id, lease.day, lease.left_micros)
        if want is not None:
            left = lease.left_micros
            more = max(ahead, AHEAD_WINS * want.amount_micros) - left
            least = max(want.amount_micros - left, 0)
            return LeaseLine(brand_id, lease.day, left, least, max(more, least, 1), want.lasting or lease.lasting)
        if lease.left_micros < REFILL_SHARE * ahead:
            refused = self._refused.get(brand_id)
            if refused is None or now_s >= refused.until_s:
                more = ahead - lease.left_micros
                return LeaseLine(brand_id, lease.day, lease.left_micros, 0, more, lease.lasting)
        return None


def _limits(terms: BrandTerms) -> tuple[object, ...]:
    return terms.active, terms.day, terms.budget_micros, terms.portfolio_id, terms.portfolio_budget_micros
