"""The ledger as a Ray actor: how replicas find, start and replace it, and how it makes them beat at once."""
