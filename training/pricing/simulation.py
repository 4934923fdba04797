"""Replays recorded auctions through the live controller and ledger code, under a simulated clock."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ledger.bidding.brand_state import BrandState, Earned, Group, Limits
from ledger.bidding.sketch import Sketch
from ledger.bidding.solver import reach_at, resolve
from ledger.domain.budget import Budget
from ledger.domain.pricing import fallen
from ledger.domain.slack import Price, Slack, lack
from training.arrays import Flags, Floats
from training.pricing.auctions import Auctions, AuctionTerms, Market, read_auctions, read_market
from training.pricing.lagrange import Constraint, Opportunities, fit
from training.progress import Say

DAY = dt.date(2024, 1, 1)
"""A budget needs a day; which one does not matter here."""
PROGRESS_S = 5.0
STALE = 0.01
"""A group without new opportunities is solved again after this share of the day, because time has passed."""
FEW = 12
"""Up to so many brands, the summary has a line for each."""


@dataclass(slots=True)
class Account:
    """A brand's or a portfolio's budget and slack in their present state."""

    budget: Budget
    slack: Slack
    target_roas: float | None


class Purse:
    """What a brand pays from: its own account and its portfolio's, both or neither."""

    __slots__ = ("_accounts", "_earned", "_owed")

    def __init__(self, accounts: Sequence[Account]) -> None:
        self._accounts = tuple(accounts)
        self._earned = self._owed = 0.0  # a fraction of a micro, since the ledger only books whole ones

    def reserve(
        self, predicted_revenue_micros: float, predicted_cost_micros: float, factor: float
    ) -> tuple[int, list[int]] | None:
        """(micros held for a win, its predicted cost rounded up; slack drawn from each account), None if an account
        does not have them.
        """
        held = math.ceil(predicted_cost_micros)
        lacks = []
        for account in self._accounts:
            if account.budget.available_micros is not None and held > account.budget.available_micros:
                return None
            short = 0
            if account.target_roas is not None:
                price = Price(account.target_roas, factor)
                short = lack(predicted_revenue_micros, predicted_cost_micros, price)
                if short and short > account.slack.available(price):
                    return None
            lacks.append(short)
        for account, short in zip(self._accounts, lacks, strict=True):
            account.budget = account.budget.lend(held).hold(held)
            if short:
                account.slack = account.slack.lend(short).draw(short)
        return held, lacks

    def settle(self, held_micros: int, lacks: Sequence[int], revenue_micros: float, cost_micros: float) -> None:
        """Replace a win's hold by its cost, and confirm it; fractions of a micro are carried over to the next win."""
        paid = math.floor(cost_micros + self._owed)
        self._owed += cost_micros - paid
        earned = math.floor(revenue_micros + self._earned)
        self._earned += revenue_micros - earned
        for account, short in zip(self._accounts, lacks, strict=True):
            account.budget = account.budget.settle(held_micros, paid)
            account.slack = account.slack.confirm(short, earned, paid)


class Decided(NamedTuple):
    """The decision on each of n auctions, in the order of the file."""

    won: Flags
    lambda_: Floats


def simulate(
    auctions: Auctions, market: Market, horizon_s: float, realised: bool = False, say: Say = lambda _line: None
) -> Decided:
    """Decide every auction in one pass, on what was known before it.

    Args:
        horizon_s: length of the budget day.
        realised: the controller learns from realised revenue; else from the predicted revenue of what was won.
        say: shows progress.

    Raises:
        LedgerError: an amount beyond what an account can hold.
    """
    n = len(auctions)
    run = _Pass(market)
    won, lambdas = np.zeros(n, dtype=np.bool_), np.zeros(n)
    at = np.minimum(auctions.t_s / horizon_s, 1.0)
    distinct = np.cumsum(np.diff(auctions.t_s, prepend=-1.0) > 0.0)
    columns = [
        column.tolist()
        for column in (
            auctions.brand,
            auctions.predicted_revenue,
            auctions.predicted_cost,
            auctions.revenue if realised else auctions.predicted_revenue,
            auctions.cost,
        )
    ]
    begin, said_s = 0, time.monotonic()
    while begin < n:
        now = float(at[begin])
        # If times are coarse, a λ stays in force until the next distinct time.
        reach = max(reach_at(now), now / float(distinct[begin]))
        run.look(now, reach, float(auctions.t_s[begin]))
        end = max(int(np.searchsorted(at, now + reach_at(now))), int(np.searchsorted(at, now, side="right")))
        rows = slice(begin, end)
        lambdas[rows] = np.array(run.kappas)[auctions.brand[rows]]
        won[rows] = run.decide([column[rows] for column in columns])
        begin = end
        if time.monotonic() - said_s > PROGRESS_S:
            said_s = time.monotonic()
            say(f"{end:,} of {n:,} auctions, {won[:end].sum():,} won")
    return Decided(won, lambdas)


