"""`ledger.service.ledger.Ledger` over dicts, and replicas that talk with it."""

import datetime as dt
import random
from dataclasses import dataclass, field, replace

from db.brands import BrandSettings
from ledger.client.lease_cache import LeaseCache
from ledger.domain import reservation_ids
from ledger.domain.brand import Brand
from ledger.domain.messages import Beat, Grant, Reply
from ledger.service.sessions import LAPSE_GRACE_S
from ledger.storage.session_store import CLOSED, LAPSED, OPEN, LedgerSession
from ledger.transaction.working_set import BudgetKey, LeaseKey, SlackMicros
from tests.unit.ledger.books import LIVES, Books, event, is_genuine, offer

START = dt.datetime(2024, 5, 1, 9, tzinfo=dt.UTC)
LEASE_S = 5.0
TTL, LASTING = dt.timedelta(seconds=LIVES.reservation_ttl_s), dt.timedelta(days=LIVES.conversion_days)


class Ledger:
    """`ledger.service.ledger.Ledger` over dicts: one transaction a call."""

    def __init__(self) -> None:
        members = {id_: BrandSettings(daily_budget_micros=1000, portfolio_id="f") for id_ in "ab"}
        self.books = Books(**members, c=BrandSettings(daily_budget_micros=300))
        self.books.limits["portfolio", "f"] = 1500
        self.books.now = START
        self.sessions: dict[int, LedgerSession] = {}
        self.quarantined: dict[LeaseKey, dt.datetime] = {}
        self.recalls: set[tuple[int, str]] = set()
        self.portfolio_target = 1.0
        self.terms = self.books.terms(0)

    @property
    def now(self) -> dt.datetime:
        return self.books.now

    def refresh(self) -> None:
        self.books.portfolio_target = self.portfolio_target
        self.terms = self.books.terms(self.terms.version + 1)

    def beat(self, beat: Beat) -> Reply:
        open_sessions = sum(session.status == OPEN for session in self.sessions.values())
        details = {win.reservation_id: more for win, more in zip(beat.wins, beat.details, strict=True)}
        working_set, leasing = self.books.leasing(open_sessions, details)
        if beat.session_id is None:
            secret = random.Random(len(self.sessions)).randbytes(16)
            session = LedgerSession(len(self.sessions) + 1, secret, OPEN, 0, self.now)
        else:
            session = self.sessions[beat.session_id]
            if beat.number <= session.beat:
                return self._reply(session, beat)
        for win in beat.wins:
            leasing.record(session.session_id, win, reservation_ids.decode(win.reservation_id))
        status, answers, slack = session.status, [], {}
        if beat.is_last:
            leasing.return_all([key for key in working_set.leases if key.session_id == session.session_id])
            status = CLOSED
        elif status == OPEN:
            # LeaseMismatch is never raised: whatever gets lost, a replica's books are never above the ledger's.
            answers = [(line.brand_id, leasing.grant(session.session_id, line)) for line in beat.lines]
            for line, more in beat.slack_lines():
                given = leasing.grant_slack(session.session_id, line, more)
                if more.is_wanting:
                    slack[line.brand_id] = given
        session = session._replace(status=status, beat=beat.number, renewed_at=self.now)
        self.sessions[session.session_id] = session
        self.books.write_beats(working_set, leasing)
        short = {brand_id for brand_id, _, _ in leasing.short}
        self.recalls |= {(key.session_id, key.brand_id) for key in self.books.leases if key.brand_id in short}
        return replace(
            self._reply(session, beat),
            grants=tuple(answer for _, answer in answers if isinstance(answer, Grant)),
            refused={brand_id: answer for brand_id, answer in answers if isinstance(answer, str)},
            slack=slack,
        )

    def _reply(self, session: LedgerSession, beat: Beat) -> Reply:
        recalled = tuple(sorted(brand for id_, brand in self.recalls if id_ == session.session_id))
        self.recalls = {one for one in self.recalls if one[0] != session.session_id}
        terms = None if beat.known_version == self.terms.version else self.terms
        is_open = session.status == OPEN
        return Reply(
            session.session_id, session.secret, self.now, LEASE_S, is_open, recalled=recalled, terms=terms
        )  # fmt: skip

    def sweep(self) -> None:
        silent_since = self.now - dt.timedelta(seconds=LEASE_S + LAPSE_GRACE_S)
        for session in self.sessions.values():
            if session.status == OPEN and session.renewed_at <= silent_since:
                self.sessions[session.session_id] = session._replace(status=LAPSED)
                for key, lent in self.books.leases.items():
                    if key.session_id == session.session_id:
                        self.quarantined[key] = self.now + (LASTING if lent.lasting else TTL)
        working_set = self.books.working_set(self.books.budgets)
        for key in working_set.leases:
            if self.quarantined.get(key, self.now) < self.now:
                lent = self.books.leases[key]
                working_set.take_back(key, lent.leased_micros)
                working_set.lend_slack(key, None, SlackMicros(-lent.slack_micros, -lent.portfolio_slack_micros))
        self.books.write(working_set)
        working_set = self.books.working_set(self.books.budgets)
        for held in self.books.reservations.values():
            if held.due_at is not None and held.due_at <= self.now:
                working_set.age(held)
        self.books.write(working_set)

    def pay(self, number: int, brand_id: str, reservation_id: str, cost_micros: int, late: bool = False) -> None:
        """An impression, that may name a win that nobody has recorded.

        Args:
            late: its hold has ended.
        """
        one = event(f"i{number}", "impression", at=self.now, brand_id=brand_id, cost_micros=cost_micros)
        one = replace(one, reservation_id=reservation_id)
        drawn = reservation_ids.decode(reservation_id)
        if reservation_id not in self.books.reservations:
            assert drawn is not None
            assert is_genuine(reservation_id, brand_id, "p", self.sessions[drawn.session_id].secret)
            working_set, leasing = self.books.leasing()
            leasing.adopt(reservation_id, drawn, offer(brand_id=brand_id).where)
            self.books.write_beats(working_set, leasing)
        assert self.books.reservations[reservation_id].is_open is not late, "in time: its money is there"
        (result,) = self.books.record(one)
        assert result.status == "accepted"

    def release(self, reservation_id: str) -> None:
        self.books.end(reservation_id, "returned")

    def put(self, brand_id: str, changes: dict) -> None:
        brand = self.books.brands[brand_id]
        new = brand.settings.model_copy(update=changes)
        self.books.brands[brand_id] = Brand(brand_id, new, self.now)
        self._move_limit(BudgetKey("brand", brand_id, brand.day(self.now)), new.daily_budget_micros)
        self.refresh()

    def put_portfolio(self, budget: int) -> None:
        self._move_limit(BudgetKey("portfolio", "f", self.now.date()), budget)
        self.refresh()

    def _move_limit(self, key: BudgetKey, limit: int | None) -> None:
        self.books.limits[key.owner, key.owner_id] = limit
        if key in self.books.budgets:
            working_set = self.books.working_set([key])
            working_set.set_limit(key, limit)
            self.books.write(working_set)


@dataclass
class Replica:
    began: dt.datetime
    leases: LeaseCache = field(default_factory=lambda: LeaseCache(LIVES))
    flying: Beat | None = None
    asked_s: float = 0.0
    reply: Reply | None = None
