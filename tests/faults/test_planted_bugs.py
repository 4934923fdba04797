"""The histories see what they are for: each of these bugs, put into the real code, breaks a promise in some of them."""

import asyncio
import datetime as dt
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from db.times import Bounds
from ledger.client import lease_cache
from ledger.domain import reservation, reservation_ids, settlement
from ledger.domain.brand import Brand
from ledger.domain.budget import Budget
from ledger.domain.errors import LedgerError, LedgerUnavailable
from ledger.domain.messages import Grant
from ledger.service import beats
from ledger.service.sessions import Sessions
from ledger.storage.budget_store import BudgetStore
from ledger.storage.epochs import Epochs
from ledger.storage.event_store import EventStore
from ledger.storage.reservation_store import ReservationStore
from ledger.transaction import event_posting, event_reading, lease_granting, working_set
from tests.faults.oracle import Broken
from tests.faults.simulation import Failed, Replica, run

TRIED = 400
"""Histories at most; the numbers below are where a bug was first seen, so that one or a few are enough."""


def wins_are_recorded_again(patch):
    before = lease_granting.LeaseGranting.record

    def record(self, session_id, win, drawn):
        self._known.clear()
        before(self, session_id, win, drawn)

    patch.setattr(lease_granting.LeaseGranting, "record", record)


def requests_are_paid_again(patch):
    patch.setattr(ReservationStore, "recorded", lambda *_: {})


def nobody_is_fenced(patch):
    patch.setattr(Epochs, "_confirm", lambda *_: None)


def holds_are_released_twice(patch):
    before = working_set.WorkingSet.end

    def end(self, held, status):
        if self.current(held).is_open:
            self._release(self.current(held), 1)
        return before(self, held, status)

    patch.setattr(working_set.WorkingSet, "end", end)


def leases_are_not_debited(patch):
    def lend(self, key, portfolio_id, micros, lasting):
        lent = self._leases.get(key) or working_set.Lent(portfolio_id)
        self._leases[key] = self.changed_leases[key] = lent._replace(
            leased_micros=lent.leased_micros + micros, lasting=lent.lasting or lasting
        )

    patch.setattr(working_set.WorkingSet, "lend", lend)


def portfolios_are_not_debited(patch):
    patch.setattr(
        working_set, "budget_keys", lambda brand_id, _, day: [working_set.BudgetKey(working_set.BRAND, brand_id, day)]
    )


def more_is_granted_than_is_lent(patch):
    before = lease_granting.LeaseGranting.grant

    def grant(self, session_id, line):
        answer = before(self, session_id, line)
        return answer._replace(micros=answer.micros + 1) if isinstance(answer, Grant) else answer

    patch.setattr(lease_granting.LeaseGranting, "grant", grant)


