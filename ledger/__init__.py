"""Who may spend what: budgets, reservations, settlement, λ and throttle.

A win's way: an ingress replica draws it from a lease in memory (`lease.py`, pure) and tells the ledger in beats:
`actor.py` (the one writer of a shard, on Ray) → `writer.py` (many calls, one transaction) → `book.py` (`Ledger`: reads,
decides, writes) → `leasing.py`, `posting.py`, `page.py` and the rules in `account.py`, `reservation.py`,
`settlement.py`, `pacing.py` (pure) → `store.py` (SQL). `ids.py` makes the reservation ids that both sides read.
`counters.py` keeps the Redis counters and what /metrics shows; `audit.py` recomputes everything from the tables alone.
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
from ledger.lease import NO_LEASE, Leases
from ledger.pacing import DaySums, admitted, current_roas, kappa, lambda_
from ledger.settings import LedgerSettings, RoasSettings
from ledger.shards import shard_of
from ledger.types import (
    Award,
    Beat,
    BrandTerms,
    Claim,
    Event,
    Grant,
    Line,
    Offer,
    Reply,
    Result,
    Terms,
    Tuple,
    Win,
    WinRecord,
)
from ledger.writer import Writer

__all__ = [
    "MONEY_MOST",
    "NO_LEASE",
    "Award",
    "Beat",
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
    "Grant",
    "Leases",
    "Ledger",
    "LedgerActor",
    "LedgerError",
    "LedgerSettings",
    "LedgerUnavailable",
    "Line",
    "MoneyOutOfRange",
    "NotFound",
    "Offer",
    "PortfolioGauges",
    "PortfolioMismatch",
    "PortfolioUnknown",
    "Reply",
    "Result",
    "RoasSettings",
    "Terms",
    "Tuple",
    "Win",
    "WinRecord",
    "Writer",
    "admitted",
    "connect",
    "current_roas",
    "kappa",
    "lambda_",
    "read_gauges",
    "shard_of",
]
