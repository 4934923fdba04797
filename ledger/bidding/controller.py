"""λ by day for all brands: keeps a `BrandState` for each brand with demand, and computes its κ and share. Pure.

`ControllerLoop` gives it the demand and the day's results, and puts what it computes into the terms.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ledger.bidding.brand_state import BrandState, Earned, Group, Limits, Traffic
from ledger.bidding.demand import BrandDemand
from ledger.bidding.kill_switch import Envelope, KillSwitch
from ledger.bidding.sketch import COST, REVENUE
from ledger.bidding.solver import resolve
from ledger.bidding.terms import ControlSignal
from ledger.domain.pricing import fallen

SEEN_LEAST = 200
"""A brand with fewer opportunities today keeps last night's λ."""

ENVELOPE = 8.0
"""A brand whose λ exceeds this many times last night's is frozen."""

PACE_MOST = 4.0
"""A brand that spends the rest of its budget faster than this many times the even pace is frozen…"""

PACE_SHARE, PACE_WINS = 1.0 / 288.0, 20
"""…measured over at least this share of the day's traffic and so many wins, because fewer wins are too lumpy."""

COMPETITION_HALF_LIFE_S = 600.0
COMPETITION_PRIOR = 20.0
"""Weight, in opportunities, of the assumption that a brand wins everything that its λ lets through."""

ROUND_AT = 20_000
"""Groups whose day is equally far, rounded to a share of 1 ÷ this, are solved together."""

HOURS = 24
TRAFFIC_PRIOR = 2000.0
"""Weight, in impressions, of the usual traffic by hour against a brand's own."""

GroupKey = tuple[str, str]


class Rules(NamedTuple):
    """A brand's settings and time of day, which the controller needs."""

    day: dt.date
    target_roas: float
    budget_micros: int | None
    exploration: float
    portfolio_id: str | None
    night_kappa: float
    has_fit: bool
    now_s: float  # since the brand's midnight
    day_s: float  # length of its day


class DayResults(NamedTuple):
    """What a brand's day has brought, from the database."""

    settled_micros: int = 0
    reserved_micros: int = 0
    revenue_micros: float | None = None  # completed for late conversions; None: too few impressions


class Steering(NamedTuple):
    """By brand id: κ and share, and for frozen brands the reason."""

    steered: dict[str, ControlSignal]
    frozen: dict[str, str]


@dataclass(slots=True)
class Pace:
    """How fast a brand spends its budget, between two looks.

    >>> pace = Pace()
    >>> pace.look(0.5, 0.0, 100.0, 0)
    >>> pace.look(0.6, 40.0, 60.0, 30)  # a fifth of the remaining time, two fifths of the remaining budget
    >>> round(pace.rate, 9)
    2.0
    """

    rate: float = 0.0  # 1: what is left lasts to the day's end
    at: float | None = None
    spent: float = 0.0
    left: float = 0.0
    wins: int = 0

    def look(self, at: float, spent: float, left: float, wins: int) -> None:
        """Update `rate`, if enough of the day has passed since the last look.

        Args:
            at: share of the day's traffic that is over.
            spent, left: micros of the budget; left may be infinite.
            wins: since midnight.
        """
        if self.at is not None and at >= self.at:
            if at - self.at < PACE_SHARE:
                return
            share, rest = (spent - self.spent) / self.left if self.left > 0 else 0.0, 1.0 - self.at
            self.rate = share / ((at - self.at) / rest) if wins - self.wins >= PACE_WINS else 0.0
        else:
            self.rate = 0.0
        self.at, self.spent, self.left, self.wins = at, spent, left, wins


@dataclass(slots=True)
class _SteeredBrand:
    """A brand with demand, as the controller keeps it."""

    brand: BrandState
    group: GroupKey
    day: dt.date
    traffic: Traffic = field(default_factory=Traffic)
    switch: KillSwitch = field(default_factory=KillSwitch)
    pace: Pace = field(default_factory=Pace)
    wins: int = 0  # of the day
    eligible_micros: float = 0.0
    won_micros: float = 0.0
    first_s: float = 0.0  # of the first demand
    heard_s: float = 0.0  # of the newest demand
    day_cost_micros: float = 0.0  # predicted, of the day's wins
    day_revenue_micros: float = 0.0
    shown_kappa: float = 0.0  # with which it bids
    shown_s: float = 0.0  # when that was decided

    def through(self) -> float:
        """Share of the cost that λ lets through which the brand wins against other brands."""
        seen = self.brand.seen
        prior = COMPETITION_PRIOR * (self.eligible_micros / seen) if seen > 0 else 0.0
        total = self.eligible_micros + prior
        return (self.won_micros + prior) / total if total > 0 else 1.0


