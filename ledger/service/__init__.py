"""One shard's ledger without Ray: transactions, administration, counters, and the loop that sets λ."""
