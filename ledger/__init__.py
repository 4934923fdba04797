"""Who may spend what: budgets, reservations, settlement, λ and throttle.

A win's way: an ingress replica draws it from a lease in memory (`lease.py`, pure) and tells the ledger in beats:
`actor.py` (the one writer of a shard, on Ray) → `writer.py` (many calls, one transaction) → `book.py` (`Ledger`: reads,
decides, writes) → `leasing.py`, `posting.py`, `page.py` and the rules in `account.py`, `reservation.py`,
`settlement.py`, `pacing.py` (pure) → `store.py` (SQL). `ids.py` makes the reservation ids that both sides read.
`counters.py` keeps the Redis counters and what /metrics shows; `audit.py` recomputes everything from the tables alone.

Portfolios are shared out among ledgers by hash (`shards.py`); each is fenced by its own epoch row (`store.py`), and
`reach.py` finds them, or starts the next one where one has gone silent.
"""

from ledger.account import MONEY_MOST, Budget
from ledger.actor import LedgerActor
from ledger.book import Ledger
from ledger.counters import BrandGauges, Counters, Gauges, PortfolioGauges, read_gauges
from ledger.errors import (
    BudgetExhausted,
    CurrencyFixed,
    Fenced,
    LayoutReplaced,
    LedgerError,
    LedgerUnavailable,
    MoneyOutOfRange,
    NotFound,
    OtherShard,
    PortfolioMismatch,
    PortfolioUnknown,
)
from ledger.lease import NO_LEASE, Leases
from ledger.pacing import DaySums, admitted, current_roas, kappa, lambda_
from ledger.reach import Reached, connect, replace
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
    "LayoutReplaced",
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
    "OtherShard",
    "PortfolioGauges",
    "PortfolioMismatch",
    "PortfolioUnknown",
    "Reached",
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
    "replace",
    "shard_of",
]
