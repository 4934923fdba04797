"""Who may spend what: budgets, leases, reservations, settlement, λ and throttle.

Imports nothing but former names, so that the money rules in `ledger.domain` need only the standard library.
"""

from ledger.former_names import keep

keep(
    {
        "ledger.actor": "ledger.runtime.actor",
        "ledger.errors": "ledger.domain.errors",
        "ledger.pacing": "ledger.bidding.revenue_completion",
        "ledger.reach": "ledger.runtime.generations",
        "ledger.settings": "ledger.domain.settings",
        "ledger.types": "ledger.domain.messages",
    }
)
