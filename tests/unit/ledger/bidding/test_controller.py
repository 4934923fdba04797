"""λ by day over all brands: what replicas saw and the books say, to what brands bid with."""

import datetime as dt
import itertools
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.bidding.brand_state import Limits
from ledger.bidding.controller import SEEN_LEAST, Controller, DayResults, Rules, traffic_of
from ledger.bidding.demand import OUTBID, TOO_DEAR, UNDECIDED, WON, Demand, Opportunity, added_up, unpacked
from ledger.bidding.kill_switch import CALM_LOOKS
from ledger.bidding.sketch import BINS

DAY = dt.date(2024, 5, 1)
NOON, LENGTH, HOUR_S = 43_200.0, 86_400.0, 3600.0


def rules(**changes) -> Rules:
    usual = {
        "day": DAY, "target_roas": 2.0, "budget_micros": None, "exploration": 0.02, "portfolio_id": None,
        "night_kappa": 2.0, "has_fit": False, "now_s": NOON, "day_s": LENGTH,
    }  # fmt: skip
    return Rules(**{**usual, **changes})


def market(brand_id="b", number=5000, seed=0, fate=WON):
    random = np.random.default_rng(seed)
    costs = random.lognormal(6, 0.5, number)
    revenues = costs * random.lognormal(0.5, 0.8, number)
    return [Opportunity(brand_id, r, c, fate) for r, c in zip(revenues.tolist(), costs.tolist(), strict=True)]


def told(opportunities) -> dict:
    seen = Demand()
    seen.add(opportunities)
    return added_up([unpacked(seen.take())])


def kappa_of(controller, rule, results=None, brand_id="b", shared=None):
    steering = controller.step({brand_id: rule}, {brand_id: results or DayResults()}, shared or {})
    return steering.steered[brand_id].kappa


def test_what_was_seen_survives_the_trip():
    mine = [*market("b", 50), *market("c", 30, seed=1, fate=OUTBID), Opportunity("d", 0.0, 0.0, TOO_DEAR)]
    found = told(mine)
    assert found.keys() == {"b", "c", "d"}
    for brand_id, number in (("b", 50), ("c", 30), ("d", 1)):
        some = [one for one in mine if one.brand_id == brand_id]
        expected = [sum(one.revenue_micros for one in some), sum(one.cost_micros for one in some), number]
        assert found[brand_id].sketch.totals() == pytest.approx(expected)
    assert found["b"].won_micros == found["b"].eligible_micros == pytest.approx(found["b"].sketch.totals()[1])
    assert (found["c"].won_micros, found["c"].won_revenue_micros) == (0.0, 0.0)
    assert found["c"].eligible_micros > 0 and found["d"].eligible_micros == 0
    assert Demand().take() == b"" and added_up([]) == {}


def test_what_several_replicas_saw_adds_up():
    one, two = market("b", 50), [*market("c", 20, seed=1), *market("b", 30, seed=2, fate=OUTBID)]
    apart, together = Demand(), Demand()
    apart.add(one)
    first = apart.take()
    apart.add(two)
    together.add([*one, *two])
    both = added_up([unpacked(first), unpacked(apart.take())])
    whole = added_up([unpacked(together.take())])
    assert both.keys() == whole.keys()
    for brand_id, found in whole.items():
        assert both[brand_id].sketch.sums == pytest.approx(found.sketch.sums)
        assert both[brand_id][1:] == pytest.approx(found[1:])


def packed(ids=("b",), cells=(3,), sums=((1.0,), (1.0,), (1.0,)), totals=((0.0,),) * 4) -> bytes:
    columns = np.array(cells, "<i8"), np.array(sums, "<f8"), np.array(totals, "<f8")
    return msgspec.msgpack.encode((list(ids), *(column.tobytes() for column in columns)))


@pytest.mark.parametrize(
    "broken",
    [
        b"x",
        packed()[:-3],
        packed(cells=(3, 4)),
        packed(cells=(BINS,)),
        packed(cells=(-1,)),
        packed(sums=((math.nan,), (1.0,), (1.0,))),
        packed(sums=((-1.0,), (1.0,), (1.0,))),
        packed(totals=((math.inf,), (0.0,), (0.0,), (0.0,))),
        packed(ids=("b", "b"), totals=((0.0, 0.0),) * 4),
    ],
)
def test_what_cannot_be_read_is_refused(broken):
    assert added_up([unpacked(packed())])["b"].sketch.totals().tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError):
        unpacked(broken)


def test_a_brand_of_which_little_was_seen_keeps_its_nights_lambda():
    controller, rule = Controller(), rules()
    controller.observe(told(market(number=SEEN_LEAST - 1)), {"b": rule}, 0.0)
    assert controller.step({"b": rule}, {}, {}).steered == {}
    controller.observe(told(market(number=1)), {"b": rule}, 1.0)
    assert controller.step({"b": rule}, {}, {}).steered.keys() == {"b"}


