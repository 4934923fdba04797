"""A replica's side of the ledger: draws wins from leases in memory, and reports them to the ledger in beats."""
