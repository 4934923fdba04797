"""Who may spend what: budgets, leases, reservations, settlement, λ and throttle.

A win's way: an ingress replica draws it from a lease in memory (`lease.py`, pure) and tells the ledger in beats:
`actor.py` (the one writer of a shard, on Ray; `reach.py` finds it) → `writer.py` (many calls, one transaction) →
`book.py` (`Ledger`: reads, decides, writes; `register.py` and `administration.py` are its lower floors) → `leasing.py`,
`posting.py`, `page.py` and the rules in `account.py`, `reservation.py`, `settlement.py` (pure) → `store.py` and
`event_store.py` (SQL). `ids.py` makes the reservation ids that both sides read.

λ's way: `seen.py` (what a replica could have won, as `sketch.py`) → `pilot.py` (feeds it, on the actor) → `steering.py`
→ `resolve.py` (κ; all pure) → `terms.py`, which the next beat brings to the replicas. `counters.py` keeps the Redis
counters, the throttle (`pacing.py`) and what /metrics shows; `audit.py` recomputes the money from the tables alone.
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
from ledger.wire import pack_beat, unpack_beat
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
    "pack_beat",
    "read_gauges",
    "replace",
    "shard_of",
    "unpack_beat",
]
