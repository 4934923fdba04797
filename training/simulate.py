"""Auctions decided one after the other by the live controller and ledger code, under a simulated clock.

    python -m training.simulate --auctions FILE --target-roas T [--budget-micros B] [--lambda0 X] --out DECISIONS.csv
    python -m training.simulate --fit-lambda FILE --target-roas T [--budget-micros B] [--horizon-s S]

Columns of the auctions: `t_s,brand_id,predicted_revenue_micros,predicted_cost_micros,revenue_micros,cost_micros`, in
order of `t_s`, seconds since the budget day began. `DECISIONS.csv` has a row for each: `won` (1 | 0) and the `lambda`
that decided. An auction is won iff predicted revenue ≥ λ · predicted cost and the budgets can hold the predicted cost;
then its `cost_micros` is paid. Its `revenue_micros` is not looked at before, and never unless `--feedback realised`.

Several brands: without `--brands` each stands alone with the same target and the same budget. With it,

    {"brands": {"b1": {"target_roas": 2.0, "daily_budget_micros": 5000000, "portfolio_id": "p1", "lambda0": 0.9}},
     "portfolios": {"p1": {"target_roas": 1.5, "daily_budget_micros": 8000000}}}

where all but a brand's `target_roas` may be null or left out; `--target-roas`, `--budget-micros` and `--lambda0` then
are for the brands that the document does not name.

The summary goes to stderr; stdout has the λ0 of `--fit-lambda`, and nothing else: the number for one brand, an object
by brand_id for several.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import os
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, Field, ValidationError

from ledger.bidding.sketch import Sketch
from ledger.bidding.solver import Brand, Earned, Group, Limits, reach_at, resolve
from ledger.domain.budget import MONEY_MOST, Budget
from ledger.domain.errors import LedgerError
from training.lagrange import Constraint, Opportunities, fit

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Say = Callable[[str], None]

MONEY = ("predicted_revenue_micros", "predicted_cost_micros", "revenue_micros", "cost_micros")
COLUMNS = ("t_s", "brand_id", *MONEY)
ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
DAY = dt.date(2024, 1, 1)
"""A budget needs a day; which one does not matter here."""
PROGRESS_S = 5.0
STALE = 0.01
"""A group without news is solved again after this share of the day all the same: time has passed."""
FEW = 12
"""The summary has a line a brand up to so many."""


class BadInput(Exception):
    """A file or an option that cannot be worked with; its text is for the user."""


class Terms(BaseModel, frozen=True, extra="forbid"):
    target_roas: float = Field(gt=0, allow_inf_nan=False)
    daily_budget_micros: int | None = Field(None, gt=0, le=MONEY_MOST)
    portfolio_id: str | None = None
    lambda0: float | None = Field(None, ge=0, allow_inf_nan=False)


class PortfolioTerms(BaseModel, frozen=True, extra="forbid"):
    target_roas: float | None = Field(None, gt=0, allow_inf_nan=False)
    daily_budget_micros: int | None = Field(None, gt=0, le=MONEY_MOST)


class Document(BaseModel, frozen=True, extra="forbid"):
    """brands.json"""

    brands: dict[str, Terms]
    portfolios: dict[str, PortfolioTerms] = {}


@dataclass(frozen=True, slots=True)
class Auctions:
    """A file, n rows in its order."""

    t_s: Floats
    brand: Indices  # position in `names`
    names: list[str]
    predicted_revenue: Floats  # micros, all four
    predicted_cost: Floats
    revenue: Floats
    cost: Floats

    def __len__(self) -> int:
        return len(self.t_s)


@dataclass(frozen=True, slots=True)
class Market:
    """The brands of a file, by their position in `names`, and the portfolios that they share."""

    names: list[str]
    limits: list[Limits]
    lambda0: list[float | None]
    portfolio: list[str | None]
    portfolios: dict[str, Limits]

    def groups(self) -> Iterator[tuple[str, list[int], Limits]]:
        """(name, members, shared limits): portfolios, and brands alone."""
        shared: dict[str, list[int]] = {}
        for position, portfolio_id in enumerate(self.portfolio):
            if portfolio_id is None:
                yield self.names[position], [position], Limits()
            else:
                shared.setdefault(portfolio_id, []).append(position)
        for portfolio_id, members in shared.items():
            yield portfolio_id, members, self.portfolios[portfolio_id]


def read_auctions(path: Path) -> Auctions:
    """
    Raises:
        BadInput: it cannot be read, or a row is wrong; the first row after the header is row 1.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8", index_col=False)
    except pd.errors.EmptyDataError:
        raise BadInput(f"{path} is empty") from None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} is not a CSV file: {str(error).splitlines()[0]}") from None
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise BadInput(f"{path}: no column {', '.join(missing)}")
    if not len(frame):
        raise BadInput(f"{path} has no rows")
    numbers = {name: _numbers(path, frame[name]) for name in ("t_s", *MONEY)}
    back = np.flatnonzero(np.diff(numbers["t_s"]) < 0.0)
    if len(back):
        raise BadInput(f"{path}, row {back[0] + 2}: t_s goes back in time")
    codes, names = pd.factorize(frame["brand_id"])
    bad = [code for code, name in enumerate(names) if not ID.fullmatch(name)]
    if bad:
        row = int(np.argmax(np.isin(codes, bad)))
        raise BadInput(f"{path}, row {row + 1}: brand_id {_quoted(names[codes[row]])} is not an id")
    return Auctions(numbers["t_s"], codes, [str(name) for name in names], *(numbers[name] for name in MONEY))


