"""One shard's ledger without Ray: transactions, brands and portfolios, counters, and the loop that sets λ."""