class Controller:
    """Times are seconds of any clock that does not go backwards.

    Args:
        watch_s: how long a brand's opportunities are watched before its λ changes by day.
    """

    def __init__(self, watch_s: float = 0.0) -> None:
        self._watch_s = watch_s
        self._brands: dict[str, _SteeredBrand] = {}
        self._groups: dict[GroupKey, Group] = {}
        self._news: set[str] = set()
        self._traffic: Mapping[str, Traffic] = {}
        self._usual = Traffic()

    @property
    def news(self) -> frozenset[str]:
        """Brands with demand since the last step, and the brands of their portfolios."""
        groups = {self._brands[brand_id].group for brand_id in self._news}
        return frozenset(brand_id for key in groups for brand_id in self._groups[key].brands)

    def shape(self, usual: Traffic, by_brand: Mapping[str, Traffic]) -> None:
        """How a day's traffic comes, by local time."""
        self._usual, self._traffic = usual, by_brand
        for brand_id, one in self._brands.items():
            one.traffic = by_brand.get(brand_id, usual)

    def observe(self, seen: Mapping[str, BrandDemand], rules: Mapping[str, Rules], now_s: float) -> None:
        """Take in replicas' demand. Brands without rules belong to other shards and are left out."""
        for brand_id, news in seen.items():
            if (rule := rules.get(brand_id)) is None:
                continue
            is_new = brand_id not in self._brands
            one = self._brand(brand_id, rule)
            if is_new:
                one.first_s = one.heard_s = one.shown_s = now_s
            keep = 0.5 ** (max(now_s - one.heard_s, 0.0) / COMPETITION_HALF_LIFE_S)
            one.heard_s = now_s
            one.eligible_micros = one.eligible_micros * keep + news.eligible_micros
            one.won_micros = one.won_micros * keep + news.won_micros
            one.wins += int(news.wins)
            one.day_cost_micros += news.won_micros
            one.day_revenue_micros += news.won_revenue_micros
            # Opportunities that other brands win cannot be had, so each counts for the share that is won.
            share = one.through()
            news.sketch.sums[REVENUE] *= share
            news.sketch.sums[COST] *= share
            one.brand.saw(news.sketch)
            self._news.add(brand_id)

    def step(
        self, rules: Mapping[str, Rules], results: Mapping[str, DayResults], shared: Mapping[str, Limits]
    ) -> Steering:
        """Solve for the groups with news, and return κ and share of every brand that is steered by day.

        Args:
            rules: by brand id, of all this shard's brands.
            results: by brand id, of those with news.
            shared: by portfolio id, the portfolios' limits.
        """
        for brand_id in [brand_id for brand_id in self._brands if brand_id not in rules]:
            self._forget(brand_id)
        for brand_id in self._brands:
            self._brand(brand_id, rules[brand_id])  # it may have begun a new day
        due: dict[int, list[Group]] = {}
        for key in sorted({self._brands[brand_id].group for brand_id in self._news if brand_id in self._brands}):
            group = self._groups[key]
            for brand_id in group.brands:
                self._update(self._brands[brand_id], rules[brand_id], results.get(brand_id))
            group.limits = shared.get(key[1], Limits()) if key[0] == "portfolio" else Limits()
            at = sum(self._at(self._brands[id_], rules[id_]) for id_ in group.brands) / len(group.brands)
            due.setdefault(int(at * ROUND_AT), []).append(group)
        for rounded, groups in due.items():
            resolve(groups, rounded / ROUND_AT)
        self._news.clear()
        steered: dict[str, ControlSignal] = {}
        frozen: dict[str, str] = {}
        for brand_id, one in self._brands.items():
            if one.brand.seen >= SEEN_LEAST and one.heard_s - one.first_s >= self._watch_s:
                steered[brand_id] = self._decide(one, rules[brand_id])
                if one.switch.reason is not None:
                    frozen[brand_id] = one.switch.reason
        return Steering(steered, frozen)

    def _decide(self, one: _SteeredBrand, rule: Rules) -> ControlSignal:
        brand, night = one.brand, rule.night_kappa
        budget = brand.limits.budget_micros
        spent = brand.earned.cost_micros + brand.earned.held_cost_micros
        if budget is not None and spent >= budget:
            # The budget is spent: the ledger refuses, whatever κ is.
            return ControlSignal(night, factor=brand.feedback.factor)
        one.pace.look(self._at(one, rule), spent, math.inf if budget is None else budget - spent, one.wins)
        envelope = Envelope(0.0, max(3.0 * rule.target_roas, night * ENVELOPE), PACE_MOST)
        one.switch = one.switch.look(brand.kappa, brand.capped, one.pace.rate, envelope)
        if one.switch.reason is None:
            one.shown_kappa = fallen(one.shown_kappa, brand.kappa, one.heard_s - one.shown_s)
        else:
            one.shown_kappa = night
        one.shown_s = one.heard_s
        decision = one.switch.decide(one.shown_kappa, 1.0, night, rule.exploration)
        return ControlSignal(decision.kappa, decision.share, brand.feedback.factor)

    def _at(self, one: _SteeredBrand, rule: Rules) -> float:
        return one.traffic.share(rule.now_s, rule.day_s)

    def _brand(self, brand_id: str, rule: Rules) -> _SteeredBrand:
        """The brand's state, made if it is new, moved to its present group and day."""
        key = ("brand", brand_id) if rule.portfolio_id is None else ("portfolio", rule.portfolio_id)
        night = rule.night_kappa if rule.has_fit else None
        limits = Limits(rule.target_roas, rule.budget_micros)
        one = self._brands.get(brand_id)
        if one is None:
            traffic = self._traffic.get(brand_id, self._usual)
            one = _SteeredBrand(BrandState(limits, night), key, rule.day, traffic, shown_kappa=rule.night_kappa)
            one.brand.fade(traffic.share(rule.now_s, rule.day_s))
            one.brand.exposure = 0.0  # nothing was seen before now
            self._brands[brand_id] = one
        elif one.group != key:
            self._leave(brand_id, one)
            one.group = key
        if one.day != rule.day:
            one.day, one.day_cost_micros, one.day_revenue_micros, one.wins = rule.day, 0.0, 0.0, 0
            one.pace, one.shown_kappa = Pace(), rule.night_kappa
            one.brand.start_day(limits, night)
        self._groups.setdefault(key, Group({})).brands[brand_id] = one.brand
        return one

    def _update(self, one: _SteeredBrand, rule: Rules, results: DayResults | None) -> None:
        one.brand.limits = Limits(rule.target_roas, rule.budget_micros)
        if results is None:
            return
        expected = one.day_revenue_micros / one.day_cost_micros if one.day_cost_micros > 0 else rule.target_roas
        predicted = results.settled_micros * expected
        one.brand.earns(
            Earned(
                revenue_micros=predicted if results.revenue_micros is None else results.revenue_micros,
                predicted_micros=predicted,
                cost_micros=float(results.settled_micros),
                held_cost_micros=float(results.reserved_micros),
                held_revenue_micros=results.reserved_micros * expected,
            )
        )

    def _leave(self, brand_id: str, one: _SteeredBrand) -> None:
        group = self._groups[one.group]
        group.brands.pop(brand_id, None)
        if not group.brands:
            del self._groups[one.group]

    def _forget(self, brand_id: str) -> None:
        self._leave(brand_id, self._brands.pop(brand_id))
        self._news.discard(brand_id)


