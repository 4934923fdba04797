"""The ledger as a Ray actor: its generations, who finds and replaces it, how it wakes replicas."""
