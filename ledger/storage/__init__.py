"""The ledger's SQL: reads and writes rows, in transactions that check the shard's epoch."""
