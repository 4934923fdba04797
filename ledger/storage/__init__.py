"""The ledger's SQL: rows in, rows out, every write fenced by the shard's epoch."""
