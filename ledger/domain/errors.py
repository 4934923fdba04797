"""The errors that the ledger raises.

LedgerError
├── Fenced               another ledger has taken a newer epoch: this one may not write any more
│   └── LayoutReplaced       … with another number of shards: no ledger with the old number may write, either
├── LedgerUnavailable    the ledger or its database did not answer; the outcome is unknown, a retry does no harm
│   ├── StatementRefused     the database refused a statement: the calls of the transaction are tried one by one
│   └── OtherShard           the brand or portfolio belongs to another shard: ask that
├── BudgetExhausted      more was asked for than is available
├── MoneyOutOfRange      an amount or a sum beyond ±(2^53 − 1) micros
├── NotFound             no such brand or portfolio
├── CurrencyFixed        the currency cannot change, because money has moved in it
├── PreconditionFailed   the settings are not the ones that the caller has seen
├── SettingsInvalid      a change would make settings that are not allowed
├── PortfolioUnknown     a brand names a portfolio that does not exist
└── PortfolioMismatch    a member must have the portfolio's currency and time zone
"""

from __future__ import annotations

from ledger.former_names import pickled_as


@pickled_as("ledger.errors")
class LedgerError(Exception):
    """The ledger did not do what was asked. Callers handle it; it is not a bug."""


@pickled_as("ledger.errors")
class Fenced(LedgerError):
    def __init__(self, shard: int, epoch: int, newest: int) -> None:
        super().__init__(shard, epoch, newest)  # pickle rebuilds from these
        self.shard, self.epoch, self.newest = shard, epoch, newest

    def __str__(self) -> str:
        if not self.epoch:
            return f"shard {self.shard}: a younger generation of its ledger runs"
        return f"shard {self.shard}: another ledger has taken epoch {self.newest}, epoch {self.epoch} may not write"


@pickled_as("ledger.errors")
class LayoutReplaced(Fenced):
    def __init__(self, shard: int, epoch: int, newest: int, shards: int) -> None:
        super().__init__(shard, epoch, newest)
        self.args = (shard, epoch, newest, shards)  # pickle rebuilds from these
        self.shards = shards

    def __str__(self) -> str:
        return f"shard {self.shard}: this ledger's number of shards is out of date, there are {self.shards} now"


@pickled_as("ledger.errors")
class LedgerUnavailable(LedgerError):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the ledger is not available: {self.reason}"


@pickled_as("ledger.errors")
class StatementRefused(LedgerUnavailable):
    def __str__(self) -> str:
        return f"the database refused the ledger's statement: {self.reason}"


@pickled_as("ledger.errors")
class OtherShard(LedgerUnavailable):
    def __init__(self, kind: str, id_: str, shard: int) -> None:
        super().__init__(f"{kind} {id_} belongs to shard {shard}; try again")
        self.args = (kind, id_, shard)  # pickle rebuilds from these
        self.kind, self.id, self.shard = kind, id_, shard


@pickled_as("ledger.errors")
class BudgetExhausted(LedgerError):
    def __init__(self, owner: str, owner_id: str, amount_micros: int, available_micros: int) -> None:
        super().__init__(owner, owner_id, amount_micros, available_micros)
        self.owner, self.owner_id = owner, owner_id
        self.amount_micros, self.available_micros = amount_micros, available_micros

    def __str__(self) -> str:
        return f"{self.owner} {self.owner_id}: {self.amount_micros} µ asked, {self.available_micros} µ available"


@pickled_as("ledger.errors")
class MoneyOutOfRange(LedgerError):
    def __init__(self, micros: int) -> None:
        super().__init__(micros)
        self.micros = micros

    def __str__(self) -> str:
        return f"{self.micros} µ is out of range: amounts and their sums stay within ±(2^53 − 1) µ"


@pickled_as("ledger.errors")
class NotFound(LedgerError):
    def __init__(self, kind: str, id_: str) -> None:
        super().__init__(kind, id_)
        self.kind, self.id = kind, id_

    def __str__(self) -> str:
        return f"no such {self.kind}: {self.id}"


@pickled_as("ledger.errors")
class CurrencyFixed(LedgerError):
    def __init__(self, kind: str, id_: str, currency: str) -> None:
        super().__init__(kind, id_, currency)
        self.kind, self.id, self.currency = kind, id_, currency

    def __str__(self) -> str:
        return f"{self.kind} {self.id}: its currency stays {self.currency}, because money has moved in it"


@pickled_as("ledger.errors")
class PreconditionFailed(LedgerError):
    def __init__(self, kind: str, id_: str, why: str) -> None:
        super().__init__(kind, id_, why)
        self.kind, self.id, self.why = kind, id_, why

    def __str__(self) -> str:
        return f"{self.kind} {self.id}: {self.why}"


@pickled_as("ledger.errors")
class SettingsInvalid(LedgerError):
    def __init__(self, mistakes: tuple[tuple[str, str, str], ...]) -> None:
        """`mistakes`: (JSON pointer, message, code) of each."""
        super().__init__(mistakes)
        self.mistakes = mistakes

    def __str__(self) -> str:
        return "; ".join(f"{pointer}: {message}" for pointer, message, _ in self.mistakes)


@pickled_as("ledger.errors")
class PortfolioUnknown(LedgerError):
    def __init__(self, portfolio_id: str) -> None:
        super().__init__(portfolio_id)
        self.portfolio_id = portfolio_id

    def __str__(self) -> str:
        return f"no such portfolio: {self.portfolio_id}"


@pickled_as("ledger.errors")
class PortfolioMismatch(LedgerError):
    def __init__(self, portfolio_id: str, brand_id: str, field: str, wanted: str, has: str) -> None:
        super().__init__(portfolio_id, brand_id, field, wanted, has)
        self.portfolio_id, self.brand_id, self.field, self.wanted, self.has = portfolio_id, brand_id, field, wanted, has

    def __str__(self) -> str:
        return (
            f"portfolio {self.portfolio_id} and its member {self.brand_id} must have the same {self.field}: "
            f"the portfolio's is {self.wanted}, the member's {self.has}"
        )
