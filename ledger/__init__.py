"""Who may spend what: budgets, reservations, settlement, λ and throttle.

A claim's way: `actor.py` (the one writer, on Ray) → `writer.py` (many calls, one transaction) → `book.py` (`Ledger`:
reads, decides, writes) → `claims.py`, `posting.py`, `page.py` and the rules in `account.py`, `reservation.py`,
`settlement.py`, `pacing.py` (pure) → `store.py` (SQL). `counters.py` keeps the Redis counters and what /metrics shows;
`audit.py` recomputes everything from the tables alone.

Every win asks the ledger. An ingress replica's lease (a block of a brand's budget that it draws on in memory) will be
granted by `book.py` and counted in `leased_micros`, which is 0 until then; its arithmetic belongs in `account.py`. A
second shard is a second actor under another shard number: `store.py` fences each by its own epoch row.
"""

from ledger.account import MONEY_MOST, Budget
from ledger.actor import LedgerActor, connect
from ledger.book import Ledger
from ledger.counters import BrandGauges, Counters, Gauges, PortfolioGauges, read_gauges
from ledger.errors import (
    BudgetExhausted,
    CurrencyFixed,
    Fenced,
    LedgerError,
    LedgerUnavailable,
    MoneyOutOfRange,
    NotFound,
    PortfolioMismatch,
    PortfolioUnknown,
)
from ledger.pacing import DaySums, admitted, current_roas, kappa, lambda_
from ledger.settings import LedgerSettings, RoasSettings
from ledger.types import Award, BrandTerms, Claim, Event, Offer, Result, Terms, Tuple, Win
from ledger.writer import Writer

__all__ = [
    "MONEY_MOST",
    "Award",
    "BrandGauges",
    "BrandTerms",
    "Budget",
    "BudgetExhausted",
    "Claim",
    "Counters",
    "CurrencyFixed",
    "DaySums",
    "Event",
    "Fenced",
    "Gauges",
    "Ledger",
    "LedgerActor",
    "LedgerError",
    "LedgerSettings",
    "LedgerUnavailable",
    "MoneyOutOfRange",
    "NotFound",
    "Offer",
    "PortfolioGauges",
    "PortfolioMismatch",
    "PortfolioUnknown",
    "Result",
    "RoasSettings",
    "Terms",
    "Tuple",
    "Win",
    "Writer",
    "admitted",
    "connect",
    "current_roas",
    "kappa",
    "lambda_",
    "read_gauges",
]