def test_a_rush_is_watched_for_a_while_before_lambda_moves():
    controller, rule = Controller(watch_s=300.0), rules(budget_micros=100_000)
    controller.observe(told(market()), {"b": rule}, 1000.0)
    controller.observe(told(market()), {"b": rule}, 1299.0)
    assert controller.step({"b": rule}, {}, {}).steered == {}
    controller.observe(told(market(number=1)), {"b": rule}, 1300.0)
    assert controller.step({"b": rule}, {}, {}).steered["b"].kappa > rule.target_roas


def test_without_a_limit_that_binds_lambda_falls_to_where_the_day_meets_its_target():
    controller, rule = Controller(), rules(now_s=600.0, target_roas=2.6)
    controller.observe(told(market(number=20_000)), {"b": rule}, 0.0)
    controller.observe(told(market(number=1)), {"b": rule}, HOUR_S)
    kappa = kappa_of(controller, rule)
    won = [one for one in market(number=20_000, seed=9) if one.revenue_micros >= kappa * one.cost_micros]
    roas = sum(one.revenue_micros for one in won) / sum(one.cost_micros for one in won)
    assert 0.1 < kappa < rule.target_roas
    assert 2.5 <= roas <= 2.7


def test_lambda_falls_by_a_factor_of_e_a_minute_at_most():
    controller, rule = Controller(), rules(now_s=600.0, target_roas=2.0)
    worthy = [Opportunity("b", 1e6, 1.0, WON)] * 300
    controller.observe(told(worthy), {"b": rule}, 0.0)
    shown = [2.0]
    for minute in range(1, 6):
        controller.observe(told(worthy), {"b": rule}, 60.0 * minute)
        shown.append(kappa_of(controller, rule))
    assert shown == pytest.approx([2.0 * math.exp(-minute) for minute in range(6)], rel=1e-9)


def test_a_budget_that_is_nearly_spent_raises_lambda():
    def after(spent):
        controller, rule = Controller(), rules(budget_micros=10_000_000)
        controller.observe(told(market(number=20_000)), {"b": rule}, 0.0)
        return kappa_of(controller, rule, DayResults(settled_micros=spent))

    assert after(9_900_000) > after(5_000_000) > after(0) >= 0


def test_of_more_than_can_be_kept_each_stands_for_several(monkeypatch):
    monkeypatch.setattr("ledger.bidding.demand.MOST", 1000)
    seen = Demand()
    for start in range(0, 5000, 100):
        seen.add(market(number=5000)[start : start + 100])
    (found,) = added_up([unpacked(seen.take())]).values()
    assert found.sketch.totals()[2] == pytest.approx(5000)
    assert found.wins == pytest.approx(5000)
    seen.add(market(number=10))
    assert added_up([unpacked(seen.take())])["b"].sketch.totals()[2] == pytest.approx(10)


def test_what_others_win_is_not_counted_on():
    """Half of what λ lets through is lost to better bids: the same budget then lasts for a lower λ."""

    def with_fates(*fates):
        controller, rule = Controller(), rules(budget_micros=2_000_000, now_s=600.0)
        parts = [one._replace(fate=fates[n % len(fates)]) for n, one in enumerate(market(number=20_000))]
        controller.observe(told(parts[:10_000]), {"b": rule}, 0.0)
        controller.observe(told(parts[10_000:]), {"b": rule}, 1.0)
        return kappa_of(controller, rule)

    assert with_fates(WON, OUTBID) < 0.97 * with_fates(WON)
    assert with_fates(WON, UNDECIDED) == pytest.approx(with_fates(WON), rel=0.02)


def test_members_share_their_portfolios_budget():
    def both(budget):
        controller = Controller()
        rule = rules(portfolio_id="f", now_s=600.0)
        members = {"b": rule, "c": rule}
        controller.observe(told([*market("b", 5000), *market("c", 5000, seed=3)]), members, 0.0)
        steering = controller.step(members, {}, {"f": Limits(None, budget)})
        return [steering.steered[id_].kappa for id_ in "bc"]

    narrow, wide = both(3_000_000.0), both(None)
    assert min(narrow) > max(wide)
    assert narrow[0] == pytest.approx(narrow[1], rel=1e-6), "the portfolio's price is the same for all"


def test_a_new_day_starts_with_the_nights_lambda_again():
    controller, rule = Controller(), rules(budget_micros=1_000_000)
    controller.observe(told(market()), {"b": rule}, 0.0)
    kappa_of(controller, rule, DayResults(settled_micros=999_000))
    tomorrow = rules(day=DAY + dt.timedelta(days=1), budget_micros=1_000_000, now_s=1.0)
    controller.observe(told(market(number=1)), {"b": tomorrow}, 9.0)
    assert controller.step({"b": tomorrow}, {}, {}).steered == {}, "too little was seen of the new day"


