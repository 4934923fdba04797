"""How long the routes wait for others."""

LEDGER_WAIT_S = 10.0
"""For an answer of the ledger."""
SYNC_BEFORE_READ_S = 1.0
"""Figures that are shown wait so long for what the replicas have not told the ledger yet."""
SYNC_AFTER_WRITE_S = 2.0
"""A change waits so long for the replicas to hear of it: whoever has put a brand may score it next, wherever."""
