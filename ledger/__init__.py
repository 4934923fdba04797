"""Who may spend what: budgets, leases, reservations, settlement, λ and throttle.

Nothing of it is imported here, so that the money rules in `ledger.domain` can be used on bare Python.
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