def _numbers(path: Path, column: pd.Series[str]) -> Floats:
    numbers: Floats = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    for wrong, what in (
        (~np.isfinite(numbers), "is not a number"),
        (numbers < 0.0, "is negative"),
        (numbers > MONEY_MOST, "is too large"),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            raise BadInput(f"{path}, row {row + 1}: {column.name} {_quoted(column.iloc[row])} {what}")
    return numbers


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")


def read_market(path: Path | None, names: list[str], default: Terms | None = None) -> Market:
    """
    Args:
        path: brands.json; None: every brand stands alone on the default.
        default: for brands that the document does not name.

    Raises:
        BadInput: the document is wrong, or a brand has no terms.
    """
    document = Document(brands={}) if path is None else _read_document(path)
    terms: list[Terms] = []
    for name in names:
        mine = document.brands.get(name, default)
        if mine is None:
            raise BadInput(f"{path}: nothing on brand {name}, and no --target-roas")
        if mine.portfolio_id is not None and mine.portfolio_id not in document.portfolios:
            raise BadInput(f"{path}: brand {name} is in portfolio {mine.portfolio_id}, which is not there")
        terms.append(mine)
    return Market(
        names,
        [Limits(mine.target_roas, mine.daily_budget_micros) for mine in terms],
        [mine.lambda0 for mine in terms],
        [mine.portfolio_id for mine in terms],
        {name: Limits(one.target_roas, one.daily_budget_micros) for name, one in document.portfolios.items()},
    )


def _read_document(path: Path) -> Document:
    try:
        return Document.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{path}: {where + ': ' if where else ''}{first['msg']}") from None


@dataclass(slots=True)
class Account:
    """A brand's or a portfolio's budget, as it stands."""

    budget: Budget


class Purse:
    """What a brand pays from: its own account and its portfolio's, both or neither. Leases could stand here instead."""

    __slots__ = ("_accounts", "_owed")

    def __init__(self, accounts: Sequence[Account]) -> None:
        self._accounts = tuple(accounts)
        self._owed = 0.0  # of a micro: the ledger knows whole ones only

    def reserve(self, predicted_cost_micros: float) -> int | None:
        """Micros held for a win, its predicted cost rounded up; None when an account does not have them."""
        held = math.ceil(predicted_cost_micros)
        for account in self._accounts:
            if account.budget.available_micros is not None and held > account.budget.available_micros:
                return None
        for account in self._accounts:
            account.budget = account.budget.lend(held).hold(held)
        return held

    def settle(self, held_micros: int, cost_micros: float) -> None:
        """A win's cost replaces its hold; a fraction of a micro waits for the next one's."""
        paid = math.floor(cost_micros + self._owed)
        self._owed += cost_micros - paid
        for account in self._accounts:
            account.budget = account.budget.settle(held_micros, paid)


class Decided(NamedTuple):
    won: npt.NDArray[np.bool_]
    lambda_: Floats


def simulate(
    auctions: Auctions, market: Market, horizon_s: float, realised: bool = False, say: Say = lambda _line: None
) -> Decided:
    """One pass: every auction is decided on what was known before it.

    Args:
        horizon_s: length of the budget day.
        realised: the controller learns from realised revenue; else from the predicted revenue of what was won.

    Raises:
        LedgerError: money beyond what an account can hold.
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
    begin, said = 0, time.monotonic()
    while begin < n:
        now = float(at[begin])
        # Where times are coarse, a decision stands until the next of them.
        reach = max(reach_at(now), now / float(distinct[begin]))
        run.look(now, reach)
        end = max(int(np.searchsorted(at, now + reach_at(now))), int(np.searchsorted(at, now, side="right")))
        rows = slice(begin, end)
        lambdas[rows] = np.array(run.kappas)[auctions.brand[rows]]
        won[rows] = run.decide([column[rows] for column in columns])
        begin = end
        if time.monotonic() - said > PROGRESS_S:
            said = time.monotonic()
            say(f"{end:,} of {n:,} auctions, {won[:end].sum():,} won")
    return Decided(won, lambdas)


class _Pass:
    """The controller's and the ledger's state of one pass, by position of the brand."""

    def __init__(self, market: Market) -> None:
        self.brands = [Brand(*pair) for pair in zip(market.limits, market.lambda0, strict=True)]
        self.kappas = [brand.kappa for brand in self.brands]
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

    def look(self, at: float, reach: float) -> None:
        """Hand in what was seen and earned since the last look, and let the groups concerned be solved again."""
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
                self.kappas[b] = self.brands[b].kappa
        self._news = set()

    def decide(self, columns: Sequence[list[float]]) -> list[bool]:
        """Auctions between two looks, as lists: brand, predicted revenue and cost, revenue fed back, cost."""
        kappas, purses, sums, deltas = self.kappas, self._purses, self._sums, self._deltas
        self._news.update(columns[0])  # type: ignore[arg-type]  # positions are integers
        won: list[bool] = []
        for brand, predicted_revenue, predicted_cost, revenue, cost in zip(*columns, strict=True):
            b = int(brand)
            held = None
            if predicted_revenue - kappas[b] * predicted_cost >= 0.0:
                held = purses[b].reserve(predicted_cost)
            if held is not None:
                purses[b].settle(held, cost)
                earned = sums[b]
                earned[0] += revenue
                earned[1] += predicted_revenue
                earned[2] += cost
            deltas[b].add(predicted_revenue, predicted_cost)
            won.append(held is not None)
        return won


def _account(owner: str, name: str, limits: Limits) -> Account:
    budget = None if limits.budget_micros is None else int(limits.budget_micros)
    return Account(Budget.of(owner, name, DAY, budget))


def fitted(path: Path, terms: Terms | None, brands: Path | None, horizon_s: float | None) -> dict[str, float]:
    """λ0 of every brand of an earlier file with enough opportunities; budgets scaled by its length ÷ horizon."""
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


def write_decisions(path: Path, decided: Decided) -> None:
    """All of it or nothing: it appears by one rename.

    Raises:
        OSError: it cannot be written there.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("w", encoding="ascii", newline="") as file:
            file.write("won,lambda\n")
            file.writelines(
                f"{won:d},{lambda_!r}\n"
                for won, lambda_ in zip(decided.won.tolist(), decided.lambda_.tolist(), strict=True)
            )
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def summary(auctions: Auctions, market: Market, won: npt.NDArray[np.bool_]) -> list[str]:
    """Lines for people: each brand while they are few, portfolios, and all."""
    lines = []
    for name, members, shared in market.groups():
        if len(market.names) <= FEW:
            lines += [
                _line(f"brand {market.names[b]}", auctions, won & (auctions.brand == b), market.limits[b])
                for b in members
            ]
        if shared != Limits():
            lines.append(_line(f"portfolio {name}", auctions, won & np.isin(auctions.brand, members), shared))
    if len(market.names) > 1:
        lines.append(_line(f"{len(market.names)} brands", auctions, won, Limits()))
    return lines


def _line(name: str, auctions: Auctions, mine: npt.NDArray[np.bool_], limits: Limits) -> str:
    cost = float(auctions.cost[mine].sum())
    predicted, real = float(auctions.predicted_revenue[mine].sum()), float(auctions.revenue[mine].sum())
    parts = [
        f"{name}: won {int(mine.sum()):,}, revenue {predicted:.0f} µ predicted, {real:.0f} µ real, cost {cost:.0f} µ"
    ]
    if cost > 0.0:
        parts.append(f"ROAS {predicted / cost:.4f} predicted, {real / cost:.4f} real")
    if limits.target_roas is not None:
        parts.append(f"target {limits.target_roas:g}")
    if limits.budget_micros is not None:
        parts.append(f"{cost / limits.budget_micros:.2%} of its budget")
    return ", ".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.simulate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--auctions", type=Path, metavar="FILE", help="csv or csv.gz, in order of t_s")
    parser.add_argument("--out", type=Path, metavar="DECISIONS.csv", help="what to write")
    parser.add_argument("--target-roas", type=float, metavar="T")
    parser.add_argument("--budget-micros", type=float, metavar="B", help="of each brand, over the horizon")
    parser.add_argument("--lambda0", type=float, metavar="X", help="last night's λ (default: cold, λ = target)")
    parser.add_argument("--feedback", choices=("predicted", "realised"), default="predicted")
    parser.add_argument("--horizon-s", type=float, metavar="S", help="length of the budget day (default: the last t_s)")
    parser.add_argument("--brands", type=Path, metavar="brands.json", help="terms of several brands and portfolios")
    parser.add_argument("--fit-lambda", type=Path, metavar="FILE", help="print λ0 from an earlier file; start from it")
    chosen = parser.parse_args(arguments)
    try:
        return _command(chosen)
    except (BadInput, LedgerError) as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"cannot write {chosen.out}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130


def _command(chosen: argparse.Namespace) -> int:
    started = time.monotonic()
    terms = _terms(chosen)
    if (chosen.auctions is None) != (chosen.out is None):
        raise BadInput("--auctions and --out go together")
    if chosen.auctions is None and chosen.fit_lambda is None:
        raise BadInput("--auctions and --out are needed, or --fit-lambda")
    if chosen.fit_lambda is not None and chosen.lambda0 is not None:
        raise BadInput("--lambda0 and --fit-lambda: one of them")
    if chosen.out is not None and chosen.out.is_dir():
        raise BadInput(f"--out {chosen.out} is a folder")
    if chosen.out is not None and not chosen.out.absolute().parent.is_dir():
        raise BadInput(f"--out {chosen.out}: there is no folder {chosen.out.parent}")
    if chosen.out is not None and chosen.out.exists() and not chosen.out.is_file():
        raise BadInput(f"--out {chosen.out} is not a file")
    given = [path for path in (chosen.auctions, chosen.fit_lambda, chosen.brands) if path is not None and path.exists()]
    if chosen.out is not None and chosen.out.exists() and any(chosen.out.samefile(path) for path in given):
        raise BadInput(f"--out {chosen.out} would overwrite what is read")
    auctions = None if chosen.auctions is None else read_auctions(chosen.auctions)
    horizon_s = chosen.horizon_s
    if horizon_s is None and auctions is not None:
        horizon_s = float(auctions.t_s[-1]) or 1.0
    found: dict[str, float] = {}
    if chosen.fit_lambda is not None:
        found = fitted(chosen.fit_lambda, terms, chosen.brands, horizon_s)
        if not found:
            raise BadInput(f"{chosen.fit_lambda}: too few opportunities to fit λ")
        print(next(iter(found.values())) if len(found) == 1 else json.dumps(found), flush=True)
    if auctions is None:
        return 0
    market = read_market(chosen.brands, auctions.names, terms)
    lambda0 = [found.get(name, given) for name, given in zip(market.names, market.lambda0, strict=True)]
    market = replace(market, lambda0=lambda0)
    decided = simulate(auctions, market, horizon_s, chosen.feedback == "realised", _to_stderr)
    write_decisions(chosen.out, decided)
    for line in summary(auctions, market, decided.won):
        _to_stderr(line)
    _to_stderr(f"{len(auctions):,} auctions in {time.monotonic() - started:.1f} s → {chosen.out}")
    return 0


def _terms(chosen: argparse.Namespace) -> Terms | None:
    """What the options say of every brand that no document names; None when they say nothing."""
    for name, least_allowed in (
        ("target_roas", False),
        ("budget_micros", False),
        ("lambda0", True),
        ("horizon_s", False),
    ):
        value = getattr(chosen, name)
        if value is not None and not (math.isfinite(value) and (value > 0.0 or (least_allowed and value == 0.0))):
            bound = "0 or more" if least_allowed else "above 0"
            raise BadInput(f"--{name.replace('_', '-')} {value} is not a finite number {bound}")
    if chosen.target_roas is None:
        if chosen.brands is None:
            raise BadInput("--target-roas is needed, or --brands")
        return None
    budget = None
    if chosen.budget_micros is not None:
        budget = math.floor(chosen.budget_micros)
        if not 0 < budget <= MONEY_MOST:
            raise BadInput(f"--budget-micros {chosen.budget_micros:g} is not between 1 and {MONEY_MOST}")
    return Terms(target_roas=chosen.target_roas, daily_budget_micros=budget, lambda0=chosen.lambda0)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