def traffic_of(impressions: Iterable[tuple[str, int, float]]) -> tuple[Traffic, dict[str, Traffic]]:
    """(traffic of all brands, traffic by brand id); a brand with few impressions gets mostly that of all.

    Args:
        impressions: (brand id, local hour of the day, how many).

    >>> usual, own = traffic_of([("b", 0, 3e9), ("b", 23, 1e9)])
    >>> round(own["b"].share(3600, 86_400), 2)
    0.75
    """
    by_brand: dict[str, list[float]] = {}
    for brand_id, hour, number in impressions:
        by_brand.setdefault(brand_id, [0.0] * HOURS)[hour % HOURS] += max(number, 0.0)
    overall = [sum(hours[hour] for hours in by_brand.values()) for hour in range(HOURS)]
    usual = _smoothed(overall, [1.0 / HOURS] * HOURS)
    return _cumulative(usual), {
        brand_id: _cumulative(_smoothed(hours, usual)) for brand_id, hours in by_brand.items() if sum(hours) > 0
    }


def _smoothed(counts: Sequence[float], prior: Sequence[float]) -> list[float]:
    total = sum(counts) + TRAFFIC_PRIOR
    return [(count + TRAFFIC_PRIOR * share) / total for count, share in zip(counts, prior, strict=True)]


def _cumulative(shares: Sequence[float]) -> Traffic:
    cumulative, total = [0.0], math.fsum(shares)
    for share in shares:
        cumulative.append(min(cumulative[-1] + share / total, 1.0))
    cumulative[-1] = 1.0
    return Traffic(tuple(cumulative))
