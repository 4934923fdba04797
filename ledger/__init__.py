"""Who may spend what: budgets, leases, reservations, settlement, λ and throttle.

Nothing is imported here, so that the money rules in `ledger.domain` can be used on bare Python.
"""