def test_a_brand_that_is_no_longer_ours_is_forgotten():
    controller, rule = Controller(), rules()
    controller.observe(told(market()), {"b": rule}, 0.0)
    assert controller.step({"b": rule}, {}, {}).steered
    assert controller.step({}, {}, {}).steered == {}
    controller.observe(told(market()), {}, 1.0)
    assert controller.news == frozenset()


def test_spending_far_beyond_its_pace_freezes_the_brand_until_it_is_calm():
    controller = Controller()

    def look(minute, settled, wins=30):
        rule = rules(budget_micros=1_000_000, now_s=NOON + 60.0 * minute, exploration=0.05, night_kappa=1.5)
        controller.observe(told(market(number=max(wins, 200))[:wins] or market(number=1)), {"b": rule}, minute)
        return controller.step({"b": rule}, {"b": DayResults(settled_micros=settled)}, {})

    controller.observe(told(market()), {"b": rules()}, 0.0)
    assert look(0, 100_000).frozen == {}
    assert look(10, 110_000).frozen == {}, "an even pace"
    steering = look(20, 400_000)
    assert "pace" in steering.frozen["b"]
    assert steering.steered["b"][:2] == (1.5, 0.05)
    for step in range(CALM_LOOKS):
        assert steering.frozen
        steering = look(30 + 10 * step, 400_000)
    assert steering.frozen == {} and steering.steered["b"].share_most == 1.0


def test_a_few_dear_wins_are_no_pace():
    controller = Controller()
    for minute, settled in ((0, 100_000), (10, 500_000)):
        rule = rules(budget_micros=1_000_000, now_s=NOON + 60.0 * minute)
        seen = market(number=5000, fate=OUTBID) + market(number=5)
        controller.observe(told(seen), {"b": rule}, minute)
        assert controller.step({"b": rule}, {"b": DayResults(settled_micros=settled)}, {}).frozen == {}


def test_a_budget_that_is_spent_has_no_price():
    controller, rule = Controller(), rules(budget_micros=1_000_000, night_kappa=1.5)
    controller.observe(told(market()), {"b": rule}, 0.0)
    results = {"b": DayResults(settled_micros=600_000, reserved_micros=400_000)}
    assert controller.step({"b": rule}, results, {}).steered["b"][:2] == (1.5, 1.0), "the ledger says no, not λ"


def test_midnight_reaches_brands_of_which_nothing_is_heard():
    """A member that spent the portfolio's budget and fell silent does not take it into the next day."""
    controller, limits = Controller(), {"f": Limits(None, 1_000_000.0)}
    today = rules(portfolio_id="f", budget_micros=1_000_000)
    members = {"b": today, "c": today}
    controller.observe(told([*market("b"), *market("c", seed=1)]), members, 0.0)
    spent = {"b": DayResults(settled_micros=900_000), "c": DayResults()}
    dear = controller.step(members, spent, limits).steered["c"].kappa
    tomorrow = rules(day=DAY + dt.timedelta(days=1), portfolio_id="f", budget_micros=1_000_000)
    members = {"b": tomorrow, "c": tomorrow}
    controller.observe(told(market("c", seed=1)), members, 86_400.0)
    assert controller.news == {"b", "c"}, "its members' results are asked for, too"
    steering = controller.step(members, {"b": DayResults(), "c": DayResults()}, limits)
    assert steering.frozen == {}
    assert steering.steered.keys() == {"c"}
    assert steering.steered["c"].kappa < 0.7 * dear


def test_revenue_below_its_prediction_raises_lambda():
    def with_revenue(revenue):
        controller, rule = Controller(), rules(now_s=600.0)
        controller.observe(told(market(number=20_000)), {"b": rule}, 0.0)
        controller.observe(told(market(number=1)), {"b": rule}, HOUR_S)
        return kappa_of(controller, rule, DayResults(settled_micros=1_000_000, revenue_micros=revenue))

    assert with_revenue(1_500_000.0) > with_revenue(2_500_000.0)


def test_a_days_shape_is_learned_from_its_hours():
    usual, own = traffic_of([("b", hour, 1e9 if hour < 12 else 0.0) for hour in range(24)] + [("c", 3, 1.0)])
    assert own["b"].share(43_200, 86_400) == pytest.approx(1.0, abs=1e-3)
    assert usual.share(43_200, 86_400) == pytest.approx(1.0, abs=1e-3)
    assert own["c"].share(43_200, 86_400) == pytest.approx(1.0, abs=1e-3), "little history: the usual shape"
    assert traffic_of([])[0].share(21_600, 86_400) == pytest.approx(0.25)


@given(st.lists(st.tuples(st.sampled_from("bcd"), st.integers(0, 23), st.floats(0, 1e9)), max_size=60))
def test_shares_of_a_day_never_fall(impressions):
    usual, own = traffic_of(impressions)
    for traffic in (usual, *own.values()):
        shares = [traffic.share(hour * 1800.0, LENGTH) for hour in range(49)]
        assert shares[0] == 0.0 and shares[-1] == 1.0
        assert all(a <= b for a, b in itertools.pairwise(shares))