class _Pass:
    """The state of controller and ledger during one pass, by position of the brand."""

    def __init__(self, market: Market) -> None:
        self.brands = [BrandState(*pair) for pair in zip(market.limits, market.lambda0, strict=True)]
        self._kappas, self._least = [brand.kappa for brand in self.brands], market.kappa_least
        self._decided_s = [0.0] * len(self.brands)
        self.kappas = [max(pair) for pair in zip(self._kappas, self._least, strict=True)]
        self._purses: list[Purse] = [Purse(())] * len(self.brands)
        self._groups: list[Group] = []
        self._members: list[list[int]] = []
        self._home = [0] * len(self.brands)
        self._looked: list[float] = []
        self._sums = [[0.0, 0.0, 0.0] for _ in self.brands]  # revenue fed back, predicted revenue, cost
        self._deltas = [Sketch() for _ in self.brands]
        self._news: set[int] = set()
        for name, members, limits in market.groups():
            shared = [] if limits == Limits() else [_account("portfolio", name, limits)]
            for b in members:
                self._home[b] = len(self._groups)
                self._purses[b] = Purse([_account("brand", market.names[b], market.limits[b]), *shared])
            self._groups.append(Group({market.names[b]: self.brands[b] for b in members}, limits))
            self._members.append(members)
            self._looked.append(-math.inf)

    def look(self, at: float, reach: float, now_s: float) -> None:
        """Give the controller what was seen and earned since the last look, and solve the groups concerned again."""
        for b in self._news:
            self.brands[b].saw(self._deltas[b])
            self._deltas[b] = Sketch()
            self.brands[b].earns(Earned(*self._sums[b]))
        fresh = {self._home[b] for b in self._news}
        due = [g for g, looked in enumerate(self._looked) if g in fresh or at - looked > STALE]
        resolve([self._groups[g] for g in due], at, reach)
        for g in due:
            self._looked[g] = at
            for b in self._members[g]:
                wanted = fallen(self._kappas[b], self.brands[b].kappa, now_s - self._decided_s[b])
                self._kappas[b], self._decided_s[b] = wanted, now_s
                self.kappas[b] = max(wanted, self._least[b])
        self._news = set()

    def decide(self, columns: Sequence[list[float]]) -> list[bool]:
        """Whether each auction between two looks is won.

        Args:
            columns: lists of brand, predicted revenue, predicted cost, revenue to learn from, cost.
        """
        kappas, purses, sums, deltas = self.kappas, self._purses, self._sums, self._deltas
        self._news.update(columns[0])  # type: ignore[arg-type]  # positions are integers
        won: list[bool] = []
        for brand, predicted_revenue, predicted_cost, revenue, cost in zip(*columns, strict=True):
            b = int(brand)
            held = None
            if predicted_revenue - kappas[b] * predicted_cost >= 0.0:
                held = purses[b].reserve(predicted_revenue, predicted_cost, self.brands[b].feedback.factor)
            if held is not None:
                purses[b].settle(*held, predicted_revenue, cost)
                earned = sums[b]
                earned[0] += revenue
                earned[1] += predicted_revenue
                earned[2] += cost
            deltas[b].add(predicted_revenue, predicted_cost)
            won.append(held is not None)
        return won


def _account(owner: str, name: str, limits: Limits) -> Account:
    budget = None if limits.budget_micros is None else int(limits.budget_micros)
    return Account(Budget.of(owner, name, DAY, budget), Slack(owner, name, DAY), limits.target_roas)


def fitted(path: Path, terms: AuctionTerms | None, brands: Path | None, horizon_s: float | None) -> dict[str, float]:
    """λ0 by brand, fitted to an earlier file, for brands with enough opportunities; budgets are scaled by the file's
    length ÷ the horizon."""
    auctions = read_auctions(path)
    market = read_market(brands, auctions.names, terms)
    length_s = float(auctions.t_s[-1])
    scale = length_s / horizon_s if horizon_s is not None and length_s > 0.0 else 1.0
    order = np.argsort(auctions.brand, kind="stable")
    rows_of = np.split(order, np.cumsum(np.bincount(auctions.brand))[:-1])

    def scaled(limits: Limits) -> Constraint:
        budget = limits.budget_micros
        return Constraint(limits.target_roas, None if budget is None else budget * scale)

    found: dict[str, float] = {}
    for _name, members, shared in market.groups():
        seen = {}
        for b in members:
            rows = rows_of[b]
            revenue, cost = auctions.predicted_revenue[rows], auctions.predicted_cost[rows]
            seen[market.names[b]] = (Opportunities(revenue, cost, np.ones(len(rows))), scaled(market.limits[b]))
        found |= {one.brand_id: one.kappa for one in fit(seen, None if shared == Limits() else scaled(shared))}
    return found