def more_is_lent_than_there_is(patch):
    patch.setattr(lease_granting, "block", lambda least, want, _, __: max(least, want // 2))
    patch.setattr(Budget, "lend", lambda self, micros: self._moved(leased=micros))


def holds_shrink_to_the_micro_below(patch):
    patch.setattr(reservation, "math", SimpleNamespace(ceil=math.floor))


def stale_beats_count(patch):
    patch.setattr(beats, "_is_stale", lambda *_: False)


def a_silent_replicas_leases_return_at_once(patch):
    def quarantine(self, connection, session_id, now):
        self._store.leases.quarantine(connection, session_id, now, now)

    patch.setattr(Sessions, "quarantine", quarantine)


def quarantine_forgets_that_conversions_take_days(patch):
    def quarantine(self, connection, session_id, now):
        until = now + dt.timedelta(seconds=self._lifetimes.reservation_ttl_s)
        self._store.leases.quarantine(connection, session_id, until, until)

    patch.setattr(Sessions, "quarantine", quarantine)


def any_lease_serves_conversions(patch):
    before = lease_cache.LeaseCache.refusal

    def refusal(self, offer, now_s):
        if (held := self._leases.get(offer.where.brand_id)) is None:
            return before(self, offer, now_s)
        is_lasting, held.lasting = held.lasting, True
        try:
            return before(self, offer, now_s)
        finally:
            held.lasting = is_lasting

    patch.setattr(lease_cache.LeaseCache, "refusal", refusal)


def leases_hold_from_the_answer_on(patch):
    before = lease_cache.LeaseCache.heard
    patch.setattr(
        lease_cache.LeaseCache, "heard", lambda self, beat, reply, _, now_s: before(self, beat, reply, now_s, now_s)
    )


def leases_never_end(patch):
    before = lease_cache.LeaseCache.heard

    def heard(self, beat, reply, asked_s, now_s):
        before(self, beat, reply, asked_s, now_s)
        self._until_s = math.inf

    patch.setattr(lease_cache.LeaseCache, "heard", heard)


def leases_outlive_midnight(patch):
    before = lease_cache.LeaseCache._take

    def take(self, grant, asked_s, now_s):
        before(self, grant._replace(ends_in_s=1e9), asked_s, now_s)

    patch.setattr(lease_cache.LeaseCache, "_take", take)


def something_is_awaited_between_check_and_draw(patch):
    patch.setattr(Replica, "between_check_and_draw", lambda _: asyncio.sleep(0))


def a_restated_conversion_is_paid_again(patch):
    before = settlement.change

    def change(old, new):
        return before(old, new)._replace(costs=before(settlement.NOTHING, new).costs)

    patch.setattr(event_posting, "change", change)


def events_count_twice(patch):
    patch.setattr(EventStore, "event_hashes", lambda *_: {})


def what_lies_ahead_is_taken(patch):
    patch.setattr(Bounds, "code", lambda *_: None)


def what_is_recorded_is_refused_for_its_time(patch):
    before = event_reading.EventReader._read
    patch.setattr(event_reading.EventReader, "_read", lambda self, event, _is_known: before(self, event, False))


def made_up_ids_are_believed(patch):
    patch.setattr(reservation_ids.ClaimedId, "is_genuine", lambda *_: True)


def an_event_before_its_record_finds_nothing(patch):
    patch.setattr(lease_granting.LeaseGranting, "adopt", lambda *_: None)


def an_event_before_its_record_leaves_the_lease_as_it_was(patch):
    before = lease_granting.LeaseGranting.adopt

    def adopt(self, reservation_id, drawn, place):
        leases, changed = dict(self._working_set._leases), dict(self._working_set.changed_leases)
        held = before(self, reservation_id, drawn, place)
        self._working_set._leases, self._working_set.changed_leases = leases, changed
        return held

    patch.setattr(lease_granting.LeaseGranting, "adopt", adopt)


def a_win_drawn_while_its_beat_is_under_way_ends_the_session(patch):
    patch.setattr(ReservationStore, "adopted", lambda *_: {})


def what_a_lost_answer_lent_is_forgotten(patch):
    patch.setattr(lease_cache.LeaseCache, "failed", lambda *_: None)


def a_lost_answer_loses_wins(patch):
    before = lease_cache.LeaseCache.failed

    def failed(self, beat):
        before(self, beat)
        self._wins.clear()

    patch.setattr(lease_cache.LeaseCache, "failed", failed)


def a_lease_is_of_whatever_day_it_is(patch):
    before = lease_granting.LeaseGranting.grant

    def grant(self, session_id, line):
        brand = self._brands.get(line.brand_id)
        if line.want_micros and brand is not None:
            before(self, session_id, line._replace(want_micros=0))
            day = brand.day(self._working_set.now)
            lent = self._working_set.lent(working_set.LeaseKey(session_id, line.brand_id, day))
            line = line._replace(day=day, holds_micros=0 if lent is None else lent.leased_micros)
        return before(self, session_id, line)

    patch.setattr(lease_granting.LeaseGranting, "grant", grant)


def what_is_doubtful_is_stated_last(patch):
    before = lease_cache.LeaseCache._lines
    patch.setattr(lease_cache.LeaseCache, "_lines", lambda self, now_s: reversed(list(before(self, now_s))))


def days_are_utc(patch):
    patch.setattr(Brand, "day", lambda _, at: at.date())


def silence_is_forgiven(patch):
    patch.setattr(Sessions, "lapse", lambda *_: None)


def a_last_beat_returns_nothing(patch):
    patch.setattr(lease_granting.LeaseGranting, "return_all", lambda *_: None)


def balances_are_remembered(patch):
    before = BudgetStore.load
    known: dict[tuple[object, ...], Budget] = {}

    def load(self, connection, keys, lock=False):
        for one in before(self, connection, keys, lock=lock):
            known.setdefault((id(self), one.owner, one.owner_id, one.day), one)
        found = (known.get((id(self), *key)) for key in set(keys))
        return [one for one in found if one is not None]

    patch.setattr(BudgetStore, "load", load)


def a_win_without_money_forgets_its_portfolio(patch):
    before = lease_granting.LeaseGranting._reservation

    def made(self, where, reservation_id, drawn, award_id=""):
        held = before(self, where, reservation_id, drawn, award_id)
        lent = self._working_set.lent(working_set.LeaseKey(drawn.session_id, where.brand_id, drawn.day))
        return held if lent is not None else replace(held, portfolio_id=None)

    patch.setattr(lease_granting.LeaseGranting, "_reservation", made)


def a_failed_commit_counts_as_done(patch):
    """The answer leaves before the transaction has ended."""
    before = Epochs.transact

    async def transact(self, work):
        answers = []

        def kept(connection):
            answers.append(work(connection))
            return answers[-1]

        try:
            return await before(self, kept)
        except LedgerUnavailable:
            if not answers:
                raise
            return answers[-1]

    patch.setattr(Epochs, "transact", transact)


def a_win_is_confirmed_by_each_of_its_events(patch):
    def confirm(self, held):
        before = self.current(held)
        if before.status != reservation.VOID:
            self._confirm(before)
            self.changed_reservations[before.reservation_id] = before.confirm()

    patch.setattr(working_set.WorkingSet, "confirm", confirm)


def wins_are_confirmed_before_they_are_shown(patch):
    before = working_set.WorkingSet.hold

    def hold(self, key, held):
        before(self, key, held)
        self.new_reservations[held.reservation_id] = held.confirm()

    patch.setattr(working_set.WorkingSet, "hold", hold)


def a_win_below_target_draws_no_slack(patch):
    patch.setattr(working_set.WorkingSet, "_draw_slack", lambda *_args, **_more: None)


def slack_that_is_freed_stays_pending(patch):
    patch.setattr(working_set.WorkingSet, "_free_slack", lambda _self, held: held.without_lack())


def a_cost_after_the_impression_takes_no_slack(patch):
    patch.setattr(reservation.Reservation, "counted_micros", property(lambda self: self.amount_micros))


SEEN_IN = {
    wins_are_recorded_again: 0,
    requests_are_paid_again: 0,
    nobody_is_fenced: 2,
    holds_are_released_twice: 0,
    leases_are_not_debited: 0,
    portfolios_are_not_debited: 3,
    more_is_granted_than_is_lent: 0,
    more_is_lent_than_there_is: 3,
    holds_shrink_to_the_micro_below: 21,
    stale_beats_count: 65,
    a_silent_replicas_leases_return_at_once: 2,
    quarantine_forgets_that_conversions_take_days: 15,
    any_lease_serves_conversions: 21,
    leases_hold_from_the_answer_on: 4,
    leases_never_end: 4,
    leases_outlive_midnight: 107,
    something_is_awaited_between_check_and_draw: 103,
    a_restated_conversion_is_paid_again: 3,
    events_count_twice: 1,
    what_lies_ahead_is_taken: 47,
    what_is_recorded_is_refused_for_its_time: 46,
    made_up_ids_are_believed: 0,
    an_event_before_its_record_finds_nothing: 2,
    an_event_before_its_record_leaves_the_lease_as_it_was: 0,
    a_win_drawn_while_its_beat_is_under_way_ends_the_session: 103,
    what_a_lost_answer_lent_is_forgotten: 14,
    a_lost_answer_loses_wins: 0,
    a_lease_is_of_whatever_day_it_is: 162,
    what_is_doubtful_is_stated_last: 65,
    days_are_utc: 0,
    silence_is_forgiven: 0,
    a_last_beat_returns_nothing: 0,
    balances_are_remembered: 0,
    a_win_without_money_forgets_its_portfolio: 384,
    a_failed_commit_counts_as_done: 19,
    a_win_is_confirmed_by_each_of_its_events: 0,
    wins_are_confirmed_before_they_are_shown: 0,
    a_win_below_target_draws_no_slack: 32,
    slack_that_is_freed_stays_pending: 32,
    a_cost_after_the_impression_takes_no_slack: 4,
}


def first_failure(first):
    for seed in range(first, first + TRIED):
        try:
            run(seed)
        except Failed as failed:
            return failed
    return None


@pytest.mark.parametrize("plant", SEEN_IN, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_seen(plant):
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        failed = first_failure(SEEN_IN[plant])
    assert failed is not None, "no history has seen it"
    assert isinstance(failed.error, Broken | LedgerError), "the bug does not fit the code any more"
    run(failed.seed)  # without it all is well
