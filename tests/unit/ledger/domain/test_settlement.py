"""A conversion's effect, however long its story is."""

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.messages import Placement
from ledger.domain.settlement import Fact, effect_of_group, essential

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
maybe = st.one_of(st.none(), st.integers(0, 3))


@st.composite
def facts(draw):
    found = []
    for number in range(draw(st.integers(0, 8))):
        slot = draw(st.sampled_from([None, "s", "t"]))
        found.append(
            Fact(
                event_id=f"e{number}",
                type=draw(st.sampled_from(["conversion", "conversion_update"])),
                occurred_at=START + dt.timedelta(hours=draw(st.integers(0, 3))),
                place=None if slot is None else Placement("b", "p", slot, "d", "c", None),
                day=START.date() + dt.timedelta(days=draw(st.integers(0, 1))),
                portfolio_id=None,
                reservation_id=draw(st.sampled_from([None, "r1", "r2"])),
                pricing_model="cpa",
                status=draw(st.sampled_from([None, "pending", "approved", "rejected"])),
                cost_micros=draw(maybe),
                revenue_micros=draw(maybe),
            )
        )
    return found


@given(facts(), facts())
def test_what_cannot_matter_any_more_changes_nothing(before, after):
    after = [fact._replace(event_id="x" + fact.event_id) for fact in after]
    kept = essential(before)
    assert effect_of_group([*kept, *after]) == effect_of_group([*before, *after])
    assert effect_of_group([*essential([*kept, *after])]) == effect_of_group([*before, *after])


@given(facts())
def test_a_handful_is_enough(story):
    assert len(essential(story)) <= 5 + len({fact.reservation_id for fact in story if fact.reservation_id})
