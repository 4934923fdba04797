"""A replica's side of the ledger: wins drawn on leases in memory, told to the ledger in beats."""
